"""Images for the image tokenizer, in batches of one size.

They are shuffled by a seed, and a stopped run goes on exactly where it was (see ``loader``).
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from ..tokenizers.pixels import Policy, fit
from .crops import cut, window_size
from .loader import Batches, InOrder, ordered_batches, shuffled_batches
from .sources import base_folder, image_column, load_source, open_image, raw_images, undecoded

CHUNK = 1000  # rows that are read from disk together
OBJECTS = "objects"
"""Column with the boxes of an image, as in Hugging Face's imagefolder: {"bbox": [[x, y, width, height]]}."""


class ImageBatch(NamedTuple):
    """Images of one size and where text stands in them."""

    images: Tensor
    """(B, 3, H, W) float32 in [-1, 1]."""
    boxes: Tensor
    """(N, 5) float32: number of the image in the batch, then left, top, right, bottom in pixels."""


@dataclass
class ImageSet:
    """Images of a data set, fitted to multiples of the factor and grouped by size."""

    rows: np.ndarray
    """(N, 2): row of the data set and place in its cell, for each image."""
    groups: dict[tuple[int, int], np.ndarray]
    """(H, W) -> numbers 0..N-1 of its images."""
    dataset: Dataset
    column: str
    folder: Path | None
    factor: int
    policy: Policy
    max_side: int | None
    skipped: list[str] = field(default_factory=list)
    """One line for each image that could not be read."""
    cache: dict[tuple[int, int], Tensor] | None = None
    """(H, W) -> uint8 (n, 3, H, W), in the order of the group; None when the set is too large for it."""
    boxes: dict[int, np.ndarray] = field(default_factory=dict)
    """Image -> (n, 4) left, top, right, bottom of its texts in pixels; images without any are left out."""
    _places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, samples: np.ndarray) -> Tensor:
        """Images of one size, float32 (B, 3, H, W) in [-1, 1]."""
        if self.cache is None:
            return _to_float(torch.stack([self._decode(*self.rows[i]) for i in samples]))
        assert self._places is not None
        size = self._size_of(int(samples[0]))
        return _to_float(self.cache[size][torch.from_numpy(self._places[samples])])

    def batch(self, samples: np.ndarray, crop: tuple[int, int] | None = None, seed: int = 0) -> ImageBatch:
        """The same with the boxes of their texts; of each image a window of the size ``crop``, drawn by
        ``seed`` and the samples, so that an image has another one in another batch."""
        images, none = self.load(samples), np.zeros((0, 4))
        boxes = [self.boxes.get(int(sample), none) for sample in samples]
        if crop is not None and crop != tuple(images.shape[2:]):
            images, boxes = cut(images, boxes, crop, np.random.default_rng([seed, *samples.tolist()]))
        rows = np.concatenate([np.insert(some, 0, place, axis=1) for place, some in enumerate(boxes)])
        return ImageBatch(images, torch.from_numpy(rows.astype(np.float32)))

    def _size_of(self, sample: int) -> tuple[int, int]:
        return next(size for size, group in self.groups.items() if group[0] <= sample <= group[-1])

    def _decode(self, row: int, place: int) -> Tensor:
        raw = raw_images(self.dataset[int(row)][self.column], self.folder)[int(place)]
        assert raw is not None
        return _to_bytes(fit(open_image(raw), self.factor, self.policy, self.max_side))


