"""HTML of answers: each is complete in itself, so that the browser can keep it and ask about it later."""

import json
from collections.abc import Callable, Sequence

from PIL import Image

from ..eval.report.page import html
from ..eval.report.samples import stop_in_words
from .compose import Ask, Written
from .pages import wrapped
from .recipes import as_command, as_python
from .showcase import Hint

LARGE, MIDDLE, SMALL = 256, 144, 72
"""Longer side in px, about, of the picture of an answer, of one of several, and of one in a try."""


def kept_pictures() -> Callable[[Image.Image], str]:
    """``html.data_uri`` with a cache: each update shows most pictures again."""
    kept: dict[int, tuple[Image.Image, str]] = {}  # keeps the picture alive, so that its id stays unique

    def uri(image: Image.Image) -> str:
        if id(image) not in kept:
            kept[id(image)] = image, html.data_uri(image)
        return kept[id(image)][1]

    return uri


def written(
    samples: Sequence[Written],
    done: bool,
    uri: Callable[[Image.Image], str] = html.data_uri,
    *,
    ask: Ask | None = None,
    model: str = "",
    hint: Hint | None = None,
) -> str:
    """All samples side by side, finished or not.

    Args:
        samples: What is there.
        done: Nothing more comes.
        uri: As for ``html.picture``.
        ask: The settings, for the command and the Python that can be copied; None: without.
        model: As for ``recipes.as_command``.
        hint: A word about the prompt.
    """
    several = len(samples) > 1
    figures = []
    for number, sample in enumerate(samples, start=1):
        title = f"Sample {number}" if several else "Answer"
        recipes = "" if ask is None or not done else _recipes(sample, ask, model)
        figures.append(_figure(sample, title, done, MIDDLE if several else LARGE, uri, recipes))
    grid = html.sheet(figures, 260) if several else figures[0]
    spoken = f'<p class="spoken" role="status">{"Done" if done else ""}</p>'
    busy = "false" if done else "true"
    region = f'<div role="region" aria-label="Answer" aria-busy="{busy}">{grid}</div>'
    return wrapped(hinted(hint) if hint else "", region, spoken, kind="answer")


def _figure(
    sample: Written, title: str, done: bool, side: int, uri: Callable[[Image.Image], str], recipes: str
) -> str:
    """One sample, its state, and what can be done with it."""
    ended = sample.stop or done
    state = html.escape(stop_in_words(sample.stop or "stopped")) if ended else "writing …"
    caption = f'<b>{title}</b>: <span class="state">{state} · seed {sample.seed}</span>'
    shown = _document(sample, side, uri)
    if ended and not sample.segments and sample.drawing is None:
        shown += _nothing(sample)
    data = ""
    if sample.tokens is not None and done:
        data = f' data-tokens="{json.dumps(sample.tokens.tolist(), separators=(",", ":"))}"'
        data += f' data-given="{sample.prompt_length}"'
        tools = ["inspect:Inspect", "pin:Pin", "text:Copy text"]
        if not sample.turn:  # the prompt box has no turns
            tools.insert(1, "continue:Use as prompt")
        buttons = "".join(
            f'<button type="button" data-do="{name}">{label}</button>'
            for name, _, label in (tool.partition(":") for tool in tools)
        )
        caption += f'<span class="tools">{buttons}{recipes}</span>'
    if sample.others:
        tries = "".join(html.figure(_document(one, SMALL, uri), f"seed {one.seed}") for one in sample.others)
        count = len(sample.others)
        label = f"The best of {count + 1} tries; the other {count}" if count > 1 else "The other try"
        caption += html.details(label, html.sheet([tries], 90).replace("<figure>", '<figure class="try">'))
    return html.figure(shown, caption).replace("<figure>", f"<figure{data}>", 1)


def _document(sample: Written, side: int, uri: Callable[[Image.Image], str]) -> str:
    """Prompt and continuation; each picture can be enlarged."""
    parts = [html.Part(segment, prompt=True) for segment in sample.prompt]
    parts += [html.Part(segment) for segment in sample.segments]
    if sample.drawing is not None:
        parts.append(html.Part(sample.drawing))
    pictures = [part.content for part in parts if isinstance(part.content, Image.Image)]
    side = side if len(pictures) < 2 else min(side, MIDDLE)
    largest = max((max(picture.size) for picture in pictures), default=1)
    document = html.document(parts, max(1, round(side / largest)), uri)
    return document.replace('<img class="px"', '<img class="px" tabindex="0" role="button"')


def _nothing(sample: Written) -> str:
    """Why there is nothing, and what to try."""
    text = "The model ended at once: for it, the document was complete. "
    if any(isinstance(segment, Image.Image) for segment in sample.prompt):
        text += "To hear what a picture says or shows, press <b>Read it</b>, or choose <b>text</b>"
    else:
        text += "Choose <b>a picture</b> or <b>text</b>"
    return f'<p class="nothing">{text} under “What comes next”.</p>'


def _recipes(sample: Written, ask: Ask, model: str) -> str:
    buttons = "".join(
        f'<button type="button" data-copy="{html.escape(text)}">Copy as {label}</button>'
        for label, text in (
            ("command", as_command(sample.prompt, ask, model)),
            ("Python", as_python(sample.prompt, ask, model)),
        )
    )
    return buttons


def hinted(hint: Hint) -> str:
    """A word about the prompt, with known things to click."""
    names = " ".join(
        f'<button type="button" data-thing="{html.escape(name)}">{html.escape(name)}</button>'
        for name in hint.names
    )
    return f'<p class="hint" role="status">{html.escape(hint.text)} {names}</p>'


def busy(text: str) -> str:
    """A word while something without pieces to show is computed."""
    said = f'<p class="note">{html.escape(text)}</p>'
    return wrapped(f'<div role="region" aria-label="Answer" aria-busy="true">{said}</div>', kind="answer")
