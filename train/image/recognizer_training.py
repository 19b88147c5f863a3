"""Training of the recognizer: strips around the text boxes of rendered images, CTC, character error rate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.strips import TextBatch
from ...eval.metrics.text import edit_distance
from ..loop.logged_training import LoggedTraining
from ..loop.optim import adamw, scheduled
from ..loop.resume import check_config
from ..loop.schedule import warmup_stable_decay
from ..loop.settings import TrainingSettings
from .recognizer import BLANK, Recognizer, RecognizerConfig, degrade


@dataclass(frozen=True, kw_only=True)
class RecognizerSettings(TrainingSettings):
    """Settings of the recognizer's training."""

    nested: ClassVar[Mapping[str, type]] = {"config": RecognizerConfig}

    config: RecognizerConfig = RecognizerConfig()
    """The network."""
    lr: float = 3e-3
    """Learning rate after the warm-up."""
    decay_fraction: float = 0.6
    """Final fraction of the steps, over which the learning rate falls to 0."""
    degraded: bool = True
    """Also train on blurred, rescaled, noisy and inverted strips (recognizer.degrade)."""
    init_from: str | None = None
    """Folder of a recognizer to start from."""
    seed: int = 0
    """Random seed of the degradation."""


class RecognizerTraining(LoggedTraining):
    """Trains a ``Recognizer``, ``self.net``."""

    settings_class = RecognizerSettings
    settings: RecognizerSettings
    net: Recognizer

    def __init__(self, settings: RecognizerSettings = RecognizerSettings()) -> None:
        super().__init__(settings)
        self.config = settings.config
        self.net = Recognizer(self.config)
        if settings.init_from is not None:
            net = Recognizer.load(settings.init_from)
            check_config(settings.init_from, net.config, self.config)
            self.net.load_state_dict(net.state_dict())
        self._read = [0, 0, 0, 0]  # texts, read exactly, characters, edits

    def forward(self, strips: Tensor) -> Tensor:
        return self.net(strips)

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """Strips and their texts -> CTC loss per character (scalar)."""
        strips = batch.strips
        if self.settings.degraded:
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.global_step)
            strips = degrade(strips, generator)
        loss = ctc_loss(self.net, self(strips), batch.texts)
        self.means.add("loss", loss)
        return loss

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Loss, and figures of the texts that it reads."""
        loss = ctc_loss(self.net, self(batch.strips), batch.texts)
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
        s = self.settings
        shape = (s.max_steps, s.warmup_steps, s.decay_fraction)
        optimizer = adamw(self.net, s.lr, s.betas, 1e-8, s.weight_decay)
        return scheduled(optimizer, lambda step: warmup_stable_decay(step, *shape))

    def save_folder(self, folder: str | Path) -> None:
        """Write the recognizer as a folder that ``Recognizer.load`` reads."""
        self.net.save(folder)


def ctc_loss(net: Recognizer, log_probabilities: Tensor, texts: list[str]) -> Tensor:
    """CTC loss per character (scalar) of ``log_probabilities`` (steps, N, classes), as ``net`` gives them."""
    steps = len(log_probabilities)
    classes = [net.classes(text) for text in texts]
    lengths = torch.tensor([len(c) for c in classes])
    targets = torch.tensor([c for some in classes for c in some], dtype=torch.long)
    return F.ctc_loss(
        log_probabilities.float(),
        targets.to(log_probabilities.device),
        torch.full((len(texts),), steps),
        lengths,
        blank=BLANK,
        zero_infinity=True,  # a text with more characters than its strip has steps cannot be aligned
    )
