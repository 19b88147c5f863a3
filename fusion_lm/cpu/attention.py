"""Attention on CPUs, which compute scores even for masked keys: here they skip most of them.

Other devices need none of this.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES = 128
"""Packed windows attend in blocks of this many queries."""
STEP = 64
"""Attention to a cache covers the part in use, rounded up to a multiple of this."""


def first_keys(starts: Tensor) -> tuple[int, ...]:
    """For each block of queries, the first key that one of them may see in any row.

    Args:
        starts: (B, T), where each token's document begins.

    Returns:
        One index per block; empty if all queries should attend together.
    """
    # Slices that differ from batch to batch would be compiled again for each.
    if starts.device.type != "cpu" or starts.shape[1] <= QUERIES or torch.compiler.is_compiling():
        return ()
    return tuple(starts[:, ::QUERIES].amin(dim=0).tolist())


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, firsts: tuple[int, ...]) -> Tensor:
    """Attention under a causal ``mask`` (B, 1, T, T), a block of queries at a time.

    q (B, H, T, D), k and v (B, Hkv, T, D) -> (B, H, T, D); ``firsts`` come from :func:`first_keys`.
    """
    grouped = q.shape[1] != k.shape[1]
    parts = []
    for start, first in zip(range(0, q.shape[2], QUERIES), firsts, strict=True):
        queries, keys = slice(start, start + QUERIES), slice(first, start + QUERIES)
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


def cache_span(device: torch.device, length: int, needed: int) -> int:
    """How much of a cache of ``length`` slots attention covers when ``needed`` are in use.

    Elsewhere it is all of the cache, since a compiled or captured step has one shape.
    """
    return length if device.type != "cpu" else min(length, -(-needed // STEP) * STEP)
