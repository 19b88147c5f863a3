"""A picture of a run's results, for a README: written words, drawings, and documents of both."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from .page.canvas import (
    INK,
    MADE,
    RIGHT,
    SOFT,
    WRONG,
    column,
    enlarged,
    face,
    framed,
    line,
    padded,
    page,
    wrapped,
)

WIDTH, MARGIN, GAP = 1040, 28, 14
INNER = WIDTH - 2 * MARGIN
SCALE = 2
"""Pixels of the sheet per pixel of a picture."""


def contact_sheet(gallery: Mapping[str, Any]) -> Image.Image:
    """The first writings, drawings and documents of a gallery (see ``run.report``), RGB, 1040 px wide."""
    blocks = []
    if writings := [one for one in gallery.get("writings", []) if one["picture"] is not None]:
        cells = [_cell(w["picture"], w["text"], RIGHT if w["read"] == w["text"] else WRONG) for w in writings]
        blocks += [
            _title("held-out words that the model wrote (green: OCR reads the word)"),
            _lines(cells, 4),
        ]
    if drawings := [one for one in gallery.get("drawings", []) if one["picture"] is not None]:
        eighth = (INNER - 7 * GAP) // 8
        cells = [padded(_cell(d["picture"], d["name"], most=eighth), eighth) for d in drawings]
        blocks += [_title("things that the model drew: the first samples, not selected"), _lines(cells, 2)]
    documents = [d["parts"] for d in gallery.get("documents", []) if len(d["parts"]) > 2]
    documents.sort(key=lambda parts: -sum(not part.get("prompt") for part in parts))
    if documents:
        blocks.append(_title("documents that the model wrote (gray: given, blue: its own)"))
        blocks += [_document(parts) for parts in documents[:2]]
    return page(column(blocks, GAP), MARGIN, WIDTH)


def _title(text: str) -> Image.Image:
    return line([(text, SOFT)], 16)


def _cell(picture: Image.Image, caption: str, color: str = INK, most: int = 0) -> Image.Image:
    """A picture above its caption, whose type is smaller if it is longer than ``most`` px."""
    size = next((s for s in (14, 13, 12, 11) if not most or face(s).getlength(caption) <= most), 10)
    return column([framed(enlarged(picture, SCALE)), line([(caption, color)], size)], 4)


def _lines(cells: Sequence[Image.Image], most: int) -> Image.Image:
    return wrapped(cells, INNER, GAP, most=most)


def _document(parts: Sequence[Mapping[str, Any]]) -> Image.Image:
    """A document as lines of words and pictures, blue where the model wrote."""
    pieces = []
    for part in parts:
        color = SOFT if part.get("prompt") else MADE
        if "image" in part:
            pieces.append(framed(enlarged(part["image"], SCALE), color, 2))
        else:
            pieces += [line([(word, color)], 20) for word in part["text"].split()]
    return wrapped(pieces, INNER, 8, middle=True)
