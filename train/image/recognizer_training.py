"""Training of the recogniser: strips around the text boxes of rendered images, CTC, character error rate."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.strips import TextBatch
from ...eval.metrics.text import edit_distance
from ..loop.logged_training import LoggedTraining
from ..loop.schedule import adamw, check_config, check_schedule, warmup_stable_decay
from .recognizer import BLANK, Recogniser, RecogniserConfig, degrade


class RecogniserTraining(LoggedTraining):
    """Trains a ``Recogniser``, which stands in ``self.net``."""

    net: Recogniser

    def __init__(
        self,
        config: RecogniserConfig = RecogniserConfig(),
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        max_steps: int = -1,
        decay_fraction: float = 0.6,
        degraded: bool = True,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            config: The network.
            lr: Learning rate after the warm-up.
            betas: AdamW's.
            weight_decay: AdamW's, on filters only.
            warmup_steps: Steps until the learning rate is reached.
            max_steps: Steps in all; the command takes it from trainer.max_steps.
            decay_fraction: Last part of the steps, over which the learning rate falls to 0.
            degraded: Train on blurred, rescaled, noisy and inverted strips too (``recogniser.degrade``).
            init_from: Folder of a recogniser whose weights to begin with.
            seed: Of the degradation.
        """
        super().__init__()
        if isinstance(config, dict):  # from a checkpoint, which holds no classes
            config = RecogniserConfig(**config)
        check_schedule(lr, warmup_steps, max_steps, decay_fraction)
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.save_hyperparameters({**settings, "config": asdict(config), "betas": list(betas)})
        self.config, self.lr, self.betas, self.weight_decay = config, lr, tuple(betas), weight_decay
        self.warmup_steps, self.max_steps, self.decay_fraction = warmup_steps, max_steps, decay_fraction
        self.degraded, self.seed = degraded, seed
        self.net = Recogniser(config)
        if init_from is not None:
            net = Recogniser.load(init_from)
            check_config(init_from, net.config, config)
            self.net.load_state_dict(net.state_dict())
        self._read = [0, 0, 0, 0]  # texts, read exactly, characters, edits

    def forward(self, strips: Tensor) -> Tensor:
        """``Recogniser.forward``."""
        return self.net(strips)

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """Strips and their texts -> CTC loss per character (scalar)."""
        strips = batch.strips
        if self.degraded:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
            strips = degrade(strips, generator)
        loss = self._loss(self(strips), batch.texts)
        self.means.add("loss", loss)
        return loss

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Loss, and what is read."""
        loss = self._loss(self(batch.strips), batch.texts)
        self.log("validation/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.texts))
        for text, found in zip(batch.texts, self.net.read(batch.strips), strict=True):
            for i, value in enumerate((1, text == found, len(text), edit_distance(text, found))):
                self._read[i] += value

    def on_validation_epoch_end(self) -> None:
        """Exact matches and character error rate over the whole set."""
        texts, exact, characters, edits = self._read
        if texts:
            self.log_dict({"validation/exact": exact / texts, "validation/cer": edits / max(1, characters)})
        self._read = [0, 0, 0, 0]

    def configure_optimizers(self) -> Any:
        """AdamW; warm-up, stable, decay."""
        optimizer = adamw(self.net, self.lr, self.betas, 1e-8, self.weight_decay)  # type: ignore[arg-type]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def save_folder(self, folder: str | Path) -> None:
        """Write the recogniser as a folder that ``Recogniser.load`` reads."""
        self.net.save(folder)

    def _loss(self, log_probabilities: Tensor, texts: list[str]) -> Tensor:
        steps = len(log_probabilities)
        classes = [self.net.classes(text) for text in texts]
        lengths = torch.tensor([len(c) for c in classes])
        targets = torch.tensor([c for some in classes for c in some], dtype=torch.long)
        return F.ctc_loss(
            log_probabilities.float(),
            targets.to(log_probabilities.device),
            torch.full((len(texts),), steps),
            lengths,
            blank=BLANK,
            zero_infinity=True,  # a text longer than its strip has steps cannot be aligned
        )

    def _lr_factor(self, step: int) -> float:
        return warmup_stable_decay(step, self.max_steps, self.warmup_steps, self.decay_fraction)
