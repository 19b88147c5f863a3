"""Exponential moving average (EMA) of the image tokenizer's weights (Polyak and Juditsky, 1992).

Lightning's ``EMAWeightAveraging`` does not fit here: it copies the whole LightningModule, validates and saves
the random initial weights until averaging starts, swaps the buffers too, and drops the raw weights at the
end, so that a longer run could not resume from there. Here only the parameters of ``training.net`` are
averaged. Buffers, such as a codebook with its own moving average, are always the current ones.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

PREFIX = "net."
"""Prefix of the network's names in a checkpoint's ``state_dict``."""
KEY = "ema"
"""Key of the raw weights and counts in a checkpoint, whose ``state_dict`` holds the averaged weights."""


def ema_decay(count: int, decay: float) -> float:
    """Decay of update ``count`` (1 is the first after the copy): min(decay, (1 + count) / (10 + count)), so
    that even a slow average soon forgets the first weights."""
    return min(decay, (1 + count) / (10 + count))


class WeightEMA(Callback):
    """Averages ``training.net``: validation, pictures, checkpoints and the model folder use the average.

    Training continues with the raw weights, which checkpoints hold too. Other callbacks that use the network
    during a fit do so within ``averaged``.
    """

    def __init__(self, decay: float = 0.999, start: int = 0) -> None:
        """
        Args:
            decay: Decay of the average after its warm-up.
            start: Steps before averaging starts; the first averaged weights are those after step ``start`` +
                1. If k-means makes the codebook during training, that must happen by ``start``.
        """
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, got {decay}")
        if start < 0:
            raise ValueError(f"start must not be negative, got {start}")
        self.decay, self.start = decay, start
        self._average: list[Tensor] | None = None
        """float32, in the order of ``net.parameters()``; None before ``start``."""
        self._raw: list[Tensor] | None = None
        """The raw weights while the network holds the average."""
        self._count, self._step = 0, 0

    @contextmanager
    def averaged(self, training: Any) -> Iterator[None]:
        """Context in which ``training.net`` holds the average, if it exists yet. Contexts may be nested."""
        if self._average is None or self._raw is not None:
            yield
            return
        self._enter(training)
        try:
            yield
        finally:
            self._leave(training)

    @torch.no_grad()
    def update(self, training: Any) -> None:
        """Add the current weights to the average."""
        weights = [parameter.detach().float() for parameter in training.net.parameters()]
        if self._average is None:
            self._average = [weight.clone() for weight in weights]
        else:
            share = 1 - ema_decay(self._count, self.decay)
            for average, weight in zip(self._average, weights, strict=True):
                average.lerp_(weight, share)
        self._count += 1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._average, self._raw, self._count, self._step = None, None, 0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        net: Any = pl_module.net
        if self._average is not None:  # the network may have moved after the checkpoint was read
            self._average = [a.to(p.device) for a, p in zip(self._average, net.parameters(), strict=True)]

    def follow(self, trainer: L.Trainer, training: Any) -> None:
        """Add the weights of the last step, once per optimizer step, however many batches it accumulates and
        whichever callback calls first."""
        if not trainer.training or self._raw is not None or self._step >= trainer.global_step:
            return
        self._step = trainer.global_step
        if self._step > self.start:
            self.update(training)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.follow(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average is not None and self._raw is None:
            self._enter(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._raw is not None:
            self._leave(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average is not None:  # it is the result; last.ckpt also has the raw weights
            self._enter(pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._average = self._raw = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
        self.follow(trainer, pl_module)
        if self._average is None:
            return
        # state_dict gets the average, which validate and predict load
        net: Any = pl_module.net
        names = [name for name, _ in net.named_parameters()]
        raw = self._raw or [parameter.detach() for parameter in net.parameters()]
        checkpoint["state_dict"] |= {PREFIX + n: a for n, a in zip(names, self._average, strict=True)}
        checkpoint[KEY] = {"raw": dict(zip(names, raw)), "count": self._count, "step": self._step}

    @torch.no_grad()
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
        state = checkpoint.get(KEY)
        if state is None or trainer.state.fn != "fit":
            return
        net: Any = pl_module.net
        self._count, self._step = state["count"], state["step"]
        self._average = []
        for name, parameter in net.named_parameters():
            average = checkpoint["state_dict"][PREFIX + name]
            self._average.append(average.to(parameter.device, torch.float32, copy=True))
            parameter.copy_(state["raw"][name])

    @torch.no_grad()
    def _enter(self, training: Any) -> None:
        assert self._average is not None
        self._raw = [parameter.detach().clone() for parameter in training.net.parameters()]
        for parameter, average in zip(training.net.parameters(), self._average, strict=True):
            parameter.copy_(average)

    @torch.no_grad()
    def _leave(self, training: Any) -> None:
        assert self._raw is not None
        for parameter, raw in zip(training.net.parameters(), self._raw, strict=True):
            parameter.copy_(raw)
        self._raw = None


def averaged(trainer: L.Trainer, training: L.LightningModule) -> AbstractContextManager[None]:
    """Context in which ``training.net`` holds its averaged weights of the last step, if this fit averages and
    has started to, regardless of the order of the callbacks.

    For callbacks that save the network or use it.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightEMA):
            callback.follow(trainer, training)
            return callback.averaged(training)
    return nullcontext()
