"""Transformer layers, shared by the language model and the encoders.

Attention with QK-norm, rotary positions and grouped key/value heads, SwiGLU, and a residual block. A layer
is built from a ``LayerConfig``. Which tokens see each other, and their rotary tables, come with each
call in a ``Context``.
"""

from functools import cache as once
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from .cache import KVCache
from .config import LayerConfig
from .cpu.attention import blocked_attention, causal_attention


class Context(NamedTuple):
    """Rotary tables and mask of a batch, shared by all layers.

    Without ``mask`` and ``blocks``, attention is causal, or bidirectional with ``causal=False``. With a mask,
    ``causal`` is ignored; ``fusion_lm/masks.py`` builds masks for packed documents and mixed attention.
    """

    cos: Tensor | None = None
    """Rotary table (B or 1, 1, T, D) float32; None leaves queries and keys unrotated."""
    sin: Tensor | None = None
    causal: bool = True
    mask: Tensor | None = None
    """True where a query may see a key, (B or 1, 1, T, S) bool."""
    blocks: BlockMask | None = None
    """A mask for FlexAttention, used instead of ``mask``."""
    first_keys: tuple[int, ...] = ()
    """CPU only, with a causal ``mask``: see ``cpu/attention.py``."""
    slots: Tensor | None = None
    """Where a non-empty cache stores the tokens, (B, T)."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding to x (B, H, T, D), with tables of ``rope_tables``."""
    if torch.compiler.is_compiling():  # into one pass, which a roll would prevent
        half = x.shape[-1] // 2
        (first, second), c, s = x.split(half, dim=-1), cos[..., half:], sin[..., half:]
        return torch.cat([first * c - second * s, second * c + first * s], dim=-1).to(x.dtype)
    return _Rotation.apply(x, cos, sin) if torch.is_grad_enabled() else _turned(x, cos, sin)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int = 1) -> Tensor:
    half = x.shape[-1] // 2
    return torch.addcmul(x * cos, x.roll(half, dims=-1), sin, value=direction).to(x.dtype)


class _Rotation(torch.autograd.Function):
    """``_turned``, whose gradient is turned back: autograd's own takes twice the passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[override]
        """Arguments as in ``rotate``."""
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradient of x (B, H, T, D)."""
        return _turned(gradient, *ctx.saved_tensors, direction=-1), None, None


def attend(q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
    """Attention of q (B, H, T, D) to k and v (B, Hkv, S, D) -> (B, H, T, D)."""
    grouped = q.shape[1] != k.shape[1]
    if context.blocks is not None:
        return _flex()(q, k, v, block_mask=context.blocks, enable_gqa=grouped)
    if context.mask is not None and context.first_keys:
        return blocked_attention(q, k, v, context.mask, context.first_keys)
    if context.causal and context.mask is None and q.shape[2] > 1:
        return causal_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, context.mask, enable_gqa=grouped)


def initialize(module: nn.Module, layers: int) -> None:
    """Initialize the matrices of ``module``, a network of ``layers`` blocks or a part of one, in place.

    They are normal with standard deviation 0.02; residual projections are scaled down by sqrt(2 * layers)
    (GPT-2).
    """
    residual = 0.02 / (2 * layers) ** 0.5
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=residual if name.endswith((".out", ".down")) else 0.02)


class RMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` of the last axis, with fewer passes over memory in training."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., C)."""
        plain = x.dtype != self.weight.dtype or torch.compiler.is_compiling()
        if plain or not torch.is_grad_enabled():
            return super().forward(x)
        return _RMSNorm.apply(x, self.weight, self.eps)


class _RMSNorm(torch.autograd.Function):
    """y = w * x / r with r = sqrt(mean(x^2) + eps).

    With n = x / r and g the gradient of y: dw = sum(g * n), dx = (g * w - n * mean(g * w * n)) / r.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        """x (..., C) and weight (C,) -> (..., C)."""
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale = squares.div_(x.shape[-1]).add_(eps).rsqrt_()  # 1 / r
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x (..., C) and weight (C,)."""
        x, weight, scale = ctx.saved_tensors
        normal = x * scale
        by_row = (gradient * normal).flatten(0, -2)  # (N, C)
        shared = (by_row @ weight).view(scale.shape).div_(x.shape[-1])
        x_grad = (gradient * weight).addcmul_(normal, shared, value=-1).mul_(scale)
        return x_grad, by_row.sum(dim=0), None


class HeadNorm(nn.Module):
    """Weights of a norm over the head width D: LayerNorm's gain and bias, or RMSNorm's gain.

    The weights are (H, D), one row per head; ``normalize_heads`` applies them.
    """

    def __init__(self, kind: Literal["layer", "rms"], n_heads: int, head_width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_heads, head_width))
        self.bias = nn.Parameter(torch.zeros(n_heads, head_width)) if kind == "layer" else None
        self.eps = eps


def normalize_heads(x: Tensor, *norms: HeadNorm) -> Tensor:
    """Normalize x (B, T, heads, D). The first norm applies to the first of the heads, and so on.

    Queries and keys are normalized in one call, since the number of calls dominates a step of generation.
    """
    shape, eps = x.shape[-1:], norms[0].eps
    weights: list[Tensor] = [norm.weight for norm in norms]
    biases: list[Tensor] = [norm.bias for norm in norms if norm.bias is not None]
    weight = torch.cat(weights)
    if not biases:
        return F.rms_norm(x, shape, eps=eps) * weight
    return torch.addcmul(torch.cat(biases), F.layer_norm(x, shape, eps=eps), weight)


class Attention(nn.Module):
    """Self-attention with QK-norm, rotary positions and grouped key/value heads."""

    def __init__(self, config: LayerConfig, layer: int = 0):
        super().__init__()
        self.config, self.layer = config, layer
        C, H, Hkv, D = config.width, config.n_heads, config.n_kv_heads, config.head_width
        self.qkv = nn.Linear(C, (H + 2 * Hkv) * D, bias=False)
        self.out = nn.Linear(H * D, C, bias=False)
        self.q_norm, self.k_norm = (
            nn.Identity() if config.qk_norm == "none" else HeadNorm(config.qk_norm, n, D, config.norm_eps)
            for n in (H, Hkv)
        )

    def queries_keys_values(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C) -> q (B, H, T, D), k and v (B, Hkv, T, D), normalized and rotated."""
        B, T, _ = x.shape
        H, Hkv, D = self.config.n_heads, self.config.n_kv_heads, self.config.head_width
        qk, v = self.qkv(x).view(B, T, H + 2 * Hkv, D).split([H + Hkv, Hkv], dim=2)
        if isinstance(self.q_norm, HeadNorm) and isinstance(self.k_norm, HeadNorm):
            qk = normalize_heads(qk, self.q_norm, self.k_norm)
        qk, v = qk.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T, D)
        if context.cos is not None and context.sin is not None:
            qk = rotate(qk, context.cos, context.sin)
        # Under autocast norms return float32, but attention needs one type.
        q, k = qk.to(v.dtype).split([H, Hkv], dim=1)
        return q, k, v

    def forward(self, x: Tensor, context: Context, cache: KVCache | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        q, k, v = self.queries_keys_values(x, context)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v, context.slots)
        return self.out(attend(q, k, v, context).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer, arXiv:2002.05202)."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual connection and a norm before or after it."""

    def __init__(self, config: LayerConfig, layer: int = 0):
        super().__init__()
        self.attention_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config, layer)
        self.ffn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.reordered = config.norm_placement == "reordered"

    def forward(self, x: Tensor, context: Context, cache: KVCache | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        if self.reordered:
            x = x + self.attention_norm(self.dropout(self.attention(x, context, cache)))
            return x + self.ffn_norm(self.dropout(self.ffn(x)))
        x = x + self.dropout(self.attention(self.attention_norm(x), context, cache))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


@once
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)


def _flex() -> Any:
    """FlexAttention is fast only when compiled; inside a compiled network it already is."""
    return flex_attention if torch.compiler.is_compiling() else _compiled_flex()
