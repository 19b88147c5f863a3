"""Prompts by number: 0, 1, 2, ... without end.

Prompt n depends on n and the seed alone, so that a run that resumes continues with the same prompts, on any
number of ranks.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from .samples import Prompt


class Source(Protocol):
    """Prompts by number."""

    def prompts(self, numbers: Sequence[int]) -> list[Prompt]:
        """The prompts of these numbers, on the CPU."""
        ...


def place(number: int, length: int, seed: int) -> int:
    """The item, 0 to ``length`` - 1, of prompt ``number``: each once per pass, each pass in its own order."""
    turn, rest = divmod(number, length)
    return int(_order(length, seed, turn)[rest])


@lru_cache(maxsize=4)
def _order(length: int, seed: int, turn: int) -> np.ndarray:
    return np.random.default_rng([seed, turn]).permutation(length)


def is_turn(number: int, share: float) -> bool:
    """Whether ``number`` is one of the evenly spaced ones that make up ``share`` of all numbers."""
    return math.floor((number + 1) * share) > math.floor(number * share)
