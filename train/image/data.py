"""Data of image-tokenizer and recognizer trainings: batches of one size, shuffled by a seed."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
from datasets import Dataset
from torch import Tensor

from ...data.crops import window_size
from ...data.images import ImageSet, read_images
from ...data.loader import Batches, InOrder, ordered_batches, shuffled_batches
from ...data.strips import Strips
from ...tokenizers.pixels import Policy
from ..loop.ranks import in_order, ranks


class ImageData(L.LightningDataModule):
    """Images for the image tokenizer, in batches of one size with about the same number of pixels."""

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
            validation: Data set of validation images. Default: validation_share of the training images.
            factor: Make sides multiples of this. The command takes it from the model.
            batch_pixels: Pixels per batch: small images get large batches.
            policy: How to make sides multiples of the factor: resize, or pad with white.
            max_side: Scale larger images down until their longer side has this many pixels.
            crop: (height, width) of the window to cut from each larger training image, around one of its text
                boxes (column objects) if it has any. Multiples of the factor.
            column: Column of the images. Default: image, else images.
            validation_share: Fraction of the training images to hold out without a validation set.
            cache_mb: Cache the decoded images in memory if they need at most this many MiB.
            num_workers: Worker processes that decode images. Use 0 if the images fit into the cache.
            seed: Random seed of the shuffling.
        """
        super().__init__()
        if batch_pixels < 1:
            raise ValueError(f"batch_pixels must be positive, got {batch_pixels}")
        if not 0 < validation_share < 1:
            raise ValueError(f"validation_share must be between 0 and 1, got {validation_share}")
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
        """Read the images if not done yet; training images only if they are needed."""
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
            raise ValueError(
                f"data.train has {count} image(s), too few to hold one out: give data.validation"
            )
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
        """Number of code positions in all training images together."""
        windows = {size: window_size(size, self.crop) for size in self._train_groups}
        pixels = sum(math.prod(windows[size]) * len(group) for size, group in self._train_groups.items())
        return pixels // self.factor**2

    def batch_size(self, size: tuple[int, int]) -> int:
        """Images of size (H, W) per batch."""
        return max(1, self.batch_pixels // (size[0] * size[1]))

    def train_dataloader(self) -> Batches:
        assert self.train_images is not None
        groups = list(self._train_groups.values())
        sizes = [self.batch_size(window_size(size, self.crop)) for size in self._train_groups]
        plan = partial(shuffled_batches, groups, sizes, self.seed)
        load = partial(self.train_images.batch, crop=self.crop, seed=self.seed)
        return Batches(plan, load, num_workers=self.num_workers, **ranks(self))

    def val_dataloader(self) -> InOrder:
        images, groups = self.validation_images, self._validation_groups
        assert images is not None
        return in_order(self, list(groups.values()), [self.batch_size(s) for s in groups], images.batch)

    def predict_dataloader(self) -> InOrder:
        return self.val_dataloader()

    def sample_images(self, count: int, seed: int = 0) -> Iterator[Tensor]:
        """Draw training images without replacement, cropped as in training, in batches of one size.

        Args:
            count: Number of images, at most all.
        """
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
        """``count`` validation images (3, H, W) to show, the same for the same seed."""
        assert self.validation_images is not None, "setup() was not called"
        everything = np.concatenate(list(self._validation_groups.values()))
        rng = np.random.default_rng([seed, 3])
        chosen = rng.choice(everything, min(count, len(everything)), replace=False)
        return [self.validation_images.load(np.array([i]))[0] for i in chosen]


class TextBoxData(L.LightningDataModule):
    """Strips around the text boxes of a data set with the columns image and objects."""

    def __init__(
        self,
        train: str,
        validation: str | None = None,
        batch_size: int = 64,
        longest: int = 256,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            train: Data set with the columns image and objects, as `earlyfusion text-images` writes it.
            validation: Data set of validation images. Default: the folder "validation" in train, if present.
            batch_size: Strips per batch.
            longest: Maximum width of a text in pixels; wider ones are left out.
            limit: Use only the first N images.
            seed: Random seed of the shuffling.
        """
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        self.train, self.validation, self.batch_size = train, validation, batch_size
        self.longest, self.limit, self.seed = longest, limit, seed
        self.train_strips: Strips | None = None
        self.validation_strips: Strips | None = None

    def setup(self, stage: str | None = None) -> None:
        if self.train_strips is None and stage in (None, "fit"):
            self.train_strips = Strips.read(self.train, "train", self.longest, self.limit)
        if self.validation_strips is None:
            own = Path(self.train) / "validation"
            source = self.validation or (str(own) if own.is_dir() else None)
            if source is not None:
                self.validation_strips = Strips.read(source, "validation", self.longest, self.limit)

    def train_dataloader(self) -> Batches:
        assert self.train_strips is not None
        groups = list(self.train_strips.groups.values())
        plan = partial(shuffled_batches, groups, [self.batch_size] * len(groups), self.seed)
        return Batches(plan, self.train_strips.load, **ranks(self))

    def val_dataloader(self) -> InOrder | list:
        strips = self.validation_strips
        if strips is None:
            return []
        groups = list(strips.groups.values())
        return in_order(self, groups, [self.batch_size] * len(groups), strips.load)
