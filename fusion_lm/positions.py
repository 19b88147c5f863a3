"""Positions of tokens, and the rotary embedding's tables for them."""

import torch
from torch import Tensor

from .inputs import Inputs


def positions_of(inputs: Inputs, slots: Tensor | None = None) -> Tensor:
    """Position ids (axes, B or 1, T) int64.

    Args:
        inputs: Its ``positions`` are used if given. Otherwise tokens are counted from the start of their
            document.
        slots: (B, T), the cache slots of tokens that continue a cache; their default positions.
    """
    if inputs.positions is not None:
        return inputs.positions
    if slots is not None:
        return slots[None]
    index = torch.arange(inputs.tokens.shape[1], device=inputs.tokens.device)
    if inputs.documents is None:
        return index[None, None]
    return (index - document_starts(inputs.documents))[None]


def document_starts(documents: Tensor) -> Tensor:
    """Documents (B, T) -> the index of the first token of each token's document, (B, T)."""
    index = torch.arange(documents.shape[1], device=documents.device)
    border = documents.diff(dim=1, prepend=documents[:, :1] - 1) != 0
    return torch.where(border, index, 0).cummax(dim=1).values


def rope_tables(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Rotary tables for positions (1, B, T): cos and sin (B, 1, T, D) in float32.

    Su et al., arXiv:2104.09864, in the layout of ``transformers``: the first half of D pairs with the second.
    The sines of the first half are negative: x is turned by x * cos + (x rolled by D / 2) * sin.

    Args:
        positions: Position ids int64.
        head_width: D.
        theta: Base of the frequencies.

    Raises:
        ValueError: ``positions`` has several axes.
    """
    if len(positions) != 1:
        raise ValueError(f"positions: expected 1 axis, got {len(positions)}")
    exponents = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width
    angles = positions[0, ..., None].float() * theta**-exponents  # (B, T, D / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1)[:, None], torch.cat([-sin, sin], dim=-1)[:, None]
