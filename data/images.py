"""Images of a data set with their text boxes, fitted to an image tokenizer and grouped by size."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor

from ..tokenizers.pixels import Policy, fit
from .crops import cut
from .loader import group_of, number_groups
from .reading.cells import RawImage, Unusable, open_image, raw_images
from .reading.readers import Row
from .reading.sources import image_columns, open_source, source_of
from .reading.stored import Rows, stored_rows

OBJECTS = "objects"
"""Column with the boxes of an image, as in Hugging Face's imagefolder: {"bbox": [[x, y, width, height]]}."""

Size = tuple[int, int]
"""(H, W) in pixels."""


class ImageBatch(NamedTuple):
    """Images of one size, and where they show text."""

    images: Tensor
    """(B, 3, H, W) float32 in [-1, 1]."""
    boxes: Tensor
    """(N, 5) float32: index of the image in the batch, then left, top, right, bottom in pixels."""


@dataclass
class ImageSet:
    """Images of a data set, fitted to multiples of the factor and grouped by size."""

    rows: np.ndarray
    """(N, 2): for each image its row in the data set and its place in the cell."""
    groups: dict[Size, np.ndarray]
    """Size -> numbers 0..N-1 of its images."""
    source: Rows
    columns: list[str]
    """Columns of images."""
    folder: Path | None
    factor: int
    policy: Policy
    max_side: int | None
    skipped: list[str] = field(default_factory=list)
    """One line for each image that could not be read."""
    cache: dict[Size, Tensor] | None = None
    """Size -> uint8 (n, 3, H, W), in the order of the group. None if the set is too large to cache."""
    boxes: dict[int, np.ndarray] = field(default_factory=dict)
    """Image -> (n, 4) left, top, right, bottom of its texts in pixels, for images with boxes."""

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, samples: np.ndarray) -> Tensor:
        """Load images of one size by their numbers, float32 (B, 3, H, W) in [-1, 1]."""
        if self.cache is None:
            return _to_float(torch.stack([self._decode(*self.rows[i]) for i in samples]))
        size = group_of(self.groups, int(samples[0]))
        return _to_float(self.cache[size][torch.from_numpy(samples - self.groups[size][0])])

    def batch(self, samples: np.ndarray, crop: Size | None = None, seed: int = 0) -> ImageBatch:
        """Load images of one size with the boxes of their texts.

        Args:
            crop: Cut a window of this size from each image. Its place is drawn from ``seed`` and ``samples``,
                so an image has another window in another batch.
        """
        images, none = self.load(samples), np.zeros((0, 4))
        boxes = [self.boxes.get(int(sample), none) for sample in samples]
        if crop is not None and crop != tuple(images.shape[2:]):
            images, boxes = cut(images, boxes, crop, np.random.default_rng([seed, *samples.tolist()]))
        rows = np.concatenate([np.insert(some, 0, place, axis=1) for place, some in enumerate(boxes)])
        return ImageBatch(images, torch.from_numpy(rows.astype(np.float32)))

    def _decode(self, row: int, place: int) -> Tensor:
        [cells] = self.source.read(int(row), int(row) + 1)
        raw = _raw(cells, self.columns, self.folder)[int(place)]
        assert raw is not None
        return _to_bytes(fit(open_image(raw), self.factor, self.policy, self.max_side))


