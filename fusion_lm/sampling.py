"""Which token comes next: pure functions over logits (B, V).

A draw takes one uniform number a row, by the inverse of the cumulated probabilities: what a row gets is a
function of its own logits and numbers, whatever its neighbors are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How one modality's tokens are drawn."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches p (Holtzman et al., arXiv:1904.09751)."""
    min_p: float = 0.0
    """Keep the tokens that are at least this share as likely as the most likely one (arXiv:2407.01082)."""
    repetition_penalty: float = 1.0
    """Of text that the row holds already: positive logits are divided by it, others multiplied (CTRL,
    arXiv:1909.05858, section 4.1). Codes are never penalized."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must lie in [0, 1], got {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be positive, got {self.repetition_penalty}")


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Temperature, top-k, top-p and min-p, in this order, on logits (B, V); what is dropped becomes -inf."""
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
    """Logits (B, V) of tokens ``seen`` (B, V) bool, made less likely."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token a row (B,) from logits (B, V) and numbers (B,) in [0, 1); -inf is never drawn.

    The token whose probability, cumulated in the order of the vocabulary, first exceeds the number.
    """
    mass = logits.softmax(dim=-1).cumsum(dim=-1)
    # The last entry is 1 but for rounding; a number below 1 times it is below it, so there is always a token.
    return (mass <= (uniform.to(mass.dtype) * mass[:, -1])[:, None]).sum(dim=-1)


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """Numbers in [0, 1 - 2**-24] for each seed, (B, steps) float32: those of a row are its own."""
    rows = [torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)
