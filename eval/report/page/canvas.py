"""Pictures made of pictures and lines of type: columns, rows and lines that wrap. All are RGB on paper."""

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageFont, ImageOps
from PIL.ImageDraw import Draw

INK, SOFT, FRAME, PAPER = "#1d2330", "#5d6678", "#d5dae3", "#ffffff"
RIGHT, WRONG, MADE = "#0a7d4f", "#c02b3c", "#2563eb"
"""Colors of correct and wrong readings, and of what the model made."""
GRAY = "#dedede"
"""Paper of sheets that show pictures only."""

Piece = tuple[str, str]
"""A text and its color."""


@lru_cache(maxsize=8)
def face(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font, ``size`` px per em."""
    return ImageFont.load_default(size)


def line(pieces: Sequence[Piece], size: int = 13) -> Image.Image:
    """Colored pieces of text on one line, 1.3 em high."""
    font = face(size)
    widths = [font.getlength(text) for text, _ in pieces]
    image = Image.new("RGB", (max(1, round(sum(widths)) + 1), round(1.3 * size)), PAPER)
    x = 0.0
    for (text, color), width in zip(pieces, widths):
        Draw(image).text((x, image.height / 2), text, fill=color, font=font, anchor="lm")
        x += width
    return image


def enlarged(image: Image.Image, scale: int) -> Image.Image:
    """An image with each pixel as a square of ``scale`` px."""
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def framed(image: Image.Image, color: str = FRAME, width: int = 1) -> Image.Image:
    """An image with a frame around it."""
    return ImageOps.expand(image, width, color)


def padded(image: Image.Image, width: int = 0, height: int = 0, paper: str = PAPER) -> Image.Image:
    """An image with paper on its right and below, up to a width and a height."""
    out = Image.new("RGB", (max(image.width, width), max(image.height, height)), paper)
    out.paste(image)
    return out


def column(images: Sequence[Image.Image], gap: int = 0, paper: str = PAPER) -> Image.Image:
    """Images below each other, left-aligned."""
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    out = Image.new("RGB", (max((image.width for image in images), default=1), max(1, height)), paper)
    y = 0
    for image in images:
        out.paste(image, (0, y))
        y += image.height + gap
    return out


def row(images: Sequence[Image.Image], gap: int = 0, paper: str = PAPER, middle: bool = False) -> Image.Image:
    """Images side by side, aligned at the top or at their middle."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    out = Image.new("RGB", (max(1, width), max((image.height for image in images), default=1)), paper)
    x = 0
    for image in images:
        out.paste(image, (x, (out.height - image.height) // 2 if middle else 0))
        x += image.width + gap
    return out


def wrapped(
    images: Sequence[Image.Image],
    width: int,
    gap: int,
    *,
    most: int | None = None,
    paper: str = PAPER,
    middle: bool = False,
) -> Image.Image:
    """Images in lines of at most ``width`` px (or one image), and at most ``most`` lines."""
    lines: list[list[Image.Image]] = [[]]
    for image in images:
        if lines[-1] and sum(other.width + gap for other in lines[-1]) + image.width > width:
            lines.append([])
        lines[-1].append(image)
    return column([row(some, gap, paper, middle) for some in lines[:most]], gap, paper)


def page(image: Image.Image, margin: int, width: int = 0, paper: str = PAPER) -> Image.Image:
    """An image in a margin of paper; the page is at least ``width`` px wide."""
    inner = padded(image, width - 2 * margin, paper=paper)
    return ImageOps.expand(inner, margin, paper)


def picture_sheet(cells: Sequence[Sequence[Image.Image]], width: int = 960, enlarge: int = 2) -> Image.Image:
    """Columns of pictures, enlarged, side by side in lines of at most ``width`` px."""
    columns = [column([enlarged(picture, enlarge) for picture in cell], paper=GRAY) for cell in cells]
    return page(wrapped(columns, width, 4, paper=GRAY), 4, paper=GRAY)
