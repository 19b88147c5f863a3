"""What the trainings share: curves, and how a run goes on."""

from typing import Any

import lightning as L
from torch import Tensor, nn

from .meters import Means
from .schedule import check_resumed, clip


class LoggedTraining(L.LightningModule):
    """Trains ``self.net`` with one optimizer and logs what ``self.means`` gathers between two log entries.

    A run that goes on from a checkpoint writes the curves that it would have written.
    """

    net: nn.Module
    may_differ: tuple[str, ...] = ()
    """Settings that a run may go on with when they changed."""
    shown: tuple[str, ...] = ("loss",)
    """Figures that stand beside the progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self.means = Means()
        self.grad_norm: Tensor | None = None
        self.lr_now = 0.0
        """Learning rate of the last step; when it is logged, Lightning has set the next one."""
        self._logged_step = 0

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm, which is logged."""
        self.lr_now = optimizer.param_groups[0]["lr"]
        self.grad_norm = clip(self.net.parameters(), gradient_clip_val)

    def log_figures(self) -> None:
        """Log the figures since the last log entry, once a step; ``Curves`` calls it."""
        if self.global_step % self._log_every() or self.global_step == self._logged_step:
            return
        self._logged_step = self.global_step
        values = self.read_figures()
        if self.grad_norm is not None:
            values["grad_norm"] = float(self.grad_norm)
        values["lr"] = self.lr_now
        for logger in self.trainer.loggers:  # at once, where self.log would wait for the end of the step
            logger.log_metrics({f"train/{k}": v for k, v in values.items()}, self.global_step - 1)
        shown = {name: values[name] for name in self.shown if name in values}
        self.log_dict(shown, prog_bar=True, logger=False)

    def read_figures(self) -> dict[str, float]:
        """The figures since they were last read, over all ranks, and start again."""
        self.means.reduce(self.trainer.strategy)
        return self.means.read()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the curves need to go on: the sums over all ranks, which rank 0 then goes on with."""
        self.means.reduce(self.trainer.strategy)
        checkpoint["means"] = self.means.state_dict()
        if self.global_rank:
            self.means.clear()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse other settings than the checkpoint's.

        Raises ValueError.
        """
        if self._trainer is not None and self.trainer.state.fn == "fit":
            step = checkpoint["global_step"]
            check_resumed(checkpoint["hyper_parameters"], self.hparams, step, self.may_differ)
            self.load_figures(checkpoint)
            self._logged_step = step

    def load_figures(self, checkpoint: dict[str, Any]) -> None:
        """Go on gathering where the checkpoint was written."""
        self.means.load_state_dict(checkpoint["means"], self.device)
        if self.global_rank:
            self.means.clear()

    def _log_every(self) -> int:
        trainer: Any = self.trainer
        return trainer.log_every_n_steps
