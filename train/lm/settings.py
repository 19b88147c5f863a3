"""Settings of the transformer's training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, tensor

from ...fusion_lm.model import FusionLM, FusionLMConfig, upgrade
from ..loop.schedule import check_schedule
from ..loop.settings import TrainingSettings

Part = Literal["all", "lora", "image_rows"]
"""What is trained: everything; low-rank updates and the rows of all tokens but text; those rows alone."""
THREE = ("structure", "text", "image")
"""The modalities of a list of weights, as earlier versions wrote them."""


@dataclass(frozen=True, kw_only=True)
class LMSettings(TrainingSettings):
    """Settings of :class:`.module.FusionLMTraining`."""

    removed: ClassVar[Mapping[str, Any]] = {"rows_from_codebook": True}
    nested: ClassVar[Mapping[str, type]] = {"config": FusionLMConfig}

    tokenizer: str
    """Folder of the tokenizer, or the prepared folder that holds it."""
    config: FusionLMConfig = FusionLMConfig()
    """The network; vocab_size 0 takes the tokenizer's. With init_from it may be left out."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.1
    """AdamW's weight decay, of matrices and embeddings only, not of norms and biases."""
    schedule: Literal["wsd", "cosine", "exponential"] = "wsd"
    """Learning rate after the warm-up: wsd (constant, then linear to 0), cosine, exponential (Chameleon)."""
    decay_fraction: float = 0.4
    """Fraction of the steps, at the end, over which the learning rate falls to 0 (schedule wsd)."""
    final_lr: float = 0.1
    """Where cosine and exponential end, as a fraction of lr."""
    z_loss_weight: float = 1e-4
    """Weight of the mean of log(Z)^2, which keeps the logits from drifting."""
    modality_weights: Mapping[str, float] | Sequence[float] = field(default_factory=dict)
    """Weights of the targets in the loss, by modality: {image: 0.5}; modalities left out weigh 1."""
    condition_dropout: float = 0.0
    """Fraction of the images that are learned without their prefix, so that generated ones can be guided
    (sample --guidance); 0.1 is usual."""
    muon_lr: float | None = None
    """Learning rate of Muon, which then updates the matrices of the blocks; null: AdamW."""
    init_from: str | None = None
    """Model folder whose weights to begin with. If its tokenizer differs, tokens that mean the same keep
    their rows (resize_vocab)."""
    trained_part: Part = "all"
    """all; lora: low-rank updates of the matrices, and the rows in embedding and lm_head of all tokens but
    text (of images, of other modalities, of what frames them); image_rows: those rows alone. The last two
    need init_from."""
    lora_rank: int = 16
    """Rank of the low-rank updates."""
    lora_alpha: float = 32.0
    """The low-rank updates are scaled by lora_alpha / lora_rank."""
    activation_checkpointing: bool = False
    """Compute each block again in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the network (torch.compile), which takes minutes once and pays on GPUs."""
    build_in_shards: bool = False
    """Make the weights a part at a time, each process keeping its shard, for networks of which a machine
    cannot hold one copy per process. The random initial weights differ from those made without it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schedule(
            self.lr,
            self.warmup_steps,
            self.max_steps,
            self.decay_fraction,
            self.schedule,
            self.final_lr,
        )
        object.__setattr__(self, "modality_weights", by_name(self.modality_weights))
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"condition_dropout must lie in [0, 1), got {self.condition_dropout}")
        if self.trained_part not in get_args(Part):
            allowed = ", ".join(get_args(Part))
            raise ValueError(f"trained_part is {self.trained_part!r}, expected one of {allowed}")
        if self.trained_part != "all":
            if self.init_from is None:
                raise ValueError(f"trained_part={self.trained_part} trains a part of a model: give init_from")
            if self.muon_lr is not None:
                raise ValueError(f"trained_part={self.trained_part} uses AdamW: leave muon_lr at null")
            if self.build_in_shards:
                raise ValueError(f"build_in_shards needs trained_part=all, got {self.trained_part}")

    def stored(self) -> dict[str, Any]:
        return {**super().stored(), "tokenizer": str(self.tokenizer)}

    @classmethod
    def upgraded(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        values = super().upgraded(stored)
        if "modality_weights" in values:
            values["modality_weights"] = by_name(values["modality_weights"])
        if "config" in values:
            values["config"] = upgrade(dict(values["config"]))
        return values

    def for_vocabulary(self, size: int) -> "LMSettings":
        """The settings with the network's config filled in: that of ``init_from`` if left out, and a
        vocabulary of ``size`` tokens.

        Raises:
            ValueError: The config has another vocabulary.
        """
        config = self.config
        if self.init_from is not None and config == FusionLMConfig():
            config = replace(FusionLM.read_config(self.init_from), vocab_size=0)
        if config.vocab_size not in (0, size):
            raise ValueError(
                f"config.vocab_size is {config.vocab_size}, but the tokenizer in {self.tokenizer} has "
                f"{size} tokens: leave it at 0"
            )
        return replace(self, config=replace(config, vocab_size=size))


def by_name(weights: Mapping[str, float] | Sequence[float]) -> dict[str, float]:
    """Weights by modality, those of 1 left out; also of a list of three, as earlier versions had it.

    Raises:
        ValueError: A weight is negative, or the list has another length.
    """
    if not isinstance(weights, Mapping):
        if len(weights) != len(THREE):
            raise ValueError(f"modality_weights must be given by name, {{image: 0.5}}, got {list(weights)}")
        weights = dict(zip(THREE, weights))
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"modality_weights must not be negative, got {name}: {weight}")
    return {name: float(weight) for name, weight in weights.items() if weight != 1}


def weight_tensor(weights: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """Weights (G,) of the modalities ``names``, 1 for those that ``weights`` leaves out.

    Raises:
        ValueError: An unknown modality, or all weights are 0.
    """
    for name in weights:
        if name not in names:
            raise ValueError(f"modality_weights has {name!r}, expected names among {', '.join(names)}")
    values = [weights.get(name, 1.0) for name in names]
    if not sum(values) > 0:
        raise ValueError(f"modality_weights must not all be 0, got {dict(weights)}")
    return tensor(values)
