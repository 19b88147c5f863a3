"""Conversations, as chat data sets and trainers write them -> turns of segments.

A row has ``messages`` (a list, or its JSON), or ``prompt`` and ``completion``, each a text or such a list. A
message is {"role": ..., "content": ...} or {"from": ..., "value": ...}. A content is a text, or a list of
parts, {"type": "text", "text": ...} and {"type": "image"}. An image's part holds it, or takes the next one of
the row's own pictures. If there are pictures but no parts for them, each ``<image>`` in the texts is one.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..tokenizers.documents import END_OF_TURN, Mark
from .cells import STORED_AS, RawImage, Unusable, raw_images, text_of
from .content import kind_of
from .shapes import parsed

Stored = str | RawImage | Mark
"""A segment as a row holds it."""
Note = Callable[[str], None]
"""Called with what is left out of a row by design, once for each thing."""

PLACEHOLDER = "<image>"
SYSTEM, USER, ANSWER = "system", "user", "assistant"
_ROLES = {
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("user", "human"), USER),
    **dict.fromkeys(("assistant", "gpt", "bing", "chatgpt"), ANSWER),
}
_MESSAGE = frozenset({"role", "from", "content", "value", "name", "id", "weight"})
_PART = frozenset(
    {"type", "text", "content", "index", "source", "detail", "format", "media_type", *STORED_AS}
)
_TEXTS, _IMAGES = ("text", "input_text", "output_text"), ("image", "image_url", "input_image")

_TOOLS = ("tool_calls", "function_call")


class Place(NamedTuple):
    """Where one of the row's own pictures belongs."""

    number: int | None = None
    """Which one; None is the next."""


Messages = list[tuple[str, list[str | RawImage | Place]]]
"""Roles and contents."""


def conversation(
    row: Mapping[str, Any], folder: Path | None = None, note: Note = lambda _: None
) -> list[Stored]:
    """The segments of a conversation, with the end of a turn between prompts and answers.

    Consecutive messages of one side are one turn. Prompts after the last answer are left out and noted:
    nothing is learned from them.

    Args:
        row: What ``Plan.row`` returns for the shape ``conversations``.
        folder: What relative file names are relative to.

    Raises:
        Unusable: The conversation cannot be used; says why.
    """
    said = _messages(row)
    pictures = [image for image in raw_images(row.get("image"), folder) if image is not None]
    messages = [(role, _content(content, folder)) for role, content in said]
    if pictures:
        plain = not any(isinstance(content, list) for _, content in said)
        messages = _with_places(messages, len(pictures), plain)
    elif "image" in row and any(PLACEHOLDER in str(content) for _, content in said):
        note("<image> as text: the row has no picture")
    messages = _filled(messages, pictures)
    answers = [number for number, (role, _) in enumerate(messages) if role == ANSWER]
    if not answers:
        raise Unusable("conversation without an answer")
    if answers[0] == 0:
        raise Unusable("conversation starts with an answer")
    for _, content in messages[answers[-1] + 1 :]:
        if content:
            note("message after the last answer")
    segments: list[Stored] = []
    for answering, turn in groupby(messages[: answers[-1] + 1], lambda message: message[0] == ANSWER):
        found = [segment for _, part in turn for segment in part]
        if answering and not found:
            raise Unusable("empty answer in a conversation")
        segments += [*found, END_OF_TURN]
    return segments[:-1]


def marked(text: str) -> list[str | None]:
    """A text at its placeholders: None is a picture. A line break between one at the start or the end of the
    text and the rest is left out, as LLaVA does.
    """
    pieces = text.split(PLACEHOLDER)
    for number in range(1, len(pieces)):  # after those that the text starts with
        if any(pieces[:number]):
            break
        pieces[number] = pieces[number].removeprefix("\n")
    for number in range(len(pieces) - 2, -1, -1):  # before those that it ends with
        if any(pieces[number + 1 :]):
            break
        pieces[number] = pieces[number].removesuffix("\n")
    segments = [segment for piece in pieces for segment in (None, piece)][1:]
    return [segment for segment in segments if segment != ""]


def mismatch(places: int, pictures: int) -> Unusable:
    """Says that there is another number of pictures than of places for them."""
    return Unusable("placeholders and images do not match", f"{places} placeholders, {pictures} images")


