"""Checkpoints and the model folder of a run."""

import os
import shutil
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy

from ...storage.files import clear_temporary
from ..loop.resume import LAST, MODEL
from .divergence import trouble


def validation_follows(trainer: L.Trainer) -> bool:
    """Whether a validation follows the step that ends now."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    return fetcher is not None and not loop.val_loop.skip and loop._should_check_val_fx(fetcher)


def _rehearsal(trainer: Any) -> bool:
    """Whether this is a ``fast_dev_run``, which writes nothing."""
    return bool(trainer.fast_dev_run)


class Checkpoints(ModelCheckpoint):
    """Writes RUN/last.ckpt every N seconds or steps, and at the end.

    It always holds good weights: none is written while the run is in trouble (``divergence.trouble``).
    If a validation follows the step, the checkpoint is written after it, since a resumed run does not repeat
    it. The checkpoint at the end marks a finished run.
    """

    def __init__(self, seconds: float = 300.0, steps: int | None = None) -> None:
        """
        Args:
            seconds: Seconds between two checkpoints.
            steps: Steps between two checkpoints, instead of seconds.
        """
        super().__init__(
            filename=LAST,
            enable_version_counter=False,
            every_n_train_steps=steps,
            train_time_interval=timedelta(seconds=seconds) if steps is None else None,
            save_on_train_epoch_end=False,
        )
        self.last_good: tuple[str, int] | None = None
        """The file to resume from and its step; None before the first checkpoint."""
        self._waits, self._waiting = False, False
        """Whether a checkpoint must wait for the validation, and whether one is waiting."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir).absolute())
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.last_good = (str(trainer.ckpt_path), trainer.global_step) if trainer.ckpt_path else None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._last_global_step_saved == trainer.global_step or _rehearsal(trainer):
            return
        if reason := trouble(trainer):
            kept = f"last.ckpt has step {self.last_good[1]}" if self.last_good else "nothing was saved"
            warnings.warn(f"the final weights are not saved: {reason}; {kept}", stacklevel=2)
        self.save_now(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._waits = validation_follows(trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._waits = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self._waiting:
            self._waiting = False
            self.save_now(trainer)

    def save_now(self, trainer: L.Trainer) -> None:
        """Save this step, if it is not saved yet."""
        if self._last_global_step_saved != trainer.global_step and not _rehearsal(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> None:
        if self._waits:
            self._waiting = True
        elif not trouble(trainer):
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Write a new file, then replace the last one, which survives if the run is killed meanwhile."""
        path = Path(filepath)
        new, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
        if trainer.is_global_zero:
            remove(new)
        trainer.strategy.barrier("remove")
        super()._save_checkpoint(trainer, str(new))
        trainer.strategy.barrier("saved")
        if trainer.is_global_zero:
            if path.is_dir() or new.is_dir():  # shards: os.replace swaps only files
                remove(old)
                if path.exists():
                    os.replace(path, old)
            os.replace(new, path)
            remove(old)
        trainer.strategy.barrier("replaced")
        self._last_checkpoint_saved = filepath
        self.last_good = (filepath, trainer.global_step)


def remove(path: Path) -> None:
    """Remove a checkpoint, a file or a folder of shards, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class ModelFolder(Callback):
    """Writes RUN/model, whole or not at all, with every checkpoint and at the end, unless the run is in
    trouble (``divergence.trouble``)."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not _rehearsal(trainer):
            clear_temporary(trainer.default_root_dir)  # left by a killed run

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
        self._write(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, pl_module)

    def _write(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trouble(trainer) or _rehearsal(trainer):
            return
        sharded = isinstance(trainer.strategy, ModelParallelStrategy)  # gathered by all ranks
        if sharded or trainer.is_global_zero:
            with pl_module.averaged():
                pl_module.save_folder(Path(trainer.default_root_dir) / MODEL)
