"""Settings of alignment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...fusion_lm.guidance import Guidance
from ...fusion_lm.sampling import Sampling
from ...storage.hub import PRETRAINED
from ..loop.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings(TrainingSettings):
    """Settings of alignment by GRPO (arXiv:2402.03300)."""

    init_from: str = PRETRAINED.name
    """Model folder to start from, the name of a packaged model, or a name on the Hugging Face Hub."""
    rewards: Mapping[str, float] = field(default_factory=lambda: {"writing": 1.0, "writing_letters": 0.5})
    """Rewards and their weights: names of train/rl/rewards.py, or your own functions by import path, such as
    {my_rewards:shorter: 0.1}."""
    samples: int = 8
    """Samples for each prompt, the group in which rewards are compared."""
    inner_steps: int = 1
    """Optimizer steps on the same samples."""
    clip_low: float = 0.2
    """A token's probability ratio is clipped below 1 by this much (counts from the second inner step)."""
    clip_high: float = 0.2
    """The same above 1."""
    kl_weight: float = 0.0
    """Weight of the KL divergence to the starting model, which costs another forward pass."""
    temperature: float = 1.0
    """Sampling temperature of the samples."""
    top_k: int = 0
    """Draw from the k most likely tokens; 0: from all."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens whose probability reaches p."""
    guidance: float = 1.0
    """Classifier-free guidance of the samples; 1: none. It doubles the work."""
    max_new_tokens: int = 128
    """Most new tokens of a sample; a picture that does not fit is not begun."""
    batch_size: int = 128
    """Samples that are generated together."""
    lr: float = 1e-4
    """Learning rate after the warm-up."""
    weight_decay: float = 0.0
    """AdamW's weight decay; norms and biases do not decay."""
    warmup_steps: int = 5
    """Steps of linear warm-up to the learning rate."""
    decay_fraction: float = 0.0
    """Final fraction of the steps, over which the learning rate falls to 0."""
    seed: int = 0
    """Random seed of the samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("samples", 2), ("inner_steps", 1), ("batch_size", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0 < self.clip_low < 1 or not self.clip_high > 0:
            raise ValueError(
                f"clip_low is {self.clip_low} and clip_high {self.clip_high}, expected 0 < clip_low < 1 and "
                "clip_high > 0"
            )
        if not 0 <= self.kl_weight < float("inf"):
            raise ValueError(f"kl_weight must not be negative, got {self.kl_weight}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.temperature == 0:
            raise ValueError("temperature is 0, expected more: all samples of a prompt would be the same")
        _ = self.drawing  # checks the values
        object.__setattr__(self, "rewards", dict(self.rewards))

    @property
    def drawing(self) -> dict[str, Any]:
        """The options of generation that shape the distribution."""
        sampling = Sampling(self.temperature, self.top_k, self.top_p)
        return {"sampling": sampling, "guidance": Guidance(self.guidance)}
