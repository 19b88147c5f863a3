"""The network's inputs: tokens, and optionally their documents, positions and continuous features."""

from typing import NamedTuple

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """A batch of token sequences. A bare tensor of tokens is shorthand for ``Inputs(tokens)``."""

    tokens: Tensor
    """(B, T) int64 in 0..V-1."""
    documents: Tensor | None = None
    """The document that each token of a packed window belongs to, (B, T) int64, non-decreasing along T: no
    token attends across a border, and positions restart there. None: every row is one document."""
    positions: Tensor | None = None
    """Position ids for the rotary embedding, (axes, B, T) int64. None: tokens are counted from the start of
    their document."""
    features: Tensor | None = None
    """Continuous features (N, C), for example from an image encoder, which replace token embeddings."""
    places: Tensor | None = None
    """Which tokens the features replace, in row-major order, (B, T) bool with N true values."""

    def check(self, width: int) -> None:
        """Check that shapes and types fit each other.

        Args:
            width: C, the width of the network.

        Raises:
            ValueError: A tensor does not fit ``tokens`` or ``width``.
        """
        shape = self.tokens.shape
        if len(shape) != 2:
            raise ValueError(f"tokens: expected the shape (B, T), got {tuple(shape)}")
        if self.documents is not None and self.documents.shape != shape:
            raise ValueError(f"documents: expected the shape {tuple(shape)}, got {_kind(self.documents)}")
        ids = self.positions
        if ids is not None and (ids.ndim != 3 or ids.shape[1:] != shape or ids.dtype != torch.int64):
            expected = f"(axes, {shape[0]}, {shape[1]}) torch.int64"
            raise ValueError(f"positions: expected {expected}, got {_kind(ids)}")
        if self.features is None and self.places is None:
            return
        if self.features is None or self.places is None:
            missing = "features" if self.features is None else "places"
            raise ValueError(f"{missing}: features and places go together, pass both or neither")
        if self.features.ndim != 2 or self.features.shape[1] != width:
            raise ValueError(f"features: expected the shape (N, {width}), got {_kind(self.features)}")
        if self.places.shape != shape or self.places.dtype != torch.bool:
            raise ValueError(f"places: expected {tuple(shape)} torch.bool, got {_kind(self.places)}")
        # Counting waits for a GPU, and cannot be part of a compiled graph.
        if not torch.compiler.is_compiling() and (count := int(self.places.sum())) != len(self.features):
            raise ValueError(f"places: {count} are true, but there are {len(self.features)} features")


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"
