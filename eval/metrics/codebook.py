"""Use of a codebook: counts of the codes, usage and perplexity.

With several codes per position each slot has its own K codes, so there is one histogram per slot.
"""

import torch
from torch import Tensor


def code_counts(codes: Tensor, codebook_size: int, codes_per_position: int = 1) -> Tensor:
    """How often each code occurs, (n, K) int64.

    Args:
        codes: Any shape; with n > 1 the last axis is n.
        codebook_size: K.
        codes_per_position: n.

    Raises:
        ValueError: The last axis is not n.
    """
    n, K = codes_per_position, codebook_size
    if n > 1 and (not codes.ndim or codes.shape[-1] != n):
        raise ValueError(
            f"codes have shape {tuple(codes.shape)}, expected (..., {n}): {n} codes per position"
        )
    ids = codes.reshape(-1, n).long() + K * torch.arange(n, device=codes.device)  # slot g: g*K .. g*K + K-1
    counts = torch.zeros(n * K, dtype=torch.int64, device=codes.device)  # bincount would wait for a GPU
    return counts.scatter_add_(0, ids.flatten(), torch.ones_like(ids.flatten())).view(n, K)


def usage(counts: Tensor) -> Tensor:
    """Fraction of the n*K codes that occur, from counts (n, K)."""
    return (counts > 0).double().mean()


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy: the number of equally frequent codes with that entropy; 1..K, from counts (n, K).

    Over several slots it is the geometric mean, exp of the mean entropy: a position costs n * log2 of it in
    bits if each slot is entropy-coded separately. NaN without codes.
    """
    share = counts.double() / counts.sum(-1, keepdim=True)  # (n, K)
    return (-torch.xlogy(share, share).sum(-1)).mean().exp()
