"""Hyper-parameters of the transformer, and the tensors that follow from them. Imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal

from ..storage.fields import Bounds, check_fields

BOUNDS: Bounds = {
    "vocab_size": (0, 2**24),
    "context_length": (1, 2**24),
    "n_layers": (1, 1024),
    "width": (1, 2**17),
    "n_heads": (1, 4096),
    "n_kv_heads": (1, 4096),
    "ffn_width": (1, 2**20),
    "logit_soft_cap": (1e-3, 1e6),
    "dropout": (0, 0.999),
    "rope_theta": (1, 1e12),
    "norm_eps": (1e-12, 1),
}
"""Far above any transformer that exists, and low enough to build one of the largest without its weights."""


@dataclass(frozen=True)
class LayerConfig:
    """Hyper-parameters of ``Block``; ``FusionLMConfig`` explains them.

    Raises:
        ValueError: A value is out of range, or they do not fit each other.
    """

    width: int
    n_heads: int
    n_kv_heads: int
    ffn_width: int
    qk_norm: Literal["layer", "rms", "none"] = "layer"
    norm_placement: Literal["pre", "reordered"] = "pre"
    dropout: float = 0.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_fields(self, BOUNDS)
        if self.width % (2 * self.n_heads):
            raise ValueError(
                f"width must be a multiple of {2 * self.n_heads}, twice n_heads ({self.n_heads}), got "
                f"{self.width}"
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads must divide n_heads = {self.n_heads}, got {self.n_kv_heads}")

    @property
    def head_width(self) -> int:
        """D = C / H."""
        return self.width // self.n_heads


@dataclass(frozen=True)
class FusionLMConfig:
    """Hyper-parameters of ``FusionLM``.

    Raises:
        ValueError: A value is out of range, or they do not fit each other.
    """

    vocab_size: int = 0
    """V, the size of the shared vocabulary; the training command fills it in from the tokenizer folder."""
    context_length: int = 256
    """The longest sequence, in tokens."""
    n_layers: int = 6
    """Transformer blocks."""
    width: int = 256
    """C, the model width."""
    n_heads: int = 4
    """H, query heads; the head width is C / H."""
    n_kv_heads: int = 4
    """Key and value heads; fewer than n_heads is grouped-query attention."""
    ffn_width: int = 704
    """Hidden width of the SwiGLU feed-forward."""
    qk_norm: Literal["layer", "rms", "none"] = "layer"
    """Norm of queries and keys, per head, before the rotary embedding: layer (LayerNorm, as Chameleon), rms
    (RMSNorm), none."""
    norm_placement: Literal["pre", "reordered"] = "pre"
    """pre: x + f(norm(x)), as Chameleon 7B; reordered: x + norm(f(x)), as Chameleon 34B (Swin Transformer V2,
    arXiv:2111.09883)."""
    logit_soft_cap: float | None = None
    """Bounds the logits to (-cap, cap), by cap * tanh(logits / cap); null: off."""
    tie_embeddings: bool = False
    """Share the input embedding with the output projection."""
    dropout: float = 0.0
    """Dropout after attention and after the feed-forward."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-5
    """Epsilon of RMSNorm and QK-norm."""

    def __post_init__(self) -> None:
        check_fields(self, BOUNDS)
        _ = self.layer  # checks the rest

    @property
    def layer(self) -> LayerConfig:
        """What one block needs to know."""
        return LayerConfig(
            width=self.width,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            ffn_width=self.ffn_width,
            qk_norm=self.qk_norm,
            norm_placement=self.norm_placement,
            dropout=self.dropout,
            norm_eps=self.norm_eps,
        )

    @property
    def head_width(self) -> int:
        """D = C / H."""
        return self.width // self.n_heads


def shapes(config: FusionLMConfig) -> dict[str, tuple[int, ...]]:
    """The name and shape of each tensor in the model.safetensors of ``config``."""
    V, C, H, Hkv, D = config.vocab_size, config.width, config.n_heads, config.n_kv_heads, config.head_width
    block = {
        "attention_norm.weight": (C,),
        "attention.qkv.weight": ((H + 2 * Hkv) * D, C),
        "attention.out.weight": (C, H * D),
        "ffn_norm.weight": (C,),
        "ffn.gate_up.weight": (2 * config.ffn_width, C),
        "ffn.down.weight": (C, config.ffn_width),
    }
    for part in () if config.qk_norm == "none" else ("weight", "bias")[: 1 + (config.qk_norm == "layer")]:
        block |= {f"attention.q_norm.{part}": (H, D), f"attention.k_norm.{part}": (Hkv, D)}
    found: dict[str, tuple[int, ...]] = {"embedding.weight": (V, C), "norm.weight": (C,)}
    if not config.tie_embeddings:
        found["lm_head.weight"] = (V, C)
    for layer in range(config.n_layers):
        found |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return found


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the fields of an earlier config.json, in which qk_norm was true or false."""
    older = {True: "layer", False: "none"}
    norm = values.get("qk_norm")
    return {**values, "qk_norm": older[norm]} if isinstance(norm, bool) else values
