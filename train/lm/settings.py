"""Settings of the transformer's training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, tensor

from ...fusion_lm.model import FusionLM, FusionLMConfig, upgrade
from ..loop.schedule import check_schedule
from ..loop.settings import TrainingSettings

Part = Literal["all", "lora", "image_rows"]
"""What is trained: everything; low-rank updates and the rows of all non-text tokens; or only those rows."""
THREE = ("structure", "text", "image")
"""The modalities of a list of weights in earlier versions."""


@dataclass(frozen=True, kw_only=True)
class LMSettings(TrainingSettings):
    """Settings of the transformer's training."""

    removed: ClassVar[Mapping[str, Any]] = {"rows_from_codebook": True}
    nested: ClassVar[Mapping[str, type]] = {"config": FusionLMConfig}

    tokenizer: str
    """Folder of the tokenizer, or the prepared folder that contains it."""
    config: FusionLMConfig = FusionLMConfig()
    """The network (vocab_size 0: the tokenizer's; left out with init_from: its config)."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.1
    """AdamW's weight decay; norms and biases do not decay."""
    schedule: Literal["wsd", "cosine", "exponential"] = "wsd"
    """Learning rate after the warm-up: wsd (constant, then linear to 0), cosine, exponential (Chameleon)."""
    decay_fraction: float = 0.4
    """Final fraction of the steps, over which the learning rate falls to 0 (schedule wsd)."""
    final_lr: float = 0.1
    """Last learning rate of cosine and exponential, as a fraction of lr."""
    z_loss_weight: float = 1e-4
    """Weight of the z-loss, the mean of log(Z)^2, which keeps the logits from drifting."""
    modality_weights: Mapping[str, float] | Sequence[float] = field(default_factory=dict)
    """Weights of the targets in the loss by modality, such as {image: 0.5}; others weigh 1."""
    condition_dropout: float = 0.0
    """Fraction of the images trained without their prefix, which guidance needs (sample --guidance); 0.1 is
    usual."""
    muon_lr: float | None = None
    """Learning rate of Muon for the matrices of the blocks; null uses AdamW for all weights."""
    init_from: str | None = None
    """Model folder to start from. If its tokenizer differs, tokens with the same meaning keep their rows (see
    resize_vocab)."""
    trained_part: Part = "all"
    """What to train. all; lora: low-rank updates of the matrices, and the embedding and lm_head rows of all
    non-text tokens; image_rows: only those rows. lora and image_rows need init_from."""
    lora_rank: int = 16
    """Rank of the low-rank updates."""
    lora_alpha: float = 32.0
    """Scales the low-rank updates by lora_alpha / lora_rank."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, more time."""
    compile: bool | Literal["auto"] = False
    """Compile the network (torch.compile): takes minutes once, then steps are faster. auto: on a CPU, if the
    training is long enough to repay it."""
    build_in_shards: bool = False
    """Create the weights part by part, each process keeping only its shard, for networks too large to hold
    one copy per process. The random initial weights differ from those without this option."""

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
            raise ValueError(f"condition_dropout must be in [0, 1), got {self.condition_dropout}")
        if self.compile not in (True, False, "auto"):
            raise ValueError(f"compile must be true, false or auto, got {self.compile!r}")
        if self.trained_part not in get_args(Part):
            allowed = ", ".join(get_args(Part))
            raise ValueError(f"trained_part is {self.trained_part!r}, expected one of {allowed}")
        if self.trained_part != "all":
            if self.init_from is None:
                raise ValueError(f"trained_part={self.trained_part} trains a part of a model: give init_from")
            if self.muon_lr is not None:
                raise ValueError(
                    f"trained_part={self.trained_part} needs muon_lr=null (AdamW), got {self.muon_lr}"
                )
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
                f"{size} tokens: set it to 0"
            )
        return replace(self, config=replace(config, vocab_size=size))


def by_name(weights: Mapping[str, float] | Sequence[float]) -> dict[str, float]:
    """Weights by modality, without those of 1; also accepts a list of three, as in earlier versions.

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
