"""Conversations, in the ``messages`` format of chat data sets, as turns of segments.

A row has ``messages``, a list of {"role": ..., "content": ...}. A content is a text, or a list of parts,
{"type": "text", "text": ...} and {"type": "image"}; an image's part holds it as "image" (bytes, path, or what
``datasets`` stores), or else takes the next one of the row's column ``images``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..tokenizers.documents import END_OF_TURN, Mark
from .sources import RawImage, Unusable, raw_images

PROMPTS, ANSWER = ("system", "user"), "assistant"
"""Roles."""


def conversation(messages: Any, images: Any, folder: Path | None = None) -> list[str | RawImage | Mark]:
    """The segments of a conversation, with the end of a turn between prompts and answers.

    Consecutive messages of one side are one turn. Prompts after the last answer are left out:
    nothing is learned from them.

    Args:
        images: The row's images, for parts that do not hold their own.
        folder: What relative file names are relative to.

    Raises:
        Unusable: The conversation cannot be used; says why.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Unusable("messages are not a list of objects")
    waiting = [image for image in raw_images(images or [], folder) if image is not None]
    turns: list[tuple[bool, list[str | RawImage]]] = []
    for message in messages:
        role = message.get("role")
        if role not in (*PROMPTS, ANSWER):
            raise Unusable("unknown role in a conversation", repr(role))
        if not turns or turns[-1][0] != (role == ANSWER):
            turns.append((role == ANSWER, []))
        turns[-1][1].extend(_content(message.get("content"), waiting, folder))
    if waiting:
        raise Unusable("unreferenced images in a conversation")
    while turns and not turns[-1][0]:
        turns.pop()
    if not turns:
        raise Unusable("conversation without an answer")
    if turns[0][0]:
        raise Unusable("conversation starts with an answer")
    segments: list[str | RawImage | Mark] = []
    for _, turn in turns:
        segments += [*turn, END_OF_TURN]
    return segments[:-1]


def _content(content: Any, waiting: list[RawImage], folder: Path | None) -> list[str | RawImage]:
    if isinstance(content, str):
        return [content] if content else []
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise Unusable("message content is neither a string nor a list of parts")
    segments: list[str | RawImage] = []
    for part in content:
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            segments += [part["text"]] if part["text"] else []
        elif kind == "image" and part.get("image") is not None:
            segments += [image for image in raw_images(part["image"], folder) if image is not None]
        elif kind == "image":
            if not waiting:
                raise Unusable("conversation refers to more images than it has")
            segments.append(waiting.pop(0))
        else:
            raise Unusable("unknown type of part in a conversation", repr(kind))
    return segments


def answer_modalities(messages: Any, names: Sequence[str]) -> frozenset[str]:
    """The modalities in the answers of a conversation, among ``names``."""
    found = set()
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == ANSWER:
            content = message.get("content")
            parts = [{"type": "text"}] if isinstance(content, str) else content or ()
            found |= {part.get("type") for part in parts if isinstance(part, dict)}
    return frozenset(kind for kind in found if kind in names)


def balanced(kinds: Sequence[frozenset[str]], rng: np.random.Generator) -> np.ndarray:
    """Numbers of rows, those of each kind as often as those of the most frequent one, shuffled.

    Without it a model learns how often images are answered, rather than when (arXiv:2405.09818, section 3.2).
    Rows of a rarer kind are repeated whole, and the rest of them is drawn without repetition.
    """
    groups: dict[frozenset[str], list[int]] = {}
    for row, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(row)
    largest = max(map(len, groups.values()), default=0)
    rows: list[int] = []
    for group in groups.values():
        whole, rest = divmod(largest, len(group))
        rows += group * whole + rng.permutation(group)[:rest].tolist()
    return rng.permutation(rows)
