"""The texts in images, and the crop that a reader sees of each.

Items with boxes are read box by box, as crops with a small margin. Items with only a text are read whole.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...tokenizers.pixels import Policy
from ..items import Item
from .text import TextBox

MARGIN = 0.05
"""Margin on each side of a crop, as a fraction of the box height. Larger margins show parts of the next line:
with 1 px both readers read more of the built-in suite than with 2 px; with 4 px they read a tenth less."""
LEAST_MARGIN = 1
"""Minimum margin in px."""


class Passage(NamedTuple):
    """A text in an image."""

    item: int
    """Index of the image."""
    text: str
    crop: tuple[int, int, int, int] | None
    """(left, top, right, bottom) of the part to read, in px; None: the whole image."""
    relative_size: float
    """Width of the text / number of characters / longer side of the image."""
    pixels: float
    """Type size in px per em if known, else ``glyph_height``."""
    glyph_height: float
    """Height of the box in px; without a box, of the ink."""
    kind: str | None

    def picture(self, image: Image.Image) -> Image.Image:
        """The part of ``image`` that a reader sees."""
        return image if self.crop is None else image.crop(self.crop)

    def box(self, before: str, after: str) -> TextBox:
        """The text with its readings before and after."""
        return TextBox(
            self.text, before, after, self.relative_size, self.pixels, self.kind, self.glyph_height
        )


def passages(
    items: Sequence[Item], originals: Sequence[Image.Image], policy: Policy = "resize"
) -> list[Passage]:
    """The texts of all items, except empty ones and boxes outside their image.

    Args:
        items: Images with texts or boxes.
        originals: The images after fitting to the tokenizer; boxes are scaled with them.
        policy: How the images were fitted.
    """
    found = []
    for i, (item, original) in enumerate(zip(items, originals)):
        x, y = _scales(item.image, original, policy)
        if not item.boxes and (text := one_line(item.text or "")):
            left, top, right, bottom = ink_box(original) or (0, 0, *original.size)
            relative = (right - left) / len(text) / max(original.size)
            height = float(bottom - top)
            pixels = height if item.size is None else item.size * y
            found.append(Passage(i, text, None, relative, pixels, height, item.kind))
        for region in item.boxes:
            text = one_line(region.text)
            left, right = (min(max(edge * x, 0), original.width) for edge in (region.left, region.right))
            top, bottom = (min(max(edge * y, 0), original.height) for edge in (region.top, region.bottom))
            if not text or right - left < 1 or bottom - top < 1:
                continue
            crop = _crop(left, top, right, bottom, original)
            relative = (right - left) / len(text) / max(original.size)
            height = bottom - top
            pixels = height if region.size is None else region.size * y
            found.append(Passage(i, text, crop, relative, pixels, height, item.kind))
    return found


def line_passage(item: int, box: tuple[int, int, int, int], original: Image.Image) -> Passage:
    """A line that an OCR engine found on the image ``item``; its text is not known, and ""."""
    height = float(box[3] - box[1])
    return Passage(item, "", _crop(*box, original), math.nan, height, height, None)


def _crop(
    left: float, top: float, right: float, bottom: float, image: Image.Image
) -> tuple[int, int, int, int]:
    """A box with its margin, inside the image."""
    margin = max(LEAST_MARGIN, MARGIN * (bottom - top))
    return (
        max(0, round(left - margin)),
        max(0, round(top - margin)),
        min(image.width, round(right + margin)),
        min(image.height, round(bottom + margin)),
    )


def ink_box(image: Image.Image, contrast: int = 48) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of the pixels that differ from the background; None without any.

    Args:
        image: Any mode; the background is the median of its outermost pixels.
        contrast: Minimum difference in gray levels (of 255).
    """
    gray = np.asarray(image.convert("L"), dtype=np.int16)  # (H, W)
    edge = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    rows, columns = np.nonzero(np.abs(gray - np.median(edge)) >= contrast)
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def one_line(text: str) -> str:
    """``text`` without white space at its ends, and with single spaces inside."""
    return " ".join(text.split())


def _scales(image: Image.Image, fitted: Image.Image, policy: Policy) -> tuple[float, float]:
    """The factors by which ``pixels.fit`` made the image wider and higher."""
    x, y = fitted.width / image.width, fitted.height / image.height
    if policy == "resize":
        return x, y
    # Padding adds white on the right and below; an image that is too large is first scaled in proportion.
    scale = min(1.0, x, y)
    return scale, scale
