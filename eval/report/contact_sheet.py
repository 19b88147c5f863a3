"""A picture of what a run made, for a README: written words, drawings, and a document of both."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ...data.render.words import train_fonts

WIDTH, MARGIN, GAP, TITLE = 1040, 28, 14, 32
INK, SOFT, LINE, PAPER = "#1d2330", "#5d6678", "#d5dae3", "#ffffff"
RIGHT, WRONG, MADE = "#0a7d4f", "#c02b3c", "#2563eb"


class Cell:
    """A picture with a line of text under it."""

    def __init__(
        self, image: Image.Image, caption: str, colour: str = INK, scale: int = 2, width: int = 0
    ) -> None:
        self.image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        self.caption, self.colour = caption, colour
        self.width = width or max(self.image.width + 2, round(_face(14).getlength(caption)))


def contact_sheet(gallery: Mapping[str, Any]) -> Image.Image:
    """The first writings, drawings and documents of a ``report``'s gallery, RGB, 1040 px wide."""
    blocks = []
    if writings := [one for one in gallery.get("writings", []) if one["picture"] is not None]:
        cells = [Cell(w["picture"], w["text"], RIGHT if w["read"] == w["text"] else WRONG) for w in writings]
        blocks.append(
            _block("held-out words that it was asked to write (green: OCR reads the word)", _rows(cells, 4))
        )
    if drawings := [one for one in gallery.get("drawings", []) if one["picture"] is not None]:
        cells = [Cell(d["picture"], d["name"], width=(WIDTH - 2 * MARGIN - 7 * GAP) // 8) for d in drawings]
        blocks.append(
            _block("things that it was asked to draw: the first samples, unpicked", _rows(cells, 2))
        )
    documents = [d for d in gallery.get("documents", []) if len(d["parts"]) > 2]
    documents.sort(key=lambda d: -sum(not part.get("prompt") for part in d["parts"]))  # the most its own
    for number, document in enumerate(documents[:2]):
        blocks.append(_document(document["parts"], titled=not number))
    sheet = Image.new("RGB", (WIDTH, 2 * MARGIN - GAP + sum(block.height + GAP for block in blocks)), PAPER)
    y = MARGIN
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height + GAP
    return sheet


@lru_cache(maxsize=4)
def _face(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(train_fonts()[0].path, size)


def _rows(cells: Sequence[Cell], most: int) -> list[list[Cell]]:
    """Cells in rows that fit into the width, at most ``most`` rows."""
    rows: list[list[Cell]] = [[]]
    x = MARGIN
    for cell in cells:
        if rows[-1] and x + cell.width > WIDTH - MARGIN:
            rows.append([])
            x = MARGIN
        rows[-1].append(cell)
        x += cell.width + GAP
    return rows[:most]


def _block(title: str, rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """A title and rows of cells."""
    heights = [max(cell.image.height for cell in row) + 36 for row in rows]
    block = Image.new("RGB", (WIDTH, TITLE + sum(heights)), PAPER)
    draw = ImageDraw.Draw(block)
    draw.text((MARGIN, 2), title, fill=SOFT, font=_face(16))
    y = TITLE
    for row, height in zip(rows, heights):
        x = MARGIN
        for cell in row:
            draw.rectangle((x, y, x + cell.image.width + 1, y + cell.image.height + 1), outline=LINE)
            block.paste(cell.image, (x + 1, y + 1))
            face = next(
                (f for f in map(_face, (14, 13, 12, 11)) if f.getlength(cell.caption) <= cell.width),
                _face(10),
            )
            draw.text((x, y + cell.image.height + 6), cell.caption, fill=cell.colour, font=face)
            x += cell.width + GAP
        y += height
    return block


def _document(parts: Sequence[Mapping[str, Any]], scale: int = 2, titled: bool = True) -> Image.Image:
    """A document as lines of text and images, blue where the model wrote."""
    face = _face(20)
    pieces: list[tuple[str | Image.Image, str]] = []
    for part in parts:
        colour = SOFT if part.get("prompt") else MADE
        if "image" in part:
            image = part["image"]
            pieces.append(
                (image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST), colour)
            )
        else:
            pieces += [(word + " ", colour) for word in part["text"].split()]
    lines: list[list[tuple[str | Image.Image, str, int]]] = [[]]
    x = MARGIN
    for piece, colour in pieces:
        width = round(face.getlength(piece)) if isinstance(piece, str) else piece.width + 14
        if lines[-1] and x + width > WIDTH - MARGIN:
            lines.append([])
            x = MARGIN
        lines[-1].append((piece, colour, x))
        x += width
    heights = [
        max((p.height if isinstance(p, Image.Image) else 24) for p, _, _ in line) + 16
        for line in lines
        if line
    ]
    y = TITLE if titled else 0
    block = Image.new("RGB", (WIDTH, y + sum(heights)), PAPER)
    draw = ImageDraw.Draw(block)
    if titled:
        draw.text(
            (MARGIN, 2), "documents as it wrote them (grey: given, blue: its own)", fill=SOFT, font=_face(16)
        )
    for line, height in zip([line for line in lines if line], heights):
        for piece, colour, x in line:
            if isinstance(piece, str):
                draw.text((x, y + height // 2), piece, fill=colour, font=face, anchor="lm")
            else:
                top = y + (height - piece.height) // 2
                box = (x + 2, top - 2, x + piece.width + 5, top + piece.height + 1)
                draw.rectangle(box, outline=colour, width=2)
                block.paste(piece, (x + 4, top))
        y += height
    return block
