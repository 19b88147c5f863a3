"""What a model reads, writes, names and draws, as one self-contained HTML page."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..items import Item
from ..tasks.everything import BEST_OF, FONTS, Measured
from ..tasks.naming import is_named
from .glossary import how_to_read
from .page import html
from .page.html import Card, Mark
from .page.numbers import percent


def lm_page(measured: Measured, title: str) -> str:
    """The pictures behind the figures of ``evaluate_lm``."""
    figures = measured.figures
    read = [
        _word(item.image, item.text or "", row["read"])
        for item, row in zip(measured.words, figures["reading"][FONTS[0]]["rows"])
    ]
    named = [
        _thing(item.image, row, html.mark(row["named"], is_named(row)), is_named(row))
        for item, row in zip(measured.pictures, figures["naming"]["rows"])
    ]
    drawn = [
        _thing(picture, row, "", row["text"] == row["nearest"])
        for picture, row in zip(measured.drawn, figures["drawing"]["rows"])
    ]
    written, best = (
        html.sheet(_written(measured.words, pictures, figures.get(name)), 150)
        for name, pictures in (("writing", measured.written), ("best", measured.best))
    )
    sections = {
        "Read": ("Image → what the model read. The words are held out.", html.sheet(read, 150)),
        "Written": ("Word → the image that the model wrote, greedily → what OCR reads in it.", written),
        "Best": (f"The same with guidance, the best of {BEST_OF} drawings each.", best),
        "Named": ("Picture → its name → what the model called it.", html.sheet(named, 130)),
        "Drawn": ("Drawings from names, and the thing whose picture is nearest.", html.sheet(drawn, 130)),
    }
    return html.page(
        title,
        f"<h1>{html.escape(title)}</h1>",
        '<p class="lead">What the model reads, writes, names and draws: the pictures behind the figures of '
        "<code>earlyfusion eval lm</code>, none selected. Dashed frames are mistakes.</p>",
        html.cards(_cards(figures)),
        *(
            html.section(name, f'<p class="note">{html.escape(note)}</p>', body, id=name.lower())
            for name, (note, body) in sections.items()
        ),
        how_to_read(("Exact", "CER", "Held out")),
        contents=html.contents((name.lower(), name) for name in sections),
    )


def _cards(figures: dict[str, Any]) -> list[Card]:
    """The figures of ``evaluate_lm`` at a glance."""
    exact = {f"Reading, {fonts}": row for fonts, row in figures["reading"].items()}
    exact |= {f"Writing{more}": figures[name] for name, more in _WRITING.items() if name in figures}
    exact["Naming"] = figures["naming"]
    cards = [
        Card(percent(row["exact_match"]), name, f"of {row['items']}, exactly", row["exact_match"] or 0.0)
        for name, row in exact.items()
    ]
    drawing = figures["drawing"]
    marks = [
        Mark("chance", drawing["chance"], "floor"),
        Mark("after tokenizer", drawing["ceiling"]["nearest"], "ceiling"),
    ]
    note = f"of {drawing['items']} drawings are nearest to the picture of their name"
    return [*cards, Card(percent(drawing["nearest"]), "Drawing", note, drawing["nearest"], marks)]


_WRITING = {"writing": "", "best": f", best of {BEST_OF}"}


def _written(
    words: Sequence[Item], pictures: Sequence[Image.Image | None], result: dict[str, Any] | None
) -> list[str]:
    """The words as written, with the readings of the first reader if there is one."""
    readings = [row[result["reader"]] for row in result["rows"]] if result else [None] * len(pictures)
    return [
        _word(picture, item.text or "", reading) for item, picture, reading in zip(words, pictures, readings)
    ]


def _word(picture: Image.Image | None, text: str, reading: str | None) -> str:
    note = "" if reading is None else f" → {html.mark(reading, reading == text.strip())}"
    right = None if reading is None else reading == text.strip()
    return html.figure(_shown(picture), html.escape(text) + note, right=right)


def _thing(picture: Image.Image | None, row: dict[str, Any], mark: str, right: bool) -> str:
    name = f"{html.escape(row['text'])}{f' → {mark}' if mark else ''}"
    return html.figure(_shown(picture), f"{name}<br>nearest: {html.escape(row['nearest'])}", right=right)


def _shown(picture: Image.Image | None) -> str:
    return "<i>not finished</i>" if picture is None else html.picture(picture, 2)
