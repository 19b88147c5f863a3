"""Training of the recognizer: strips around the text boxes of rendered images, CTC, character error rate."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...data.images import OBJECTS, in_order, ranks, text_boxes
from ...data.loader import Batches, InOrder, shuffled_batches
from ...data.sources import base_folder, image_column, load_source, open_image, raw_images, undecoded
from ...eval.metrics.text import edit_distance
from ..loop.logged_training import LoggedTraining
from ..loop.optim import adamw, scheduled
from ..loop.resume import check_config
from ..loop.schedule import warmup_stable_decay
from ..loop.settings import TrainingSettings
from .recognizer import BLANK, Recognizer, RecognizerConfig, degrade

HEIGHT = Recognizer.height
MARGIN = 4
"""Pixels to the left and to the right of a text."""


class TextBatch(NamedTuple):
    """Strips of equal width and what stands in them."""

    strips: Tensor
    """(N, 1, 32, W) in [-1, 1], gray."""
    texts: list[str]


@dataclass(frozen=True, kw_only=True)
class RecognizerSettings(TrainingSettings):
    """Settings of :class:`RecognizerTraining`."""

    nested: ClassVar[Mapping[str, type]] = {"config": RecognizerConfig}

    config: RecognizerConfig = RecognizerConfig()
    """The network."""
    lr: float = 3e-3
    """Learning rate after the warm-up."""
    decay_fraction: float = 0.6
    """Fraction of the steps, at the end, over which the learning rate falls to 0."""
    degraded: bool = True
    """Train on blurred, rescaled, noisy and inverted strips too (recognizer.degrade)."""
    init_from: str | None = None
    """Folder of a recognizer whose weights to begin with."""
    seed: int = 0
    """Random seed of the degradation."""


class RecognizerTraining(LoggedTraining):
    """Trains a ``Recognizer``, ``self.net``."""

    settings_class = RecognizerSettings
    settings: RecognizerSettings
    net: Recognizer

    def __init__(self, settings: RecognizerSettings = RecognizerSettings()) -> None:
        super().__init__(settings)
        self.config = settings.config
        self.net = Recognizer(self.config)
        if settings.init_from is not None:
            net = Recognizer.load(settings.init_from)
            check_config(settings.init_from, net.config, self.config)
            self.net.load_state_dict(net.state_dict())
        self._read = [0, 0, 0, 0]  # texts, read exactly, characters, edits

    def forward(self, strips: Tensor) -> Tensor:
        """``Recognizer.forward``."""
        return self.net(strips)

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """Strips and their texts -> CTC loss per character (scalar)."""
        strips = batch.strips
        if self.settings.degraded:
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.global_step)
            strips = degrade(strips, generator)
        loss = ctc_loss(self.net, self(strips), batch.texts)
        self.means.add("loss", loss)
        return loss

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Loss, and what is read."""
        loss = ctc_loss(self.net, self(batch.strips), batch.texts)
        self.log("validation/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.texts))
        for text, found in zip(batch.texts, self.net.read(batch.strips), strict=True):
            for i, value in enumerate((1, text == found, len(text), edit_distance(text, found))):
                self._read[i] += value

    def on_validation_epoch_end(self) -> None:
        """Exact matches and character error rate over the whole set."""
        texts, exact, characters, edits = self._read
        if texts:
            self.log_dict({"validation/exact": exact / texts, "validation/cer": edits / max(1, characters)})
        self._read = [0, 0, 0, 0]

    def configure_optimizers(self) -> Any:
        """AdamW; warm-up, stable, decay."""
        s = self.settings
        shape = (s.max_steps, s.warmup_steps, s.decay_fraction)
        optimizer = adamw(self.net, s.lr, s.betas, 1e-8, s.weight_decay)
        return scheduled(optimizer, lambda step: warmup_stable_decay(step, *shape))

    def save_folder(self, folder: str | Path) -> None:
        """Write the recognizer as a folder that ``Recognizer.load`` reads."""
        self.net.save(folder)


def ctc_loss(net: Recognizer, log_probabilities: Tensor, texts: list[str]) -> Tensor:
    """CTC loss per character (scalar) of ``log_probabilities`` (steps, N, classes), as ``net`` gives them."""
    steps = len(log_probabilities)
    classes = [net.classes(text) for text in texts]
    lengths = torch.tensor([len(c) for c in classes])
    targets = torch.tensor([c for some in classes for c in some], dtype=torch.long)
    return F.ctc_loss(
        log_probabilities.float(),
        targets.to(log_probabilities.device),
        torch.full((len(texts),), steps),
        lengths,
        blank=BLANK,
        zero_infinity=True,  # a text longer than its strip has steps cannot be aligned
    )


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
            train: Data set on disk with the columns image and objects; `earlyfusion text-images` writes one.
            validation: The same for validation; default: the part "validation" of train, if there is one.
            batch_size: Strips of a batch.
            longest: Wider texts are left out, in pixels.
            limit: Use the first so many images alone.
            seed: Of the shuffling.
        """
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        self.train, self.validation, self.batch_size = train, validation, batch_size
        self.longest, self.limit, self.seed = longest, limit, seed
        self.train_strips: Strips | None = None
        self.validation_strips: Strips | None = None

    def setup(self, stage: str | None = None) -> None:
        """Cut the strips, once."""
        if self.train_strips is None and stage in (None, "fit"):
            self.train_strips = Strips.read(self.train, "train", self.longest, self.limit)
        if self.validation_strips is None:
            own = Path(self.train) / "validation"
            source = self.validation or (str(own) if own.is_dir() else None)
            if source is not None:
                self.validation_strips = Strips.read(source, "validation", self.longest, self.limit)

    def train_dataloader(self) -> Batches:
        """``TextBatch``es, shuffled anew in each epoch."""
        assert self.train_strips is not None
        groups = list(self.train_strips.groups.values())
        plan = partial(shuffled_batches, groups, [self.batch_size] * len(groups), self.seed)
        return Batches(plan, self.train_strips.load, **ranks(self))

    def val_dataloader(self) -> InOrder | list:
        """The validation strips, in order; nothing where there are none."""
        strips = self.validation_strips
        if strips is None:
            return []
        groups = list(strips.groups.values())
        return in_order(self, groups, [self.batch_size] * len(groups), strips.load)


class Strips:
    """Gray strips 32 px high around text boxes, in groups of equal width."""

    def __init__(self, found: Iterable[tuple[np.ndarray, str]]) -> None:
        """``found``: strips (32, W) uint8 and their texts, at least one."""
        by_width: dict[int, list[tuple[np.ndarray, str]]] = {}
        for strip, text in found:
            by_width.setdefault(strip.shape[1], []).append((strip, text))
        widths = sorted(by_width)
        ends = np.cumsum([0, *(len(by_width[width]) for width in widths)])
        self.groups = {width: np.arange(a, b) for width, a, b in zip(widths, ends, ends[1:])}
        self._strips = {width: np.stack([strip for strip, _ in by_width[width]]) for width in widths}
        self._first = {width: int(a) for width, a in zip(widths, ends)}
        self._texts = [text for width in widths for _, text in by_width[width]]

    @classmethod
    def around(cls, images: Iterable[tuple[Image.Image, Any]], longest: int = 10_000) -> Self:
        """The strips around the boxes of images, each given with its ``objects``."""
        return cls(
            (strip, text)
            for image, objects in images
            for strip, text in _strips(image, objects)
            if strip.shape[1] <= longest
        )

    @classmethod
    def read(cls, source: str, split: str, longest: int, limit: int | None = None) -> Self:
        """Those of a data set on disk. Images that cannot be read are left out, with a warning.

        Raises ValueError where there are no boxes with texts.
        """
        dataset = load_source(source, split)
        column = image_column(dataset)
        if OBJECTS not in dataset.column_names:
            raise ValueError(
                f"{source} has no column {OBJECTS!r} with the boxes of its texts: `earlyfusion text-images` "
                "writes it"
            )
        dataset = undecoded(dataset.select_columns([column, OBJECTS]), [column])
        folder = base_folder(source)
        found: list[tuple[np.ndarray, str]] = []
        skipped: list[str] = []
        for number, row in enumerate(dataset.select(range(min(len(dataset), limit or len(dataset))))):
            assert isinstance(row, dict)
            raw = next(iter(raw_images(row[column], folder)), None)
            if raw is None:
                continue
            try:
                image = open_image(raw)
            except (ValueError, FileNotFoundError) as error:
                skipped.append(f"row {number}: {error}")
                continue
            try:
                found += [pair for pair in _strips(image, row[OBJECTS]) if pair[0].shape[1] <= longest]
            except ValueError as error:
                raise ValueError(f"{source}, row {number}: {error}") from None
        if skipped:
            warnings.warn(
                f"{source}: skipped {len(skipped)} images that cannot be read; {skipped[0]}", stacklevel=2
            )
        if not found:
            raise ValueError(f"{source} has no text box of at most {longest} px with a text")
        return cls(found)

    def load(self, samples: np.ndarray) -> TextBatch:
        """Strips of one width."""
        width = next(w for w, group in self.groups.items() if group[0] <= samples[0] <= group[-1])
        strips = torch.from_numpy(self._strips[width][samples - self._first[width]])[:, None]
        return TextBatch(strips.float().div_(127.5).sub_(1), [self._texts[i] for i in samples])


def _strips(image: Image.Image, objects: Any) -> Iterator[tuple[np.ndarray, str]]:
    """The strip of each text in an image."""
    gray = np.asarray(image.convert("L"))
    boxes, texts = text_boxes(objects, image.size, image.size), (objects or {}).get("text") or ()
    if texts and len(texts) != len(boxes):
        raise ValueError(f"{OBJECTS} has {len(texts)} texts for {len(boxes)} boxes, expected one for each")
    for box, text in zip(boxes, texts):
        if text:
            yield _strip(gray, box), text


def _strip(gray: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of ``gray`` (H, W) around ``box``, (32, multiple of 32); beyond the image its edge repeats."""
    left, top, right, bottom = box
    width = -(-int(np.ceil(right - left) + 2 * MARGIN) // 32) * 32
    x = round((left + right - width) / 2)
    y = round((top + bottom - HEIGHT) / 2)
    rows = np.clip(np.arange(y, y + HEIGHT), 0, gray.shape[0] - 1)
    columns = np.clip(np.arange(x, x + width), 0, gray.shape[1] - 1)
    return gray[rows[:, None], columns]
