"""Settings that all trainings share: optimizer and learning rate."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from .schedule import check_schedule


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Base of the settings of every training. Each field is an option of the command, ``--model.FIELD``."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """Old -> new names of fields; checkpoints may hold old ones."""
    removed: ClassVar[Mapping[str, Any]] = {}
    """Fields of earlier versions that are now constants -> their values."""
    nested: ClassVar[Mapping[str, type]] = {}
    """Fields that are dataclasses -> their classes; checkpoints hold dictionaries."""

    lr: float = 1e-3
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's betas."""
    weight_decay: float = 0.01
    """AdamW's weight decay; norms and biases do not decay."""
    warmup_steps: int = 100
    """Steps of linear warm-up to the learning rate."""
    max_steps: int = -1
    """Total number of steps; the command takes it from trainer.max_steps."""
    decay_fraction: float = 0.4
    """Final fraction of the steps, over which the learning rate falls to 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        check_schedule(self.lr, self.warmup_steps, self.max_steps, self.decay_fraction)

    def stored(self) -> dict[str, Any]:
        """Plain values for a checkpoint, which then opens with ``weights_only=True``."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def upgraded(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The values in a checkpoint, of this version or an earlier one, under today's names."""
        values = {cls.renamed.get(name, name): value for name, value in stored.items()}
        return {name: value for name, value in values.items() if name not in cls.removed}

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of ``stored``; also reads the values of earlier versions."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in cls.upgraded(stored).items() if name in known}
        return cls(**{n: cls.nested[n](**v) if n in cls.nested else v for n, v in values.items()})
