"""Guards a training: skips steps with a non-finite gradient, and stops after several in a row or if the loss
stays above its best. The last good checkpoint is kept.

A LightningModule takes part with two attributes::

    def training_step(self, batch, batch_idx):
        ...
        self.last_loss = cross_entropy.detach()  # scalar, of every micro-batch

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.grad_norm, self.skipped = clip_or_skip(self.net.parameters(), gradient_clip_val)
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ..loop.resume import MODEL

RECENT = 5
"""Steps of the short average of the loss, for checkpoints; the long average reacts too slowly."""


class Diverged(ValueError):
    """A training went wrong; the message states how, and what to do.

    A ValueError, since the settings are to blame: the command prints it in one line.
    """


@dataclass
class Figures:
    """State of ``Divergence``; plain numbers, stored in the checkpoints."""

    skipped: int = 0
    """Skipped steps in total."""
    streak: int = 0
    """Skipped steps in a row, up to now."""
    steps: int = 0
    """Steps in the averages."""
    average: float = 0.0
    """Average of the loss: of all steps at first, then exponential."""
    recent: float = 0.0
    """The same over fewer steps."""
    best: float | None = None
    """The lowest average; None before the first one."""
    best_step: int = 0
    above_since: int | None = None
    """The step since which the average has been more than the tolerance above its best."""


class Divergence(Callback):
    """Stops a training that diverges, and keeps its last good checkpoint.

    The loss, ``last_loss`` of the LightningModule, stays on the device between two checks. All ranks check
    its mean over the ranks, so that all stop together.
    """

    def __init__(
        self,
        tolerance: float = 1.0,
        patience: int = 100,
        max_skipped: int = 10,
        window: int = 50,
        every: int = 20,
    ) -> None:
        """
        Args:
            tolerance: Maximum rise of the average loss above its best, in nats per token. Single batches of
                different modalities differ by about 1, averages over 50 batches by about 0.1.
            patience: Steps above the tolerance before training stops.
            max_skipped: Skipped steps in a row, each with a non-finite gradient, before training stops.
            window: Length of the average of the loss in steps.
            every: Steps between two checks of a loss on a GPU, each of which waits for the GPU; the first
                losses are checked one by one.
        """
        super().__init__()
        if not tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {tolerance}")
        for name, value in (("max_skipped", max_skipped), ("window", window), ("every", every)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if patience < 0:
            raise ValueError(f"patience must not be negative, got {patience}")
        self.tolerance, self.patience, self.max_skipped = tolerance, patience, max_skipped
        self.window, self.every = window, every
        self.figures = Figures()
        self._pending: Tensor | None = None
        """(2,): sum and number of the losses since the last check."""
        self._looked, self._step = 0, 0
        """The steps at which the loss, and the step itself, were last checked."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.figures, self._pending = Figures(), None

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.figures)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.figures = Figures(**state_dict)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._looked = self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check once per optimizer step, however many batches it accumulates.

        Raises:
            Diverged: Too many steps in a row were skipped, or the loss was too high for too long.
        """
        loss: Tensor | None = getattr(pl_module, "last_loss", None)
        if loss is not None:
            self._add(loss.detach().float())
        if self._step == trainer.global_step:
            return
        self._step = trainer.global_step
        figures = self.figures
        skipped = bool(getattr(pl_module, "skipped", False))
        figures.skipped += skipped
        figures.streak = figures.streak + 1 if skipped else 0
        often = loss is None or loss.device.type == "cpu" or figures.steps < self.every
        if often or self._step % self.every == 0:
            self._look(trainer)
        if figures.streak >= self.max_skipped:
            reason = self.trouble(trainer)
            raise Diverged(f"the training stopped at step {self._step}: {reason}. {_advice(trainer)}")
        if figures.above_since is not None and self._step - figures.above_since >= self.patience:
            raise Diverged(
                f"the training diverged: at step {self._step} {self._too_high()}, since step "
                f"{figures.above_since}. {_advice(trainer)}"
            )

    def trouble(self, trainer: L.Trainer) -> str:
        """See the module's ``trouble``."""
        self._look(trainer)
        if self.figures.streak:
            return f"the gradient was not finite in {self.figures.streak} step(s) in a row"
        return self._too_high()

    def _too_high(self) -> str:
        figures = self.figures
        high = max(figures.average, figures.recent)
        if figures.best is None or high <= figures.best + self.tolerance:
            return ""
        return (
            f"the average loss is {high:.4g} nats, more than {self.tolerance:g} above its best "
            f"({figures.best:.4g} at step {figures.best_step})"
        )

    def _add(self, loss: Tensor) -> None:
        finite = loss.isfinite()  # a non-finite loss belongs to a skipped step
        values = torch.stack([torch.where(finite, loss, 0.0), finite.float()])
        self._pending = values if self._pending is None else self._pending + values

    def _look(self, trainer: Any) -> None:
        """Add the losses since the last check to the averages."""
        steps = self._step - self._looked
        if self._pending is None or not steps:
            return
        total, count = trainer.strategy.reduce(self._pending, reduce_op="sum").tolist()
        self._looked, self._pending = self._step, None
        if not count:
            return
        figures, mean = self.figures, total / count
        figures.steps += steps
        figures.average += _share(steps, figures.steps, self.window) * (mean - figures.average)
        figures.recent += _share(steps, figures.steps, RECENT) * (mean - figures.recent)
        if figures.steps < self.window // 5:
            return
        # The mean of a few batches may be low by chance, so the first one counts, not the best of many.
        if figures.best is None or (figures.steps >= self.window // 2 and figures.average < figures.best):
            figures.best, figures.best_step = figures.average, self._step
        if figures.average <= figures.best + self.tolerance:
            figures.above_since = None
        elif figures.above_since is None:
            figures.above_since = self._step


def trouble(trainer: Any) -> str:
    """What is wrong with a run now, as a clause; empty if nothing is, or without a ``Divergence``.

    A run in trouble writes no checkpoint. All ranks must call it.
    """
    return next((c.trouble(trainer) for c in trainer.callbacks if isinstance(c, Divergence)), "")


def skipped_steps(trainer: Any) -> int:
    """Number of skipped steps so far, for the curves; 0 without a ``Divergence``."""
    return next((c.figures.skipped for c in trainer.callbacks if isinstance(c, Divergence)), 0)


def _share(steps: int, seen: int, window: int) -> float:
    """Weight of the last ``steps`` of ``seen`` in the average: a plain mean, exponential after ``window``."""
    return max(steps / seen, 1 - (1 - 1 / window) ** steps)


def _advice(trainer: Any) -> str:
    """The last good checkpoint, and what to try."""
    settings = "a longer warm-up, qk_norm: layer, norm_placement: reordered or a larger z_loss_weight"
    good = next((c.last_good for c in trainer.callbacks if hasattr(c, "last_good")), None)
    if good is None:
        return f"No checkpoint was written yet: train again with a lower lr, {settings}"
    file, step = good
    model = Path(trainer.default_root_dir) / MODEL
    weights = f" (init_from: {model})" if model.is_dir() else ""
    return (
        f"The last good checkpoint is {file} (step {step}): start a new run from its weights with a lower lr"
        f"{weights}, or train again with a lower lr, {settings}"
    )
