"""How much of a codebook is in use: counts of the codes, usage and perplexity.

With several codes per position every slot has K codes of its own, so there is one histogram for each slot.
"""

import torch
from torch import Tensor


def code_counts(codes: Tensor, codebook_size: int, codes_per_position: int = 1) -> Tensor:
    """How often each code occurs, (n, K) int64: codes are of any shape, with a last axis n where n > 1.

    Raises ValueError when the last axis is not n.
    """
    n, K = codes_per_position, codebook_size
    if n > 1 and (not codes.ndim or codes.shape[-1] != n):
        raise ValueError(
            f"codes have the shape {tuple(codes.shape)}, expected (..., {n}): {n} codes a position"
        )
    ids = codes.reshape(-1, n).long() + K * torch.arange(n, device=codes.device)  # slot g: g*K .. g*K + K-1
    return torch.bincount(ids.flatten(), minlength=n * K).view(n, K)


def usage(counts: Tensor) -> Tensor:
    """The share of the n*K codes that occur at all, of counts (n, K)."""
    return (counts > 0).double().mean()


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy: how many codes, equally used, would say as much; 1..K, of counts (n, K).

    Over several slots the geometric mean, which is exp of the mean entropy: n * log2 of it are the bits that
    a position costs when each slot is entropy-coded by itself. NaN where there is no code.
    """
    share = counts.double() / counts.sum(-1, keepdim=True)  # (n, K)
    return (-torch.xlogy(share, share).sum(-1)).mean().exp()
