"""Keys and values of tokens that a later forward pass attends to."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .cpu.attention import cache_span

if TYPE_CHECKING:
    from .layers import LayerConfig


class KVCache:
    """Keys and values of every layer, in ``length`` slots for each row.

    Rows are left-aligned: the tokens of a row fill slots 0, 1, ... Slots past ``lengths`` are masked and
    later overwritten, so a row can be rewound. A slot is where a token is stored; its position, which sets
    the angle of the rotary embedding, is a separate number.
    """

    def __init__(
        self,
        config: "LayerConfig",
        n_layers: int,
        batch: int,
        length: int,
        device: torch.device,
        dtype: torch.dtype,
    ):
        shape = (n_layers, 2, batch, config.n_kv_heads, length, config.head_width)
        self.store = torch.zeros(shape, device=device, dtype=dtype)
        self.rows = torch.arange(batch, device=device)[:, None]
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        """The slot of each row's next token (B,)."""
        self.used = 0
        """Upper bound of ``lengths``, known without waiting for the device."""

    @property
    def length(self) -> int:
        """Slots per row."""
        return self.store.shape[4]

    def keep(self, rows: Tensor) -> None:
        """Continue with some rows only, (B,) int64."""
        self.store, self.lengths = self.store[:, :, rows], self.lengths[rows]
        self.rows = self.rows[: len(rows)]

    def seek(self, lengths: Tensor) -> None:
        """Set the slot of each row's next token (B,), at most one past its last filled slot."""
        self.lengths = lengths.clamp(max=self.length - 1)
        self.used = min(self.used, self.length - 1)

    def slots(self, count: int) -> Tensor | None:
        """Slots of the next ``count`` tokens (B, count); None if the cache is empty: they are the first."""
        if not self.used:
            return None
        return self.lengths[:, None] + torch.arange(count, device=self.store.device)

    def mask(self, slots: Tensor) -> Tensor:
        """Which keys the tokens in ``slots`` (B, T) see: their own and earlier ones, (B, 1, T, S) bool."""
        seen = torch.arange(self._span(slots.shape[1]), device=slots.device)
        return (seen <= slots[:, :, None])[:, None]

    def extend(self, layer: int, k: Tensor, v: Tensor, slots: Tensor | None) -> tuple[Tensor, Tensor]:
        """Store k and v (B, Hkv, T, D) of a layer; returns the keys and values to attend to."""
        keys, values = self.store[layer]
        if slots is None:
            keys[:, :, : k.shape[2]], values[:, :, : k.shape[2]] = k, v
            return k, v
        keys[self.rows, :, slots] = k.transpose(1, 2)
        values[self.rows, :, slots] = v.transpose(1, 2)
        span = self._span(k.shape[2])
        return keys[:, :, :span], values[:, :, :span]

    def advance(self, count: int) -> None:
        """Move every row ahead by ``count`` tokens, which all layers have stored."""
        self.lengths, self.used = self.lengths + count, self.used + count

    def _span(self, more: int) -> int:
        return cache_span(self.store.device, self.length, self.used + more)