def _to_bytes(image: Any) -> Tensor:
    """PIL RGB -> uint8 (3, H, W)."""
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
    """Look at every image once: its size after fitting, whether it can be read, and keep it if there is room.

    Images that cannot be read are left out and told in ``skipped``.

    :param cache_mb: keep the decoded images in memory when all of them take no more than this.
    :raises ValueError: no column of images, or no image that can be read.
    """
    dataset = source if isinstance(source, Dataset) else load_source(source)
    folder = None if isinstance(source, Dataset) else base_folder(source)
    name = "the data set" if isinstance(source, Dataset) else str(source)
    try:
        column = image_column(dataset, column)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    columns = [name for name in (column, OBJECTS) if name in dataset.column_names]
    dataset = undecoded(dataset.select_columns(columns), [column])
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    boxes: dict[tuple[int, int], dict[int, np.ndarray]] = {}
    pixels: dict[tuple[int, int], list[Tensor]] | None = {}
    skipped: list[str] = []
    room = cache_mb * 2**20
    for start in range(0, len(dataset), CHUNK):
        rows = dataset[start : start + CHUNK]
        objects = rows.get(OBJECTS, [None] * len(rows[column]))
        for row, (cell, texts) in enumerate(zip(rows[column], objects), start):
            for place, raw in enumerate(raw_images(cell, folder)):
                if raw is None:
                    continue
                try:
                    stored = open_image(raw)
                    image = fit(stored, factor, policy, max_side)
                except (ValueError, FileNotFoundError) as error:
                    skipped.append(f"row {row}: {error}")
                    continue
                size = (image.height, image.width)
                try:
                    fitted = image.size
                    if policy == "pad":  # scaled alike on both sides, then white on the right and below
                        limit = max_side // factor * factor if max_side else max(stored.size)
                        scale = min(1.0, limit / max(stored.size))
                        fitted = (stored.width * scale, stored.height * scale)
                    corners = text_boxes(texts, stored.size, fitted)
                except ValueError as error:
                    raise ValueError(f"{name}, row {row}: {error}") from None
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
        raise ValueError(f"{name}: no image in the column {column!r} can be read{reason}")
    if skipped:
        warnings.warn(
            f"{name}: skipped {len(skipped)} images that cannot be read; {skipped[0]}", stacklevel=2
        )
    sizes = sorted(found)
    ends = np.cumsum([0, *(len(found[size]) for size in sizes)])
    groups = {size: np.arange(a, b) for size, a, b in zip(sizes, ends, ends[1:])}
    return ImageSet(
        rows=np.array([place for size in sizes for place in found[size]]),
        groups=groups,
        dataset=dataset,
        column=column,
        folder=folder,
        factor=factor,
        policy=policy,
        max_side=max_side,
        skipped=skipped,
        cache=None if pixels is None else {size: torch.stack(pixels[size]) for size in sizes},
        boxes={
            int(groups[size][place]): corners
            for size in sizes
            for place, corners in boxes.get(size, {}).items()
        },
        _places=np.concatenate([np.arange(len(found[size])) for size in sizes]),
    )


