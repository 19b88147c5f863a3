"""Faster attention on CPUs, whose kernels compute scores even for masked keys: most of these are skipped.

Other devices do not use this module.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

QUERIES = 64
"""Queries attend in blocks of this many."""
PRODUCTS_FROM = 256
"""Causal windows longer than this are trained by products."""
PRODUCTS_UP_TO = 400
"""Training by products pays up to this many keys per query, on average over the blocks."""
PRODUCTS_OF = 2**14
"""Smallest tokens times head width for products: a small window is a few calls of torch anyway."""
STEP = 64
"""Attention to a cache covers the part in use, rounded up to a multiple of this."""


def first_keys(starts: Tensor) -> tuple[int, ...]:
    """The first key that a block of queries may see, in any row of the batch.

    Args:
        starts: (B, T), where each token's document begins.

    Returns:
        One index per block of queries; empty if all queries should attend in one call.
    """
    # torch.compile would compile again for each batch, since the slices differ.
    if starts.device.type != "cpu" or starts.shape[1] <= QUERIES or torch.compiler.is_compiling():
        return ()
    return tuple(starts[:, ::QUERIES].amin(dim=0).tolist())


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, firsts: tuple[int, ...]) -> Tensor:
    """Attention under a causal ``mask``, a block of queries at a time.

    Args:
        q: (B, H, T, D).
        k: (B, Hkv, T, D).
        v: (B, Hkv, T, D).
        mask: (B, 1, T, T) bool.
        firsts: The result of ``first_keys``.

    Returns:
        (B, H, T, D).
    """
    if _trained_by_products(q, firsts):
        return _Products.apply(q, k, v, mask, firsts)
    grouped = q.shape[1] != k.shape[1]
    parts = []
    for queries, keys in _blocks(firsts):
        parts.append(
            F.scaled_dot_product_attention(
                q[:, :, queries],
                k[:, :, keys],
                v[:, :, keys],
                mask[:, :, queries, keys],
                enable_gqa=grouped,
            )
        )
    return torch.cat(parts, dim=2)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q (B, H, T, D) to k and v (B, Hkv, T, D) -> (B, H, T, D), on any device."""
    T = q.shape[2]
    if PRODUCTS_FROM < T == k.shape[2]:
        firsts = (0,) * -(-T // QUERIES)
        if _trained_by_products(q, firsts):
            return _Products.apply(q, k, v, None, firsts)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def _trained_by_products(q: Tensor, firsts: Sequence[int]) -> bool:
    """Whether the gradient is faster by batched products than by torch's flash attention.

    Measured for float32 with AVX-512 by benchmarks/speed/attention.py. The probabilities of all blocks are
    kept, so the rule also bounds the memory.
    """
    if q.device.type != "cpu" or not q.requires_grad or torch.compiler.is_compiling():
        return False
    if q.dtype not in (torch.float32, torch.float64) or q.shape[2] * q.shape[3] < PRODUCTS_OF:
        return False
    return sum(keys.stop - keys.start for _, keys in _blocks(firsts)) <= PRODUCTS_UP_TO * len(firsts)


def _blocks(firsts: Sequence[int]) -> list[tuple[slice, slice]]:
    """Queries of each block, and the keys that they may see."""
    return [
        (slice(n * QUERIES, (n + 1) * QUERIES), slice(first, (n + 1) * QUERIES))
        for n, first in enumerate(firsts)
    ]


class _Products(torch.autograd.Function):
    """Attention as plain matrix products, a block of queries at a time, with its gradient.

    With scores S = Q K^T / sqrt(D), P = softmax(S) and O = P V: dV = P^T dO, dP = dO V^T,
    dS = P * (dP - sum(dP * P)), dQ = dS K / sqrt(D), dK = dS^T Q / sqrt(D).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, firsts: tuple[int, ...]
    ) -> Tensor:
        """Arguments as in ``blocked_attention``; without ``mask`` attention is causal."""
        (B, H, T, D), Hkv = q.shape, k.shape[1]
        q = (q * D**-0.5).reshape(B * Hkv, H // Hkv, T, D)
        k, v = k.reshape(B * Hkv, T, D), v.reshape(B * Hkv, T, D)
        out, probabilities = torch.empty_like(q), []
        future = torch.full((QUERIES, QUERIES), float("-inf"), dtype=q.dtype).triu(1)
        for queries, keys in _blocks(firsts):
            block = q[:, :, queries]
            scores = torch.bmm(block.flatten(1, 2), k[:, keys].mT)  # (B * Hkv, heads of a group * n, S)
            n, S = block.shape[2], scores.shape[2]
            if mask is None:
                scores.view(-1, n, S)[..., S - n :].add_(future[:n, :n])
            else:
                hidden = mask[:, :, queries, keys].logical_not()
                bias = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, float("-inf"))
                scores.view(B, H, n, S).add_(bias)
            p = torch.softmax(scores, dim=-1)
            out[:, :, queries] = torch.bmm(p, v[:, keys]).view_as(block)
            probabilities.append(p)
        ctx.save_for_backward(q, k, v, *probabilities)
        ctx.firsts, ctx.batch = firsts, B
        return out.view(B, H, T, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of q (B, H, T, D), k and v (B, Hkv, T, D)."""
        q, k, v, *probabilities = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        gradient = gradient.reshape(q.shape)
        q_grad, k_grad, v_grad = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (queries, keys), p in zip(_blocks(ctx.firsts), probabilities, strict=True):
            block = gradient[:, :, queries]
            g = block.flatten(1, 2)
            v_grad[:, keys].baddbmm_(p.mT, g)
            s = torch.ops.aten._softmax_backward_data(torch.bmm(g, v[:, keys].mT), p, -1, p.dtype)
            q_grad[:, :, queries] = torch.bmm(s, k[:, keys]).mul_(scale).view_as(block)
            k_grad[:, keys].baddbmm_(s.mT, q[:, :, queries].flatten(1, 2))
        return *(g.view(ctx.batch, -1, *q.shape[2:]) for g in (q_grad, k_grad, v_grad)), None, None


def cache_span(device: torch.device, length: int, needed: int) -> int:
    """How many of the ``length`` slots of a cache attention covers when ``needed`` are in use.

    On other devices it covers all slots, so that every step has the same shape and can be compiled.
    """
    return length if device.type != "cpu" else min(length, -(-needed // STEP) * STEP)
