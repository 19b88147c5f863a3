"""Draw the next token: pure functions over logits (B, V).

Each row is drawn with one uniform random number (inverse transform sampling), so that it depends only on its
own logits and its own seed, not on the other rows of the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one modality are drawn.

    Raises:
        ValueError: A value is out of range.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches p (Holtzman et al., arXiv:1904.09751)."""
    min_p: float = 0.0
    """Keep the tokens whose probability is at least this fraction of the highest one (arXiv:2407.01082)."""
    repetition_penalty: float = 1.0
    """Penalty for text tokens that the row already has: positive logits are divided by it, others multiplied
    (CTRL, arXiv:1909.05858, section 4.1). 1: off. Codes are never penalized."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be in [0, 1], got {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be positive, got {self.repetition_penalty}")


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Apply temperature, top-k, top-p and min-p, in this order.

    Args:
        logits: (B, V).
        sampling: The settings.

    Returns:
        Logits (B, V); -inf for dropped tokens.
    """
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(1, best, 0.0)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probability = ordered.softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability  # mass of the more likely tokens
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= sampling.top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    if sampling.min_p > 0:
        least = logits.amax(dim=-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < least, -torch.inf)
    return logits


def penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) in which the tokens ``seen`` (B, V) bool are less likely."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token per row.

    Args:
        logits: (B, V); a token with -inf is never drawn.
        uniform: (B,) random numbers in [0, 1).

    Returns:
        (B,) int64: the first token, in the order of the vocabulary, at which the cumulative probability
        exceeds the random number.
    """
    mass = logits.softmax(dim=-1).cumsum(dim=-1)
    # Rounding may leave the last entry below 1, so the random number is scaled by it.
    return (mass <= (uniform.to(mass.dtype) * mass[:, -1])[:, None]).sum(dim=-1)


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """Random numbers in [0, 1 - 2**-24], (B, steps) float32; a row depends on its own seed only."""
    rows = [torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)
