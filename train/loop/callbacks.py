"""Around the steps of a training: checkpoints, the model folder, random states, curves, progress."""

import os
import random
import shutil
import time
import warnings
from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.strategies import ModelParallelStrategy

from ...tokenizers.files import clear_temporary
from ..image.ema import averaged
from .logged_training import LoggedTraining
from .logs import CsvLog

MODEL = "model"
"""Folder of the model in a run's folder."""
LAST = "last"
CHECKPOINT = f"{LAST}.ckpt"
"""What a run goes on from, in its folder."""


def _rehearsal(trainer: Any) -> bool:
    """Whether this is a fast_dev_run, which writes nothing."""
    return bool(trainer.fast_dev_run)


class Guard(Callback, ABC):
    """Knows whether a run is worth keeping as it is now; what it says of trouble is not written to files."""

    @abstractmethod
    def trouble(self, trainer: L.Trainer) -> str:
        """What is wrong, in a clause; empty where nothing is. All ranks call it together."""


def trouble(trainer: Any) -> str:
    """What this run's :class:`Guard` finds wrong with it now; empty where there is nothing, or no guard."""
    return next((guard.trouble(trainer) for guard in trainer.callbacks if isinstance(guard, Guard)), "")


def validation_follows(trainer: L.Trainer) -> bool:
    """Whether the step that ends now is followed by a validation."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    return fetcher is not None and not loop.val_loop.skip and loop._should_check_val_fx(fetcher)


class Checkpoints(ModelCheckpoint):
    """RUN/last.ckpt, by the clock or by steps, and at the end: a finished run is known to be finished.

    Not in trouble (:func:`trouble`), so that it always holds weights worth going on from. Where a validation
    follows the step, the checkpoint comes after it: a run that goes on would not do it again.
    """

    def __init__(self, seconds: float = 300.0, steps: int | None = None) -> None:
        """
        Args:
            seconds: Seconds between two checkpoints.
            steps: Count steps instead.
        """
        super().__init__(
            filename=LAST,
            enable_version_counter=False,
            every_n_train_steps=steps,
            train_time_interval=timedelta(seconds=seconds) if steps is None else None,
            save_on_train_epoch_end=False,
        )
        self.last_good: tuple[str, int] | None = None
        """The file to go on from, and its step; None as long as there is none."""
        self._waits, self._waiting = False, False
        """Whether a checkpoint now has to wait for the validation, and whether one does."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The run's folder is the trainer's."""
        self.dirpath = str(Path(trainer.default_root_dir).absolute())
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that goes on does so from a good checkpoint."""
        super().on_train_start(trainer, pl_module)
        self.last_good = (str(trainer.ckpt_path), trainer.global_step) if trainer.ckpt_path else None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last step is worth a checkpoint wherever it falls, but not in trouble."""
        super().on_train_end(trainer, pl_module)
        if self._last_global_step_saved == trainer.global_step or _rehearsal(trainer):
            return
        if reason := trouble(trainer):
            kept = f"kept is the state of step {self.last_good[1]}" if self.last_good else "nothing is kept"
            warnings.warn(f"the end of the training is not saved: {reason}; {kept}", stacklevel=2)
        self.save_now(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """When it is time."""
        self._waits = validation_follows(trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._waits = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The checkpoint that waited."""
        super().on_validation_end(trainer, pl_module)
        if self._waiting:
            self._waiting = False
            self.save_now(trainer)

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> None:
        if self._waits:
            self._waiting = True
        elif not trouble(trainer):
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def save_now(self, trainer: L.Trainer) -> None:
        """Save this step, if it is not saved yet."""
        if self._last_global_step_saved != trainer.global_step and not _rehearsal(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Beside the last one first, on the same disk: whoever is killed meanwhile keeps that."""
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
    """Remove a checkpoint, a file or a folder of shards, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def recover(run_folder: str | Path) -> Path | None:
    """RUN/last.ckpt, or None where there is none; put back if a run was killed while it was replaced."""
    path = Path(run_folder) / CHECKPOINT
    old = path.with_name(f".{path.name}.old")
    if not path.exists() and old.exists():
        os.replace(old, path)
    return path if path.exists() else None


class ModelFolder(Callback):
    """Writes RUN/model, whole or not at all, whenever a checkpoint is written and at the end; not in trouble
    (:func:`trouble`)."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Clear away what a killed run began to write."""
        if trainer.is_global_zero and not _rehearsal(trainer):
            clear_temporary(trainer.default_root_dir)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
        """Beside every checkpoint, the folder that everything else loads."""
        self._write(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The trained model."""
        self._write(trainer, pl_module)

    def _write(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trouble(trainer) or _rehearsal(trainer):
            return
        sharded = isinstance(trainer.strategy, ModelParallelStrategy)  # gathered by all ranks
        if sharded or trainer.is_global_zero:
            with averaged(trainer, pl_module):
                pl_module.save_folder(Path(trainer.default_root_dir) / MODEL)


class RandomStates(Callback):
    """Keeps the random states of Python, NumPy and torch in the checkpoints, which Lightning does not."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, so that the checkpoint opens with ``weights_only=True``."""
        name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
        return {
            "python": random.getstate(),
            "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember them until training begins: what comes before draws numbers too."""
        self._loaded = state_dict

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on with the numbers that would have come next."""
        state, self._loaded = self._loaded, None
        if state is None:
            return
        version, values, gauss_next = state["python"]
        random.setstate((version, tuple(values), gauss_next))
        name, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        torch.set_rng_state(state["torch"].cpu())
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


class Curves(Callback):
    """Logs the figures of the training, as they stand when a checkpoint is written, and continues the CSV log
    of a run that goes on.

    Lightning logs later than it writes checkpoints, and the CSV log holds a row back until the next one
    begins: the row of that step is therefore kept in the checkpoint.
    """

    def __init__(self) -> None:
        self._log: CsvLog | None = None
        self._row: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the log."""
        self._log = next((one for one in trainer.loggers if isinstance(one, CsvLog)), None)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Rows that will be written again are dropped."""
        if self._log is not None:
            self._log.begin(trainer.global_step, self._row)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Figures since the last entry, every ``log_every_n_steps``."""
        if isinstance(pl_module, LoggedTraining):
            pl_module.log_figures()

    def state_dict(self) -> dict[str, Any]:
        """The last row."""
        return {"row": {} if self._log is None else dict(self._log.pending)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember it until training begins."""
        self._row = state_dict["row"]


class StepBar(ProgressBar):
    """One bar over all steps of the training, with the time left and the latest figures.

    Where the output is no terminal, a line every half minute.
    """

    LINE_SECONDS = 30

    def __init__(self, title: str = "training") -> None:
        super().__init__()
        self.title = title
        self._bar: Any = None
        self._task: Any = None
        self._enabled = True
        self._began, self._first, self._last_line = 0.0, 0, 0.0

    def disable(self) -> None:
        """Ranks other than the first show none."""
        self._enabled = False

    def enable(self) -> None:
        """Show it."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the bar."""
        super().on_train_start(trainer, pl_module)
        if not self._enabled:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._began = self._last_line = time.monotonic()
        self._first = trainer.global_step
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", style="dim"),
        )
        self._bar = Progress(
            *columns,
            console=console,
            refresh_per_second=2,
            speed_estimate_period=120,
            disable=not console.is_terminal,
        )
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._task = self._bar.add_task(self.title, total=total, completed=trainer.global_step, figures="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step on."""
        if self._bar is None:
            return
        figures = {n: v for n, v in trainer.progress_bar_metrics.items() if isinstance(v, int | float)}
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if not self._bar.disable:
            self._bar.update(self._task, completed=trainer.global_step, figures=text)
        elif (now := time.monotonic()) - self._last_line >= self.LINE_SECONDS:
            self._last_line = now
            done = trainer.global_step - self._first
            left = (now - self._began) / max(1, done) * (trainer.max_steps - trainer.global_step)
            position = f"{trainer.global_step}/{trainer.max_steps}"
            self._bar.console.out(
                f"{self.title} {position}, {timedelta(seconds=round(left))} left  {text}", highlight=False
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the finished bar standing."""
        self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
