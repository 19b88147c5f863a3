"""Draw the next token: pure functions over logits (B, V).

Each row is drawn with one uniform random number (inverse transform sampling), so that it depends only on its
own logits and its own seed, not on the other rows of the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from reprlib import repr as short
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one modality are drawn.

    Raises:
        ValueError: A value is out of range.
    """

    temperature: float = 1.0
    """Divides the logits, 0.001 to 1000; 0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches p, 0.000001 to 1 (Holtzman et al.,
    arXiv:1904.09751)."""
    min_p: float = 0.0
    """Keep the tokens whose probability is at least this fraction of the highest one (arXiv:2407.01082)."""
    repetition_penalty: float = 1.0
    """Penalty for text tokens that the row already has: positive logits are divided by it, others multiplied
    (CTRL, arXiv:1909.05858, section 4.1), 0.01 to 100. 1: off. Codes are never penalized."""

    def __post_init__(self) -> None:
        if isinstance(self.temperature, bool) or self.temperature != 0:
            check_number("temperature", self.temperature, 1e-3, 1e3, "0 or 0.001 to 1000")
        check_number("top_k", self.top_k, 0, WHOLE, whole=True)
        check_number("top_p", self.top_p, 1e-6, 1, "0.000001 to 1")
        check_number("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, 0.01, 100)


WHOLE = 2**31 - 1
"""The largest whole number that settings may have, where nothing else bounds them."""


def check_number(
    name: str, value: Any, low: float, high: float, expected: str = "", whole: bool = False
) -> None:
    """Check a setting. The bounds are wide, but finite settings within them cannot break finite logits.

    Args:
        name: What the message calls it.
        value: The setting.
        low: The smallest value.
        high: The largest value.
        expected: The range in words.
        whole: Only integers are allowed.

    Raises:
        ValueError: The value is not a number, or out of range.
    """
    kind: Any = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        what = "a whole number from " if whole else ""
        raise ValueError(f"{name} is {short(value)}, expected {what}{expected or f'{low} to {high}'}")


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Apply temperature, top-k, top-p and min-p, in this order.

    Args:
        logits: (B, V).
        sampling: The settings.

    Returns:
        Logits (B, V); -inf for dropped tokens. Rows that ``draw`` refuses stay such rows.
    """
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        zero = logits.gather(1, best) * 0  # NaN if the best is not finite
        return torch.full_like(logits, -torch.inf).scatter(1, best, zero)
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
        exceeds the random number; -1 if the row has no distribution, because a logit is NaN or inf, or all
        are -inf.
    """
    mass = logits.softmax(dim=-1).cumsum(dim=-1)
    # Rounding may leave the last entry below 1, so the random number is scaled by it.
    drawn = (mass <= (uniform.to(mass.dtype) * mass[:, -1])[:, None]).sum(dim=-1)
    return torch.where(mass[:, -1] > 0, drawn, -1)


def likeliest(logits: Tensor) -> Tensor:
    """The most likely token of each row of ``logits`` (B, V), as ``draw``: (B,) int64, -1 as there."""
    best = logits.max(dim=-1)
    return torch.where(best.values.isfinite(), best.indices, -1)


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """Random numbers in [0, 1 - 2**-24], (B, steps) float32; a row depends on its own seed only."""
    rows = [torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)
