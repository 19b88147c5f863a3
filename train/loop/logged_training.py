"""Base of all trainings: settings in the checkpoint, curves, and how a run resumes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor, nn

from ...storage.pickles import check_stored
from .meters import Means
from .optim import clip, clip_or_skip
from .resume import FORMAT, check_resumed
from .settings import TrainingSettings
from .shards import guard


def on_host(figures: Mapping[str, float]) -> dict[str, Tensor]:
    """Figures for ``log_dict``, on the CPU.

    Lightning would move plain numbers to the GPU, and read those of the progress bar back in every step.
    """
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in figures.items()}


class LoggedTraining(L.LightningModule, ABC):
    """Trains ``self.net`` with one optimizer and logs what ``self.means`` gathers between two log entries.

    A resumed run writes the same curves as one that was never stopped.
    """

    settings_class: type[TrainingSettings] = TrainingSettings
    may_differ: tuple[str, ...] = ()
    """Settings that may change when a run resumes."""
    shown: tuple[str, ...] = ("loss",)
    """Figures shown with the progress bar."""
    skips: bool = False
    """Whether steps with a non-finite gradient are skipped, see ``callbacks.divergence``."""
    skipped: bool = False
    """Whether the last step was."""
    net: nn.Module
    settings: TrainingSettings

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__()
        self.settings = settings
        self.save_hyperparameters(settings.stored())
        self.means = Means()
        self.grad_norm: Tensor | None = None
        self.lr_now = 0.0
        """Learning rate of the last step; when it is logged, Lightning has set the next one."""
        self._logged_step = 0

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu"
    ) -> Self:
        """Load a training from a checkpoint, with settings and weights; nothing is unpickled."""
        check_stored(checkpoint_path)
        checkpoint = torch.load(checkpoint_path, map_location=map_location, weights_only=True)
        training = cls(cls.settings_class.load(checkpoint["hyper_parameters"]))
        training.on_load_checkpoint(checkpoint)
        training.load_state_dict(checkpoint["state_dict"], strict=training.strict_loading)
        return training

    @abstractmethod
    def save_folder(self, folder: str | Path) -> None:
        """Write the trained network as a folder that all else loads; all ranks call it."""

    def averaged(self) -> AbstractContextManager[None]:
        """Context in which ``self.net`` holds averaged weights, if this training averages them."""
        return nullcontext()

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm, and if the training ``skips`` steps, drop a gradient that is not finite."""
        self.lr_now = optimizer.param_groups[0]["lr"]
        parameters = self.net.parameters()
        if self.skips:
            self.grad_norm, self.skipped = clip_or_skip(parameters, gradient_clip_val)
        else:
            self.grad_norm = clip(parameters, gradient_clip_val)

    # curves

    def log_figures(self) -> None:
        """Log the figures since the last log entry, once a step; ``logs.Curves`` calls it."""
        if self.global_step % self._log_every() or self.global_step == self._logged_step:
            return
        self._logged_step = self.global_step
        values = self.read_figures()
        if self.grad_norm is not None:
            values["grad_norm"] = float(self.grad_norm)
        values["lr"] = self.lr_now
        for logger in self.trainer.loggers:  # at once: self.log would wait for the end of the step
            logger.log_metrics({f"train/{k}": v for k, v in values.items()}, self.global_step - 1)
        shown = {name: values[name] for name in self.shown if name in values}
        self.log_dict(on_host(shown), prog_bar=True, logger=False)

    def read_figures(self) -> dict[str, float]:
        """The figures since the last call, over all ranks."""
        self.means.reduce(self.trainer.strategy)
        return self.means.read()

    def load_figures(self, checkpoint: dict[str, Any]) -> None:
        """Continue the figures of the checkpoint."""
        self.means.load_state_dict(checkpoint["means"], self.device)
        if self.global_rank:
            self.means.clear()

    def _log_every(self) -> int:
        trainer: Any = self.trainer
        return trainer.log_every_n_steps

    # checkpoints

    def setup(self, stage: str) -> None:
        guard(self.trainer.strategy)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["format"] = FORMAT
        checkpoint["precision"] = str(self.trainer.precision)
        self.means.reduce(self.trainer.strategy)
        checkpoint["means"] = self.means.state_dict()  # of all ranks: rank 0 then continues with them
        if self.global_rank:
            self.means.clear()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None and self.trainer.state.fn == "fit":
            step = checkpoint["global_step"]
            self.check_resumed(checkpoint["hyper_parameters"], step)
            self.load_figures(checkpoint)
            self._logged_step = step

    def check_resumed(self, stored: Mapping[str, Any], step: int) -> None:
        """Refuse to resume from a checkpoint with other settings.

        Args:
            stored: The checkpoint's hyper-parameters, of this version or an earlier one.
            step: The checkpoint's step.

        Raises:
            ValueError: A setting differs that is not in ``may_differ``.
        """
        for name, constant in self.settings_class.removed.items():
            if (value := stored.get(name, constant)) != constant:
                raise ValueError(
                    f"the checkpoint was trained with {name}={value}, which is now always {constant}: "
                    "start a new run (init_from reuses the weights)"
                )
        check_resumed(self.settings_class.upgraded(stored), self.hparams, step, self.may_differ)
