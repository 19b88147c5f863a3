"""What a model reads, writes, names and draws, as one self-contained HTML page."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..items import Item
from ..tasks.everything import BEST_OF, FONTS, Measured
from ..tasks.naming import is_named
from . import html


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
    best = f"Written with guidance, the best of {BEST_OF}"
    return html.page(
        title,
        f"<h1>{html.escape(title)}</h1>",
        *("<h2>Read</h2>", html.sheet(read)),
        *("<h2>Written</h2>", html.sheet(_written(measured.words, measured.written, figures.get("writing")))),
        *(f"<h2>{best}</h2>", html.sheet(_written(measured.words, measured.best, figures.get("best")))),
        *("<h2>Named</h2>", html.sheet(named, 130)),
        *("<h2>Drawn</h2>", html.sheet(drawn, 130)),
    )


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
