"""The decoder-only transformer over the shared vocabulary.

Read top to bottom: configuration, cache, attention with QK-norm and rotary positions, SwiGLU, block, model.
Architecture: Chameleon (arXiv:2405.09818, section 2.3), that is Llama 2 (RMSNorm, SwiGLU, RoPE, grouped-query
attention) with QK-norm, here a LayerNorm over each head's query and key with a gain and bias per head, and
for the 34B model with norms after attention and feed-forward instead of before them.
"""

from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

from ..tokenizers.weights import load_network, read_config, save_network
from .loss import LossTerms, capped, next_token_loss

KIND = "fusion_lm"
QK_NORMS = ("layer", "rms", "none")
NORM_PLACEMENTS = ("pre", "reordered")
QUERIES = 128
"""Queries that attend together where documents are packed and attention takes as long for keys that nobody
sees: that of a CPU."""


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
        for name in ("context_length", "n_layers", "width", "n_heads", "n_kv_heads", "ffn_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.vocab_size < 0:
            raise ValueError(f"vocab_size must not be negative, got {self.vocab_size}")
        if self.width % (2 * self.n_heads):
            raise ValueError(f"width must be an even multiple of n_heads = {self.n_heads}, got {self.width}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads must divide n_heads = {self.n_heads}, got {self.n_kv_heads}")
        for name, allowed in (("qk_norm", QK_NORMS), ("norm_placement", NORM_PLACEMENTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if self.logit_soft_cap is not None and not self.logit_soft_cap > 0:
            raise ValueError(f"logit_soft_cap must be positive, or null, got {self.logit_soft_cap}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    @property
    def head_width(self) -> int:
        """D = C / H."""
        return self.width // self.n_heads


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of :class:`FusionLMConfig` from those of an earlier version: qk_norm was true or false."""
    older = {True: "layer", False: "none"}
    norm = values.get("qk_norm")
    return {**values, "qk_norm": older[norm]} if isinstance(norm, bool) else values


class KVCache:
    """Keys and values of every layer, for at most ``length`` positions of each row.

    Every row is filled from the left as far as it has come, which is ``lengths``. What stands behind that is
    never seen, and is written over: so a row that is set back goes on from there.
    """

    STEP = 64
    """On CPUs attention looks at the part that is in use, rounded up to this, and elsewhere at all of it: a
    compiled or captured step wants one shape."""

    def __init__(
        self, config: FusionLMConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype
    ):
        shape = (config.n_layers, 2, batch, config.n_kv_heads, length, config.head_width)
        self.store = torch.zeros(shape, device=device, dtype=dtype)
        self.rows = torch.arange(batch, device=device)[:, None]
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        """Where the next token of each row goes (B,)."""
        self.used = 0
        """No row is longer than this."""

    @property
    def length(self) -> int:
        """Positions the cache can hold."""
        return self.store.shape[4]

    def go_on(self, lengths: Tensor) -> None:
        """The next tokens of the rows go to ``lengths`` (B,), no further than the cache was filled."""
        self.lengths = lengths.clamp(max=self.length - 1)
        self.used = min(self.used, self.length - 1)

    def span(self, more: int) -> int:
        """Positions that attention looks at when ``more`` are added."""
        if self.store.device.type != "cpu":
            return self.length
        return min(self.length, -(-(self.used + more) // self.STEP) * self.STEP)

    def extend(self, layer: int, k: Tensor, v: Tensor, positions: "Positions") -> tuple[Tensor, Tensor]:
        """Add k, v (B, Hkv, T, D) to ``layer``; returns the keys and values that ``positions`` are about."""
        keys, values = self.store[layer]
        if positions.index is None:  # the first tokens of every row
            keys[:, :, : k.shape[2]], values[:, :, : k.shape[2]] = k, v
            return k, v
        keys[self.rows, :, positions.index] = k.transpose(1, 2)
        values[self.rows, :, positions.index] = v.transpose(1, 2)
        span = self.span(k.shape[2])
        return keys[:, :, :span], values[:, :, :span]


class Positions(NamedTuple):
    """What attention needs to know about where tokens stand; the same for every layer."""

    cos: Tensor
    """(B or 1, 1, T, D) float32."""
    sin: Tensor
    mask: Tensor | None
    """True where a query may look, (B or 1, 1, T, S); None means plain causal attention."""
    blocks: BlockMask | None = None
    """The same for FlexAttention, which skips the blocks that nobody looks at."""
    first_keys: tuple[int, ...] = ()
    """For each ``QUERIES`` queries the first key that one of them sees; () lets all attend together."""
    index: Tensor | None = None
    """Where the tokens go in a cache that holds others already, (B, T)."""


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
    """Norm over the head width D, parameters per head: LayerNorm with gain and bias, or RMSNorm with gain.

    weight and bias are (H, D).
    """

    def __init__(self, kind: Literal["layer", "rms"], n_heads: int, head_width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_heads, head_width))
        self.bias = nn.Parameter(torch.zeros(n_heads, head_width)) if kind == "layer" else None
        self.eps = eps

    def forward(self, x: Tensor, more: "HeadNorm") -> Tensor:
        """x (B, T, H + H', D), whose last H' heads have the parameters of ``more``."""
        weight = torch.cat([self.weight, more.weight])
        if self.bias is None or more.bias is None:
            return F.rms_norm(x, x.shape[-1:], eps=self.eps) * weight
        return F.layer_norm(x, x.shape[-1:], eps=self.eps) * weight + torch.cat([self.bias, more.bias])


def head_norm(config: FusionLMConfig, n_heads: int) -> nn.Module:
    """What ``config.qk_norm`` asks for."""
    if config.qk_norm == "none":
        return nn.Identity()
    return HeadNorm(config.qk_norm, n_heads, config.head_width, config.norm_eps)


class Attention(nn.Module):
    """Causal self-attention with QK-norm, rotary positions and grouped key/value heads."""

    def __init__(self, config: FusionLMConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        C, H, Hkv, D = config.width, config.n_heads, config.n_kv_heads, config.head_width
        self.qkv = nn.Linear(C, (H + 2 * Hkv) * D, bias=False)
        self.out = nn.Linear(H * D, C, bias=False)
        self.q_norm, self.k_norm = head_norm(config, H), head_norm(config, Hkv)

    def queries_keys_values(self, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C) -> q (B, H, T, D), k and v (B, Hkv, T, D), normalised and rotated."""
        B, T, _ = x.shape
        H, Hkv, D = self.config.n_heads, self.config.n_kv_heads, self.config.head_width
        # Queries and keys go together: steps of generation are so small that calls are what takes time.
        qk, v = self.qkv(x).view(B, T, H + 2 * Hkv, D).split([H + Hkv, Hkv], dim=2)
        if self.config.qk_norm != "none":
            qk = self.q_norm(qk, self.k_norm)
        qk, v = qk.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T, D)
        # Norms come out in float32 under autocast, and attention wants one type.
        q, k = rotate(qk, positions.cos, positions.sin).to(v.dtype).split([H, Hkv], dim=1)
        return q, k, v

    def forward(self, x: Tensor, positions: Positions, cache: KVCache | None) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        q, k, v = self.queries_keys_values(x, positions)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v, positions)
        grouped = self.config.n_heads != self.config.n_kv_heads
        if positions.blocks is not None:
            y = _flex()(q, k, v, block_mask=positions.blocks, enable_gqa=grouped)
        elif positions.mask is not None and positions.first_keys:
            parts = []
            for start, first in zip(range(0, T, QUERIES), positions.first_keys, strict=True):
                queries, keys = slice(start, start + QUERIES), slice(first, start + QUERIES)
                mask = positions.mask[:, :, queries, keys]
                parts.append(
                    F.scaled_dot_product_attention(
                        q[:, :, queries], k[:, :, keys], v[:, :, keys], mask, enable_gqa=grouped
                    )
                )
            y = torch.cat(parts, dim=2)
        else:
            causal = positions.mask is None and T > 1
            y = F.scaled_dot_product_attention(q, k, v, positions.mask, is_causal=causal, enable_gqa=grouped)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


@once
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)


def _flex() -> Any:
    """FlexAttention is fast only when it is compiled; inside a compiled network it is so already."""
    return flex_attention if torch.compiler.is_compiling() else _compiled_flex()


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
    """Residual block: attention, then feed-forward, with norms before them or after them."""

    def __init__(self, config: FusionLMConfig, layer: int):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config, layer)
        self.ffn_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.reordered = config.norm_placement == "reordered"

    def forward(self, x: Tensor, positions: Positions, cache: KVCache | None) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        if self.reordered:
            x = x + self.attention_norm(self.dropout(self.attention(x, positions, cache)))
            return x + self.ffn_norm(self.dropout(self.ffn(x)))
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, cache))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


