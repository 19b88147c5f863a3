"""Measures an image tokenizer during training, as ``earlyfusion eval reconstruction`` does, on a small fixed
set."""

import warnings
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from ...eval.items import Item
from ...eval.metrics.ocr import Reader, readers
from ...eval.suites import ocr_suite
from ...eval.tasks.reconstruction import flat_figures, measure
from .ema import averaged
from .module import ImageTokenizerTraining

PER_KIND = 24
"""Images of each kind."""


class Bench(Callback):
    """Logs PSNR, SSIM, codebook usage, and T-ACC, T-NED and CER by every installed OCR engine, as bench/*."""

    def __init__(
        self,
        every: int = 2000,
        kinds: Sequence[str] = ("word", "random", "line"),
        seed: int = 0,
    ) -> None:
        """
        Args:
            every: Steps between two measurements; 0 turns them off.
            kinds: Kinds of images of the built-in suite (`earlyfusion eval reconstruction --suite ocr`).
            seed: Random seed that selects the images, the same every time.
        """
        if every < 0:
            raise ValueError(f"bench.every must be 0 or more, got {every}")
        self.every, self.kinds, self.seed = every, tuple(kinds), seed
        self._items: list[Item] | None = None
        self._readers: list[Reader] = []
        self._measured = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = self.every and (step % self.every == 0 or step == trainer.max_steps)
        if not due or not trainer.is_global_zero or not isinstance(pl_module, ImageTokenizerTraining):
            return
        if not pl_module.codebook_ready or step == self._measured:  # a step may accumulate several batches
            return
        self._measured = step
        if self._items is None:
            self._prepare()
        if not self._items:
            return
        with averaged(trainer, pl_module):
            figures = measure(pl_module.net, self._items, self._readers).figures
        values = {f"bench/{name}": value for name, value in flat_figures(figures).items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step - 1)  # the row of Lightning's own figures of this step

    def _prepare(self) -> None:
        try:
            self._items = ocr_suite(self.seed, self.kinds, PER_KIND)
        except ImportError as error:
            warnings.warn(f"the bench is off in this training: {error}", stacklevel=2)
            self._items = []
            return
        self._readers = [*readers()]
