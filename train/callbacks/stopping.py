"""On SIGINT or SIGTERM: finish the step, save a checkpoint, exit."""

import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.callbacks import Callback

from .checkpoints import Checkpoints, validation_follows

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping(Callback):
    """On the first SIGINT (Ctrl+C) or SIGTERM (kill, or preemption on a cluster), finishes the step and
    writes RUN/last.ckpt; on a second SIGINT, stops at once.

    If one of several processes gets the signal, all stop after the same step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._stopping = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning's handler of SIGTERM would stop without a checkpoint.
        self.received, self._stopping = None, False
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # only the main thread can handle signals
                return

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if not stop or trainer.global_step >= trainer.max_steps > 0:
            return
        if trainer.fit_loop._should_accumulate():
            return  # in the middle of a step
        self._stopping = True
        if not validation_follows(trainer):
            self._stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._stopping:
            self._stop(trainer)

    def _stop(self, trainer: L.Trainer) -> NoReturn:
        """Save and raise KeyboardInterrupt, or SystemExit with 128 plus the signal's number, as shells do."""
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, Checkpoints):
                callback.save_now(trainer)
        number = self.received or signal.SIGTERM
        if trainer.is_global_zero:
            name = signal.Signals(number).name
            print(
                f"earlyfusion: stopped by {name} after step {trainer.global_step}, which is saved",
                file=sys.stderr,
            )
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
        self._before = {}
