"""Named choices of generation. Imports nothing heavy, since the command line reads them for its help."""

from typing import Literal, get_args

BestBy = Literal["forward", "both"]
BEST_BY: tuple[BestBy, ...] = get_args(BestBy)
"""How the best of several continuations is chosen (see ``generate``)."""

Weights = Literal["auto", "float32", "float16", "bfloat16", "int8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
"""Layouts of the transformer's weights for generation (see ``cpu.packed_weights``)."""
