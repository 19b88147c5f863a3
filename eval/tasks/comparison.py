"""One picture through several image tokenizers: how much of its pixels and its text each preserves."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from ...data.render.typeset import TextRegion
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.pixels import fit
from ..items import Item
from ..metrics.ceilings import Ceiling, jpeg
from ..metrics.ocr import RapidReader
from ..metrics.passages import one_line
from .reconstruction import Reconstruction, measure

LINES = 60
"""Maximum number of lines to read."""
ONE_LINE = 64
"""A picture of at most this height (px) counts as one line if no line is detected."""
LETTERS = 3
"""With fewer letters and digits in all, the lines are taken for parts of a drawing."""


@dataclass(frozen=True)
class Comparison:
    """One tokenizer's reconstruction of the picture."""

    name: str
    figures: dict[str, Any]
    """"psnr" (dB), "ssim", "l1", "bits_per_pixel", "tokens", and "seconds" to encode, decode and read."""
    result: Reconstruction
    """Original as fitted to the tokenizer, reconstruction, and each line as read in both."""
    jpeg: Ceiling
    """The nearest JPEG with at most as many bits as the codes."""


def compare(
    image: Image.Image,
    tokenizers: Mapping[str, ImageTokenizer],
    reader: RapidReader | None = None,
    *,
    max_side: int | None = None,
) -> list[Comparison]:
    """Reconstruct ``image`` (upright RGB) with each of ``tokenizers``.

    A reader finds the lines of the original and reads them before and after. In place of a transcript, the
    reading of the original counts as the text.
    """
    found = []
    if max_side is not None:
        image = fit(image, 1, "resize", max_side)
    lines = [] if reader is None else _lines(image, reader)
    for name, tokenizer in tokenizers.items():
        began = time.perf_counter()
        item = Item(image, name=name, boxes=tuple(lines))
        measured = measure(tokenizer, [item], [reader] if lines and reader else [])
        figures = {key: measured.figures[key] for key in ("psnr", "ssim", "l1", "bits_per_pixel")}
        figures["tokens"] = round(measured.figures["tokens_per_image"])
        figures["seconds"] = time.perf_counter() - began
        result = measured.results[0]
        bits = round(figures["bits_per_pixel"] * result.original.width * result.original.height)
        found.append(Comparison(name, figures, result, jpeg(result.original, bits)))
    return found


@lru_cache(maxsize=1)
def page_reader() -> RapidReader | None:
    """The reader of lines on a page; None if the extra ``ocr`` is not installed."""
    try:
        return RapidReader()
    except (ImportError, FileNotFoundError):
        return None


def _lines(image: Image.Image, reader: RapidReader) -> list[TextRegion]:
    """The lines of text that the reader detects, and its reading of each; [] for a picture without text."""
    boxes = reader.find(image)[:LINES]
    if not boxes and image.height <= ONE_LINE:
        boxes = [(0, 0, image.width, image.height)]
    texts = [one_line(text) for text in reader.read([image.crop(box) for box in boxes])]
    if sum(letter.isalnum() for text in texts for letter in text) < LETTERS:
        return []
    return [TextRegion(text, *map(float, box)) for text, box in zip(texts, boxes) if text]
