"""Gray strips around the text boxes of a data set's images, in batches of one width."""

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .images import OBJECTS, text_boxes
from .loader import group_of, number_groups
from .reading.cells import open_image, raw_images
from .reading.sources import image_columns, open_source
from .reading.stored import stored_rows

HEIGHT = 32
"""Pixels of a strip from top to bottom."""
MARGIN = 4
"""Pixels to the left and to the right of a text."""


class TextBatch(NamedTuple):
    """Strips of one width and their texts."""

    strips: Tensor
    """(N, 1, 32, W) float32 in [-1, 1], gray."""
    texts: list[str]


class Strips:
    """Gray strips, 32 px high, around text boxes, grouped by width."""

    def __init__(self, found: Iterable[tuple[np.ndarray, str]]) -> None:
        """
        Args:
            found: At least one strip, (32, W) uint8, with its text.
        """
        by_width: dict[int, list[tuple[np.ndarray, str]]] = {}
        for strip, text in found:
            by_width.setdefault(strip.shape[1], []).append((strip, text))
        self.groups = number_groups({width: len(some) for width, some in by_width.items()})
        """Width -> numbers of its strips."""
        self._strips = {width: np.stack([strip for strip, _ in by_width[width]]) for width in self.groups}
        self._texts = [text for width in self.groups for _, text in by_width[width]]

    @classmethod
    def around(cls, images: Iterable[tuple[Image.Image, Any]], longest: int = 10_000) -> Self:
        """Cut the strips around the boxes of images, each given with its ``objects``.

        Args:
            longest: Leave out wider strips, in pixels.
        """
        return cls(pair for image, objects in images for pair in _strips(image, objects, longest))

    @classmethod
    def read(cls, source: str, split: str, longest: int, limit: int | None = None) -> Self:
        """Cut the strips of a data set on disk. Images that cannot be read are left out, with a warning.

        Args:
            longest: Leave out wider strips, in pixels.
            limit: Use only this many images, the first ones.

        Raises:
            ValueError: There are no text boxes with texts.
        """
        opened = open_source(source, split)
        columns = image_columns(opened.columns, None, opened.name)
        if OBJECTS not in opened.columns:
            raise ValueError(
                f"{source} has no column {OBJECTS!r} with text boxes: `earlyfusion text-images` writes one"
            )
        found: list[tuple[np.ndarray, str]] = []
        skipped: list[str] = []
        rows, _ = stored_rows(opened, [*columns, OBJECTS], lambda file, why: skipped.append(f"{file}: {why}"))
        for number, row in enumerate(islice(rows, limit)):
            try:
                cells = [raw for name in columns for raw in raw_images(row.get(name), opened.folder)]
                if not cells or cells[0] is None:
                    continue
                image = open_image(cells[0])
            except (ValueError, FileNotFoundError) as error:
                skipped.append(f"row {number}: {error}")
                continue
            try:
                found += _strips(image, row.get(OBJECTS), longest)
            except ValueError as error:
                raise ValueError(f"{source}, row {number}: {error}") from None
        if skipped:
            warnings.warn(f"{source}: skipped {len(skipped)} unreadable images; {skipped[0]}", stacklevel=2)
        if not found:
            raise ValueError(f"{source} has no text box with a text that is at most {longest} px wide")
        return cls(found)

    def load(self, samples: np.ndarray) -> TextBatch:
        """Load strips of one width by their numbers."""
        width = group_of(self.groups, int(samples[0]))
        strips = torch.from_numpy(self._strips[width][samples - self.groups[width][0]])[:, None]
        return TextBatch(strips.float().div_(127.5).sub_(1), [self._texts[i] for i in samples])


def _strips(image: Image.Image, objects: Any, longest: int) -> Iterator[tuple[np.ndarray, str]]:
    """The strip of each text in an image that is at most ``longest`` pixels wide."""
    gray = np.asarray(image.convert("L"))
    boxes, texts = text_boxes(objects, image.size, image.size), (objects or {}).get("text") or ()
    if texts and len(texts) != len(boxes):
        raise ValueError(f"{OBJECTS} has {len(texts)} texts for {len(boxes)} boxes, expected one for each")
    for box, text in zip(boxes, texts):
        if text and (strip := _strip(gray, box)).shape[1] <= longest:
            yield strip, text


def _strip(gray: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of ``gray`` (H, W) around ``box``, (32, multiple of 32). Its edge repeats beyond the image."""
    left, top, right, bottom = box
    width = -(-int(np.ceil(right - left) + 2 * MARGIN) // 32) * 32
    x = round((left + right - width) / 2)
    y = round((top + bottom - HEIGHT) / 2)
    rows = np.clip(np.arange(y, y + HEIGHT), 0, gray.shape[0] - 1)
    columns = np.clip(np.arange(x, x + width), 0, gray.shape[1] - 1)
    return gray[rows[:, None], columns]
