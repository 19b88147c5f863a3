"""Faster attention on CPUs, whose kernels compute scores even for masked keys: most of these are skipped.

Other devices do not use this module.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES = 128
"""Packed windows attend in blocks of this many queries."""
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
    """How many of the ``length`` slots of a cache attention covers when ``needed`` are in use.

    On other devices it covers all slots, so that every step has the same shape and can be compiled.
    """
    return length if device.type != "cpu" else min(length, -(-needed // STEP) * STEP)