def _to_bytes(image: Image.Image) -> Tensor:
    """RGB -> uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _to_float(images: Tensor) -> Tensor:
    return images.float().div_(127.5).sub_(1)


def read_images(
    source: str | Path | Dataset,
    *,
    factor: int,
    policy: Policy = "resize",
    max_side: int | None = None,
    column: str | None = None,
    cache_mb: int = 1024,
) -> ImageSet:
    """Read every image once: is it readable, and how large is it after fitting? Cache them if they fit.

    Images that cannot be read are left out, with a warning, and listed in ``skipped``.

    Args:
        cache_mb: Keep the decoded images in memory if all of them together need no more than this, in MiB.

    Raises:
        ValueError: There is no column of images, or no readable image.
    """
    opened = source_of(source) if isinstance(source, Dataset) else open_source(source)
    folder = None if isinstance(source, Dataset) else opened.folder
    name = opened.name
    columns = image_columns(opened.columns, column, name)
    skipped: list[str] = []
    rows, _ = stored_rows(opened, [*columns, OBJECTS], lambda file, why: skipped.append(f"{file}: {why}"))
    found: dict[Size, list[tuple[int, int]]] = {}
    boxes: dict[Size, dict[int, np.ndarray]] = {}
    pixels: dict[Size, list[Tensor]] | None = {}
    room = cache_mb * 2**20
    for row, place, raw, objects in _cells(rows, columns, folder, skipped):
        try:
            stored = open_image(raw)
            image = fit(stored, factor, policy, max_side)
        except (ValueError, FileNotFoundError) as error:
            skipped.append(f"row {row}: {error}")
            continue
        try:
            corners = text_boxes(objects, stored.size, _fitted(stored, image, factor, policy, max_side))
        except ValueError as error:
            raise ValueError(f"{name}, row {row}: {error}") from None
        size = (image.height, image.width)
        if len(corners):
            boxes.setdefault(size, {})[len(found.get(size, ()))] = corners
        found.setdefault(size, []).append((row, place))
        if pixels is not None:
            pixels.setdefault(size, []).append(_to_bytes(image))
            room -= 3 * image.height * image.width
            if room < 0:
                pixels = None
    if not found:
        reason = f"; the first of {len(skipped)} problems: {skipped[0]}" if skipped else ""
        raise ValueError(
            f"{name}: no image in the column {', '.join(map(repr, columns))} can be read{reason}"
        )
    if skipped:
        warnings.warn(f"{name}: skipped {len(skipped)} unreadable images; {skipped[0]}", stacklevel=2)
    if opened.listing is not None:
        others = [(file, why) for file, why in opened.listing.unread if why.startswith("unknown")]
        if others:
            first = ": ".join(others[0])
            warnings.warn(f"{name}: {len(others)} files are not read; the first: {first}", stacklevel=2)
    groups = number_groups({size: len(places) for size, places in found.items()})
    return ImageSet(
        rows=np.array([place for size in groups for place in found[size]]),
        groups=groups,
        source=rows,
        columns=columns,
        folder=folder,
        factor=factor,
        policy=policy,
        max_side=max_side,
        skipped=skipped,
        cache=None if pixels is None else {size: torch.stack(pixels[size]) for size in groups},
        boxes={
            int(groups[size][place]): corners
            for size in groups
            for place, corners in boxes.get(size, {}).items()
        },
    )


def _cells(
    rows: Rows, columns: list[str], folder: Path | None, skipped: list[str]
) -> Iterator[tuple[int, int, RawImage, Any]]:
    """Row, place in its cells, image and ``objects`` of each image in the data set."""
    for number, row in enumerate(rows):
        try:
            images = _raw(row, columns, folder)
        except Unusable as error:
            skipped.append(f"row {number}: {error}")
            continue
        for place, raw in enumerate(images):
            if raw is not None:
                yield number, place, raw, row.get(OBJECTS)


def _raw(row: Row, columns: list[str], folder: Path | None) -> list[RawImage | None]:
    return [image for column in columns for image in raw_images(row.get(column), folder)]


def _fitted(
    stored: Image.Image, image: Image.Image, factor: int, policy: Policy, max_side: int | None
) -> tuple[float, float]:
    """(width, height) that the stored image takes in the fitted one."""
    if policy != "pad":
        return image.size
    limit = max_side // factor * factor if max_side else max(stored.size)
    scale = min(1.0, limit / max(stored.size))  # the same for both sides; the rest is white
    return stored.width * scale, stored.height * scale


def text_boxes(objects: Any, stored: tuple[int, int], fitted: tuple[float, float]) -> np.ndarray:
    """The boxes of a row's ``objects`` in pixels of the fitted image, (n, 4): left, top, right, bottom.

    Args:
        stored: (width, height) of the image that the boxes were drawn on.
        fitted: (width, height) of the same image in the fitted one.

    Raises:
        ValueError: The objects are not {"bbox": [[x, y, width, height], ...]}.
    """
    try:
        corners = np.array((objects or {}).get("bbox") or np.zeros((0, 4)), dtype=np.float64)
        if (
            corners.shape != (len(corners), 4)
            or not np.isfinite(corners).all()
            or corners[:, 2:].min(initial=0) < 0
        ):
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        expected = '{"bbox": [[x, y, width, height], ...], "text": [...]}'
        raise ValueError(f"{OBJECTS} is {objects!r:.80}, expected {expected}") from None
    corners[:, 2:] += corners[:, :2]
    return corners * np.tile(np.array(fitted) / np.array(stored), 2)
