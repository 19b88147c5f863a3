"""The decoder-only transformer over the shared vocabulary.

Read top to bottom: configuration, cache, attention with QK-norm and rotary positions, SwiGLU, block, model.
Architecture: Chameleon (arXiv:2405.09818, section 2.3), that is Llama 2 (RMSNorm, SwiGLU, RoPE, grouped-query
attention) with QK-norm, here a LayerNorm over each head's query and key with a gain and bias per head.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.weights import load_network, save_network
from .loss import LossTerms, next_token_loss

KIND = "fusion_lm"


@dataclass(frozen=True)
class FusionLMConfig:
    """Hyper-parameters of :class:`FusionLM`."""

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
    qk_norm: bool = True
    """LayerNorm on queries and keys, per head, before the rotary embedding."""
    tie_embeddings: bool = False
    """Share the input embedding with the output projection."""
    dropout: float = 0.0
    """Dropout after attention and after the feed-forward."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-5
    """Epsilon of RMSNorm and QK-norm."""

    def __post_init__(self) -> None:
        for name in ("context_length", "n_layers", "width", "n_heads", "n_kv_heads", "ffn_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.vocab_size < 0:
            raise ValueError(f"vocab_size must not be negative, got {self.vocab_size}")
        if self.width % (2 * self.n_heads):
            raise ValueError(f"width must be an even multiple of n_heads = {self.n_heads}, got {self.width}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads must divide n_heads = {self.n_heads}, got {self.n_kv_heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    @property
    def head_width(self) -> int:
        """D = C / H."""
        return self.width // self.n_heads


class KVCache:
    """Keys and values of every layer for at most ``length`` positions, filled from the left."""

    def __init__(
        self, config: FusionLMConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype
    ):
        shape = (config.n_layers, 2, batch, config.n_kv_heads, length, config.head_width)
        self.store = torch.zeros(shape, device=device, dtype=dtype)
        self.filled = 0

    @property
    def length(self) -> int:
        """Positions the cache can hold."""
        return self.store.shape[4]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v (B, Hkv, T, D) to ``layer``; returns all keys and values so far."""
        end = self.filled + k.shape[2]
        self.store[layer, 0, :, :, self.filled : end] = k
        self.store[layer, 1, :, :, self.filled : end] = v
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]


class Positions(NamedTuple):
    """What attention needs to know about where tokens stand; the same for every layer."""

    cos: Tensor
    """(B or 1, 1, T, D) float32."""
    sin: Tensor
    mask: Tensor | None
    """True where a query may look, (B or 1, 1, T, S); None means plain causal attention."""


def rope_tables(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Half-split rotary tables for integer positions (..., T): cos and sin (..., T, D) in float32.

    Su et al., arXiv:2104.09864, in the layout of ``transformers`` (first half of D pairs with the second).
    """
    exponents = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width
    angles = positions[..., None].float() * theta**-exponents  # (..., T, D / 2)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding to x (B, H, T, D)."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class HeadNorm(nn.Module):
    """LayerNorm over the head width D with a gain and a bias per head: weight and bias (H, D)."""

    def __init__(self, n_heads: int, head_width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_heads, head_width))
        self.bias = nn.Parameter(torch.zeros(n_heads, head_width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, H, D)."""
        return F.layer_norm(x, x.shape[-1:], eps=self.eps) * self.weight + self.bias


class Attention(nn.Module):
    """Causal self-attention with QK-norm, rotary positions and grouped key/value heads."""

    def __init__(self, config: FusionLMConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        C, H, Hkv, D = config.width, config.n_heads, config.n_kv_heads, config.head_width
        self.qkv = nn.Linear(C, (H + 2 * Hkv) * D, bias=False)
        self.out = nn.Linear(H * D, C, bias=False)
        self.q_norm = HeadNorm(H, D, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = HeadNorm(Hkv, D, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, positions: Positions, cache: KVCache | None) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        B, T, _ = x.shape
        H, Hkv, D = self.config.n_heads, self.config.n_kv_heads, self.config.head_width
        q, k, v = self.qkv(x).view(B, T, H + 2 * Hkv, D).split([H, Hkv, Hkv], dim=2)
        q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
        q, k = rotate(q, positions.cos, positions.sin), rotate(k, positions.cos, positions.sin)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        causal = positions.mask is None and T > 1
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=positions.mask, is_causal=causal, enable_gqa=H != Hkv
        )
        return self.out(y.transpose(1, 2).reshape(B, T, H * D))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer, arXiv:2002.05202)."""

    def __init__(self, config: FusionLMConfig):
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, config: FusionLMConfig, layer: int):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config, layer)
        self.ffn_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, positions: Positions, cache: KVCache | None) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, cache))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class FusionLM(nn.Module):
    """Tokens (B, T) -> logits (B, T, V), text and image codes alike."""

    def __init__(self, config: FusionLMConfig):
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {config.vocab_size}")
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(config.n_layers)])
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.reset_parameters()
        if config.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    def reset_parameters(self) -> None:
        """Normal, standard deviation 0.02; residual projections scaled down by sqrt(2 * layers) (GPT-2)."""
        residual = 0.02 / (2 * self.config.n_layers) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=residual if name.endswith((".out", ".down")) else 0.02)

    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for ``batch`` sequences of at most ``length`` tokens."""
        weight = self.embedding.weight
        return KVCache(self.config, batch, length, weight.device, weight.dtype)

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        targets: Tensor | None = None,
        modality: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor | LossTerms:
        """One forward for training, evaluation and generation.

        :param tokens: (B, T) int64 in 0..V-1.
        :param documents: (B, T) int64, the document each token of a packed window belongs to, non-decreasing
            along T; no token attends across a border and positions restart there. None: one document a row.
        :param targets: (B, T) int64, the token after each token, -100 where nothing is to be learned.
        :param modality: (B, T) int64, the modality of each target (``SharedVocab.modality``).
        :param cache: keys and values of the tokens before these; extended in place.
        :returns: logits (B, T, V), or with ``targets`` the :class:`LossTerms`.
        :raises ValueError: the sequence is longer than ``context_length`` or than what the cache still holds,
            or a cache is given with documents.
        """
        start = cache.filled if cache is not None else 0
        if start + tokens.shape[1] > self.config.context_length:
            raise ValueError(
                f"{start + tokens.shape[1]} tokens do not fit the context length {self.config.context_length}"
            )
        if cache is not None and documents is not None:
            raise ValueError("packed documents cannot be continued from a cache: pass one or the other")
        if cache is not None and start + tokens.shape[1] > cache.length:
            raise ValueError(f"{start + tokens.shape[1]} tokens do not fit the cache's {cache.length}")
        positions = self._positions(tokens, documents, start)
        x = self.embedding(tokens)  # (B, T, C)
        for block in self.blocks:
            x = block(x, positions, cache)
        if cache is not None:
            cache.filled += tokens.shape[1]
        logits = self.lm_head(self.norm(x))
        if targets is None:
            return logits
        return next_token_loss(logits, targets, modality)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        save_network(self, self.config, Path(folder), KIND)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder written by :meth:`save`, strictly, in evaluation mode.

        :raises FileNotFoundError: a file is missing.  :raises ValueError: the files do not fit together.
        """
        return load_network(cls, FusionLMConfig, Path(folder), KIND).eval()

    def _positions(self, tokens: Tensor, documents: Tensor | None, start: int) -> Positions:
        T = tokens.shape[1]
        index = torch.arange(start, start + T, device=tokens.device)
        mask = None
        if documents is not None:
            border = documents.diff(dim=1, prepend=documents[:, :1] - 1) != 0
            first = torch.where(border, index, 0).cummax(dim=1).values  # (B, T) where each document begins
            mask = (documents[:, None, :, None] == documents[:, None, None, :]) & torch.ones(
                T, T, dtype=torch.bool, device=tokens.device
            ).tril()
            index = index - first
        elif start and T > 1:
            seen = torch.arange(start + T, device=tokens.device)
            mask = (seen <= index[:, None])[None, None]
        cos, sin = rope_tables(index, self.config.head_width, self.config.rope_theta)
        if documents is None:
            return Positions(cos[None, None], sin[None, None], mask)
        return Positions(cos[:, None], sin[:, None], mask)
