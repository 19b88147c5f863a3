"""Sheets of pictures that a training draws, as RUN/NAME/step-N.png and in TensorBoard."""

from abc import ABC, abstractmethod
from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image


class Drawing(Callback, ABC):
    """Calls ``draw`` every N steps, and at the end of the training."""

    def __init__(self, every: int) -> None:
        self.every = every

    @abstractmethod
    def draw(self, trainer: L.Trainer, training: L.LightningModule) -> None:
        """Draw a sheet with the current network; all ranks call it."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.every > 0 and step % self.every == 0 and 0 < step < trainer.max_steps:
            self.draw(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.draw(trainer, pl_module)


def step_file(trainer: L.Trainer, name: str, suffix: str) -> Path:
    """RUN/``name``/step-N``suffix``."""
    return Path(trainer.default_root_dir) / name / f"step-{trainer.global_step:06d}{suffix}"


def save_sheet(trainer: L.Trainer, name: str, sheet: Image.Image) -> None:
    """Write a sheet as a file and into TensorBoard."""
    path = step_file(trainer, name, ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(sheet), trainer.global_step, dataformats="HWC")
