"""Sheets of pictures that a training draws: RUN/NAME/step-N.png, and in TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

GRAY = (222, 222, 222)
GAP = 4


class Drawing(Callback):
    """Calls ``draw`` every so many steps, and at the end of the training."""

    def __init__(self, every: int) -> None:
        self.every = every

    def draw(self, trainer: L.Trainer, training: L.LightningModule) -> None:
        """Draw what the network makes now; all ranks call it."""
        raise NotImplementedError

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


def picture_sheet(cells: Sequence[Sequence[Image.Image]], width: int = 960, enlarge: int = 2) -> Image.Image:
    """Cells, each a column of pictures from top to bottom, side by side in lines of at most ``width`` px."""
    columns = [_stack(cell, enlarge) for cell in cells]
    lines: list[list[Image.Image]] = [[]]
    for column in columns:
        if lines[-1] and sum(c.width + GAP for c in lines[-1]) + column.width > width:
            lines.append([])
        lines[-1].append(column)
    heights = [max((c.height for c in line), default=0) + 2 * GAP for line in lines]
    full = max(sum(c.width + GAP for c in line) + GAP for line in lines)
    sheet = Image.new("RGB", (full, sum(heights) + GAP), GRAY)
    y = GAP
    for line, height in zip(lines, heights):
        x = GAP
        for column in line:
            sheet.paste(column, (x, y))
            x += column.width + GAP
        y += height
    return sheet


def _stack(pictures: Sequence[Image.Image], enlarge: int) -> Image.Image:
    sized = [p.resize((p.width * enlarge, p.height * enlarge), Image.Resampling.NEAREST) for p in pictures]
    column = Image.new("RGB", (max(p.width for p in sized), sum(p.height for p in sized)), GRAY)
    y = 0
    for picture in sized:
        column.paste(picture, (0, y))
        y += picture.height
    return column