def initialise(module: nn.Module, layers: int) -> None:
    """Draw the matrices of a network, or of a block of one with so many layers, anew.

    Normal, standard deviation 0.02; residual projections scaled down by sqrt(2 * layers) (GPT-2).
    """
    residual = 0.02 / (2 * layers) ** 0.5
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=residual if name.endswith((".out", ".down")) else 0.02)


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
        self.activation_checkpointing = False
        """Keep only the inputs of the blocks for the backward pass, and compute the rest of a block again."""
        self.attention_backend: Literal["auto", "sdpa", "flex"] = "auto"
        """How packed documents attend: flex (FlexAttention, fast on GPUs, no backward on CPUs), sdpa (any
        device, with a (B, 1, T, T) mask), auto: by device."""
        self.reset_parameters()
        if config.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    def reset_parameters(self) -> None:
        """See ``initialise``."""
        initialise(self, self.config.n_layers)

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
        vocab_modality: Tensor | None = None,
        cache: KVCache | None = None,
        at: Tensor | None = None,
    ) -> Tensor | LossTerms:
        """One forward for training, evaluation and generation.

        :param tokens: (B, T) int64 in 0..V-1.
        :param documents: (B, T) int64, the document each token of a packed window belongs to, non-decreasing
            along T; no token attends across a border and positions restart there. None: one document a row.
        :param targets: (B, T) int64, the token after each token, -100 where nothing is to be learned.
        :param modality: (B, T) int64, the modality of each target (``SharedVocab.modality``).
        :param vocab_modality: (V,) int64, the modality of each token; with it the loss terms have entropies
            and in-modality losses too, which cost a second product with ``lm_head``.
        :param cache: keys and values of the tokens before these; extended in place.
        :param at: (B,) int64, the only position of each row whose logits are asked for.
        :returns: logits (B, T, V), (B, 1, V) with ``at``, or with ``targets`` the :class:`LossTerms`.
        :raises ValueError: the sequence is longer than ``context_length`` or than what the cache still holds,
            or a cache is given with documents.
        """
        start = cache.used if cache is not None else 0
        if start + tokens.shape[1] > self.config.context_length:
            raise ValueError(
                f"{start + tokens.shape[1]} tokens do not fit the context length {self.config.context_length}"
            )
        if cache is not None and documents is not None:
            raise ValueError("packed documents cannot be continued from a cache: pass one or the other")
        if cache is not None and start + tokens.shape[1] > cache.length:
            raise ValueError(f"{start + tokens.shape[1]} tokens do not fit the cache's {cache.length}")
        positions = self._positions(tokens, documents, cache)
        x = self.embedding(tokens)  # (B, T, C)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, positions, cache, use_reentrant=False)
            else:
                x = block(x, positions, cache)
        if cache is not None:
            cache.lengths, cache.used = cache.lengths + tokens.shape[1], start + tokens.shape[1]
        if at is not None:
            x = x[torch.arange(len(x), device=x.device), at][:, None]
        x, cap = self.norm(x), self.config.logit_soft_cap
        if targets is None:
            return capped(self.lm_head(x), cap)
        return next_token_loss(x, self.lm_head.weight, targets, modality, vocab_modality, cap)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``.

        :raises ValueError: the weights are laid out for generation (``decoding_weights``).
        """
        if not isinstance(self.lm_head, nn.Linear):
            raise ValueError("the weights are laid out for generation alone: load the model anew to save it")
        save_network(self, self.config, Path(folder), KIND)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder written by :meth:`save`, strictly, in evaluation mode and in the type of its file.

        :raises FileNotFoundError: a file is missing.  :raises ValueError: the files do not fit together.
        """
        model = load_network(cls, FusionLMConfig, Path(folder), KIND, upgrade=upgrade, unfilled=True)
        if model.config.tie_embeddings:
            model.lm_head.weight = model.embedding.weight
        return model.eval()

    @staticmethod
    def read_config(folder: str | Path) -> FusionLMConfig:
        """The config in a folder written by :meth:`save`; errors as :meth:`load`'s."""
        return read_config(FusionLMConfig, Path(folder), KIND, upgrade)

    def _positions(self, tokens: Tensor, documents: Tensor | None, cache: KVCache | None) -> Positions:
        T = tokens.shape[1]
        index = torch.arange(T, device=tokens.device)
        mask: Tensor | None = None
        blocks: Any = None
        first_keys: tuple[int, ...] = ()
        places: Tensor | None = None
        if documents is not None:
            border = documents.diff(dim=1, prepend=documents[:, :1] - 1) != 0
            first = torch.where(border, index, 0).cummax(dim=1).values  # (B, T) where each document begins
            index = index - first
            flex = tokens.is_cuda if self.attention_backend == "auto" else self.attention_backend == "flex"
            if flex:
                outside: Any = torch.compiler.disable(_document_blocks)  # of the compiled graph
                blocks = outside(documents)
            else:
                mask = (documents[:, None, :, None] == documents[:, None, None, :]) & torch.ones(
                    T, T, dtype=torch.bool, device=tokens.device
                ).tril()
                # Slices that differ from batch to batch would be compiled again for each.
                if tokens.device.type == "cpu" and T > QUERIES and not torch.compiler.is_compiling():
                    first_keys = tuple(first[:, ::QUERIES].amin(dim=0).tolist())
        elif cache is not None and cache.used:
            index = places = cache.lengths[:, None] + index  # (B, T)
            seen = torch.arange(cache.span(T), device=tokens.device)
            mask = (seen <= places[:, :, None])[:, None]
        cos, sin = rope_tables(index, self.config.head_width, self.config.rope_theta)
        if index.ndim == 1:
            return Positions(cos[None, None], sin[None, None], mask)
        return Positions(cos[:, None], sin[:, None], mask, blocks, first_keys, places)


def _document_blocks(documents: Tensor) -> BlockMask:
    """Causal attention within each document of packed windows (B, T), as FlexAttention wants it."""

    def visible(b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[b, query] == documents[b, key])

    B, T = documents.shape
    return create_block_mask(visible, B, None, T, T, device=documents.device.type)