def text_boxes(objects: Any, stored: tuple[int, int], fitted: tuple[float, float]) -> np.ndarray:
    """The boxes of a row's ``objects`` in pixels of the fitted image, (n, 4): left, top, right, bottom.

    :param stored: (width, height) of the image that the boxes were drawn on.
    :raises ValueError: objects that are not {"bbox": [[x, y, width, height], ...]}.
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


class ImageData(L.LightningDataModule):
    """Images for the image tokenizer. Every batch holds one size, as many images as its pixels allow."""

    def __init__(
        self,
        train: str | Dataset,
        validation: str | Dataset | None = None,
        factor: int = 8,
        batch_pixels: int = 65536,
        policy: Policy = "resize",
        max_side: int | None = 256,
        crop: tuple[int, int] | None = None,
        column: str | None = None,
        validation_share: float = 0.02,
        cache_mb: int = 1024,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            train: Data set on disk: a folder of save_to_disk, an imagefolder, parquet, arrow or jsonl files.
            validation: The same for validation; without it, a part of the training images is held out.
            factor: Sides become multiples of this; the command takes it from the model.
            batch_pixels: Pixels of a batch: small images come in large batches.
            policy: How an image gets sides that are multiples of the factor: resize or pad (with white).
            max_side: Larger images are scaled down until their longer side has so many pixels.
            crop: (height, width) of the windows that are cut from larger training images, around one of their
                text boxes (column objects) where they have any; multiples of the factor.
            column: Column of the images; default: image, else images.
            validation_share: Part of the training images that is held out when there is no validation set.
            cache_mb: Keep the decoded images in memory when they need no more than so many MiB.
            num_workers: Processes that decode; 0 is right when the images fit into memory.
            seed: Of the shuffling.
        """
        super().__init__()
        if batch_pixels < 1:
            raise ValueError(f"batch_pixels must be positive, got {batch_pixels}")
        if not 0 < validation_share < 1:
            raise ValueError(f"validation_share must lie between 0 and 1, got {validation_share}")
        if crop is not None and (min(crop) < 1 or any(side % factor for side in crop)):
            raise ValueError(f"crop must be two positive multiples of {factor} (height, width), got {crop}")
        self.crop = None if crop is None else (crop[0], crop[1])
        self.train, self.validation, self.factor = train, validation, factor
        self.batch_pixels, self.max_side, self.column = batch_pixels, max_side, column
        self.policy: Policy = policy
        self.validation_share, self.cache_mb = validation_share, cache_mb
        self.num_workers, self.seed = num_workers, seed
        self.train_images: ImageSet | None = None
        self.validation_images: ImageSet | None = None
        self._train_groups: dict[tuple[int, int], np.ndarray] = {}
        self._validation_groups: dict[tuple[int, int], np.ndarray] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the images that are not read yet; those for training only where they are needed."""
        read = partial(
            read_images,
            factor=self.factor,
            policy=self.policy,
            max_side=self.max_side,
            column=self.column,
            cache_mb=self.cache_mb,
        )
        if self.validation is not None and self.validation_images is None:
            self.validation_images = read(self.validation)
            self._validation_groups = self.validation_images.groups
        if self.train_images is not None or (self.validation is not None and stage not in (None, "fit")):
            return
        self.train_images = read(self.train)
        if self.validation is not None:
            self._train_groups = self.train_images.groups
            return
        self.validation_images = self.train_images
        count = len(self.train_images)
        if count < 2:
            raise ValueError(f"{count} image is too few to hold one out: name a validation set")
        held_out = np.zeros(count, bool)
        wanted = min(count - 1, max(1, round(count * self.validation_share)))
        held_out[np.random.default_rng([self.seed, 1]).choice(count, wanted, replace=False)] = True
        for size, group in self.train_images.groups.items():
            for groups, chosen in (
                (self._train_groups, group[~held_out[group]]),
                (self._validation_groups, group[held_out[group]]),
            ):
                if len(chosen):
                    groups[size] = chosen

    @property
    def positions(self) -> int:
        """Codes that the training images have together."""
        windows = {size: window_size(size, self.crop) for size in self._train_groups}
        pixels = sum(math.prod(windows[size]) * len(group) for size, group in self._train_groups.items())
        return pixels // self.factor**2

    def batch_size(self, size: tuple[int, int]) -> int:
        """Images of (H, W) in a batch."""
        return max(1, self.batch_pixels // (size[0] * size[1]))

    def train_dataloader(self) -> Batches:
        """``ImageBatch``es, shuffled anew in each epoch."""
        assert self.train_images is not None
        groups = list(self._train_groups.values())
        sizes = [self.batch_size(window_size(size, self.crop)) for size in self._train_groups]
        plan = partial(shuffled_batches, groups, sizes, self.seed)
        load = partial(self.train_images.batch, crop=self.crop, seed=self.seed)
        return Batches(plan, load, num_workers=self.num_workers, **ranks(self))

    def val_dataloader(self) -> InOrder:
        """The validation images, in order."""
        images, groups = self.validation_images, self._validation_groups
        assert images is not None
        return in_order(self, list(groups.values()), [self.batch_size(s) for s in groups], images.batch)

    def test_dataloader(self) -> InOrder:
        """The validation images."""
        return self.val_dataloader()

    def predict_dataloader(self) -> InOrder:
        """The validation images."""
        return self.val_dataloader()

    def sample_images(self, count: int, seed: int = 0) -> Iterator[Tensor]:
        """``count`` training images drawn without replacement (all when there are fewer), cut as in training,
        in batches of one size each, for a first look at the latents."""
        assert self.train_images is not None, "setup() was not called"
        everything = np.concatenate(list(self._train_groups.values()))
        rng = np.random.default_rng([seed, 2])
        chosen = rng.choice(everything, min(count, len(everything)), replace=False)
        groups = [group[np.isin(group, chosen)] for group in self._train_groups.values()]
        sizes = [self.batch_size(window_size(size, self.crop)) for size in self._train_groups]
        for samples in ordered_batches(groups, sizes):
            if len(samples):
                yield self.train_images.batch(samples, self.crop, seed).images

    def examples(self, count: int, seed: int = 0) -> list[Tensor]:
        """``count`` validation images (3, H, W), always the same ones, to look at."""
        assert self.validation_images is not None, "setup() was not called"
        everything = np.concatenate(list(self._validation_groups.values()))
        rng = np.random.default_rng([seed, 3])
        chosen = rng.choice(everything, min(count, len(everything)), replace=False)
        return [self.validation_images.load(np.array([i]))[0] for i in chosen]


def ranks(data: L.LightningDataModule) -> dict[str, int]:
    """This process's rank, and of how many."""
    trainer = data.trainer
    if trainer is None:
        return {"rank": 0, "world_size": 1}
    return {"rank": trainer.global_rank, "world_size": trainer.world_size}


def in_order(
    data: L.LightningDataModule,
    groups: Sequence[np.ndarray],
    sizes: Sequence[int],
    load: Callable[[np.ndarray], Any],
) -> InOrder:
    """Groups of samples in batches of their sizes, for validation."""
    mine = ranks(data)
    return InOrder(ordered_batches(groups, sizes, mine["world_size"]), load, **mine)