def _messages(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Roles and contents."""
    if "messages" in row:
        messages = _list_of(row["messages"])
    else:
        prompt, completion = row.get("prompt"), row.get("completion")
        asked = text_of(row.get("input"))
        if asked:
            prompt = f"{text_of(prompt) or ''}\n{asked}"
        messages = [*_list_of(prompt, USER), *_list_of(completion, ANSWER)]
    if system := text_of(row.get("system")):
        messages = [{"role": SYSTEM, "content": system}, *messages]
    found = []
    for message in messages:
        name = message.get("role", message.get("from"))
        role = _ROLES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            raise Unusable("unknown role in a conversation", repr(name)[:80])
        _refuse_unread("message", message, _MESSAGE)
        content = message.get("content")
        found.append((role, message.get("value") if content is None else content))
    return found


def _list_of(messages: Any, role: str | None = None) -> list[Mapping[str, Any]]:
    """Messages; a text alone is one of ``role``, or else the JSON of a list."""
    if role is not None and not isinstance(messages, list):
        return [{"role": role, "content": text_of(messages)}]
    if isinstance(messages, str | bytes):
        try:
            messages = parsed(messages)
        except ValueError as error:
            raise Unusable("messages are not a list of objects", f"nor its JSON: {error}") from None
    if isinstance(messages, Mapping) and all(isinstance(values, list) for values in messages.values()):
        if len({len(values) for values in messages.values()}) == 1:  # how `datasets` stored lists of objects
            messages = [dict(zip(messages, values)) for values in zip(*messages.values())]
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise Unusable("messages are not a list of objects", repr(messages)[:80])
    return messages


def _content(content: Any, folder: Path | None) -> list[str | RawImage | Place]:
    if not isinstance(content, list | Mapping):
        return [text for text in [text_of(content)] if text]
    segments: list[str | RawImage | Place] = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        kind = part.get("type") if isinstance(part, Mapping) else part
        if kind not in (*_TEXTS, *_IMAGES):
            raise Unusable("unknown type of part in a conversation", repr(kind)[:80])
        _refuse_unread("part", part, _PART)
        if kind in _TEXTS:
            text = text_of(part.get("content") if part.get("text") is None else part["text"])
            if text is None:
                raise Unusable("part without its text in a conversation", f"it has {', '.join(part)}")
            segments += [text] if text else []
        elif any(part.get(name) is not None for name in ("source", *STORED_AS)):
            images = raw_images(part if part.get("source") is None else part["source"], folder)
            segments += [image for image in images if image is not None]
        else:
            number = part.get("index")
            segments.append(Place(number if type(number) is int else None))
    return segments


def _with_places(messages: Messages, pictures: int, plain: bool) -> Messages:
    """The messages with places for the row's own pictures: those of their parts, or else the placeholders in
    their texts, or else the beginning of the user's first message.

    Args:
        plain: All contents are texts.
    """
    segments = [segment for _, content in messages for segment in content]
    if any(isinstance(segment, Place) for segment in segments):
        return messages
    if any(isinstance(segment, str) and PLACEHOLDER in segment for segment in segments):
        return [
            (role, [new for segment in content for new in _marked(segment)]) for role, content in messages
        ]
    first = next((number for number, (role, _) in enumerate(messages) if role == USER), None)
    if first is not None and plain:
        role, content = messages[first]
        messages[first] = role, [*[Place()] * pictures, *content]
    return messages


def _marked(segment: str | RawImage | Place) -> list[str | RawImage | Place]:
    if not isinstance(segment, str):
        return [segment]
    return [Place() if piece is None else piece for piece in marked(segment)]


def _filled(messages: Messages, pictures: Sequence[RawImage]) -> list[tuple[str, list[Stored]]]:
    """The messages with the row's own pictures in their places."""
    places = [segment for _, content in messages for segment in content if isinstance(segment, Place)]
    numbers = [number if place.number is None else place.number for number, place in enumerate(places)]
    if set(numbers) != set(range(len(pictures))):
        raise mismatch(len(places), len(pictures))
    waiting = iter(numbers)
    return [
        (role, [pictures[next(waiting)] if isinstance(segment, Place) else segment for segment in content])
        for role, content in messages
    ]


def _refuse_unread(what: str, value: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse an object with a field of content that is not read, as the calls of a tool."""
    for name, part in value.items():
        if name not in known and part and (name in _TOOLS or kind_of(name, [part])):
            raise Unusable(f"unknown field of a {what} in a conversation", repr(name)[:80])


def answer_modalities(
    row: Mapping[str, Any], names: Sequence[str], folder: Path | None = None
) -> frozenset[str]:
    """The modalities in the answers of a conversation, among ``names``; none if it cannot be used.

    Args:
        row: What ``Plan.row`` returns for the shape ``conversations``.
    """
    try:
        segments = conversation(row, folder)
    except Unusable:
        return frozenset()
    found, answering = set(), False
    for segment in segments:
        if isinstance(segment, Mark):
            answering = not answering
        elif answering:
            found.add("text" if isinstance(segment, str) else "image")
    return frozenset(kind for kind in found if kind in names)


def balanced(kinds: Sequence[frozenset[str]], rng: np.random.Generator) -> np.ndarray:
    """Numbers of rows, those of each kind as often as those of the most frequent one, shuffled.

    Without it a model learns how often images are answered, rather than when (arXiv:2405.09818, section 3.2).
    Rows of a rarer kind are repeated whole, and the rest of them is drawn without repetition. Rows without a
    kind, which cannot be used, come once.
    """
    groups: dict[frozenset[str], list[int]] = {}
    for row, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(row)
    largest = max(map(len, groups.values()), default=0)
    rows: list[int] = []
    for group in groups.values():
        whole, rest = divmod(largest, len(group)) if kinds[group[0]] else (1, 0)
        rows += group * whole + rng.permutation(group)[:rest].tolist()
    return rng.permutation(rows)
