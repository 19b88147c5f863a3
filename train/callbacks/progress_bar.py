"""The progress bar of a training."""

import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from ...tokenizers.progress import seconds_after


class StepBar(ProgressBar):
    """One bar over all steps of the training, with the time left and the latest figures.

    If the output is not a terminal, it prints a line every half minute. As a part of a longer command
    (``part_of_more``) it also says when that will be done.
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
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
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
        if self._bar is None:
            return
        figures = {n: v for n, v in trainer.progress_bar_metrics.items() if isinstance(v, int | float)}
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if not self._bar.disable:
            left = self._bar.tasks[self._task].time_remaining
            self._bar.update(self._task, completed=trainer.global_step, figures=f"{text}{_in_total(left)}")
        elif (now := time.monotonic()) - self._last_line >= self.LINE_SECONDS:
            self._last_line = now
            done = trainer.global_step - self._first
            left = (now - self._began) / max(1, done) * (trainer.max_steps - trainer.global_step)
            position = f"{trainer.global_step}/{trainer.max_steps}"
            self._bar.console.out(
                f"{self.title} {position}, {timedelta(seconds=round(left))} left  {text}{_in_total(left)}",
                highlight=False,
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _in_total(left: float | None) -> str:
    """When the command that this training is a part of will be done."""
    after = seconds_after()
    if left is None or not after:
        return ""
    return f"  ({timedelta(seconds=round(left + after))} left in total)"
