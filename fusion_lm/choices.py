"""What generation lets a user choose, by name. Imports nothing heavy: the command line reads it."""

from typing import Literal, get_args

BestBy = Literal["forward", "both"]
BEST_BY: tuple[BestBy, ...] = get_args(BestBy)
"""How the best of several continuations is chosen (see ``generate``)."""

Weights = Literal["auto", "float32", "float16", "bfloat16", "int8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
"""How the transformer's weights are laid out for generation (see ``cpu.packed_weights``)."""
