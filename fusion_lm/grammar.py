"""The grammar of documents, for a batch in which every row stands somewhere else.

A document is text until ``begin_image``, then (where sizes vary) its rows and columns, then exactly h * w * n
codes, slot after slot at each position, then ``end_image``, and on. In a conversation, which is a document
with ``sep`` in it, text may also be followed by ``sep``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..tokenizers.vocab import SharedVocab

TEXT, ROWS, COLUMNS, END, DONE, CODES = range(6)
"""Where a row stands: what its next token may be. CODES is last: its masks go on, one for each slot."""

Next = Literal["text", "image", "any"]


@dataclass
class GrammarState:
    """Per-row state of the grammar, each field (B,) int64."""

    mode: Tensor
    rows: Tensor
    """Rows of the image that is being written."""
    remaining: Tensor
    """Codes that are still to come in it, of all slots."""
    images: Tensor
    """Images finished so far."""
    turns: Tensor
    """Turns ended so far."""


def start_state(batch: int, device: torch.device) -> GrammarState:
    """Every row in text, before its first token."""
    zero = torch.zeros(batch, dtype=torch.int64, device=device)
    return GrammarState(mode=zero + TEXT, rows=zero, remaining=zero, images=zero, turns=zero)


def advance(state: GrammarState, tokens: Tensor, vocab: SharedVocab) -> GrammarState:
    """The state after ``tokens`` (B,); rows that are done stay done."""
    mode, rows, remaining, slots = state.mode, state.rows, state.remaining, vocab.codes_per_position
    new_mode, new_rows, new_remaining = mode.clone(), rows.clone(), remaining.clone()
    begins = (mode == TEXT) & (tokens == vocab.begin_image)
    if vocab.grid is not None:
        number = tokens - vocab.grid.start + 1
        new_mode[begins] = ROWS
        new_mode[mode == ROWS] = COLUMNS
        new_rows = torch.where(mode == ROWS, number, rows)
        sized = mode == COLUMNS
        new_remaining = torch.where(sized, rows * number * slots, remaining)
    else:
        assert vocab.fixed_grid is not None
        sized = begins
        new_remaining[sized] = vocab.fixed_grid[0] * vocab.fixed_grid[1] * slots
    new_mode[sized] = CODES
    new_remaining = torch.where(mode == CODES, remaining - 1, new_remaining)
    new_mode[(mode == CODES) & (new_remaining == 0)] = END
    ends = mode == END
    new_mode[ends] = TEXT
    new_mode[(mode == TEXT) & (tokens == vocab.eos)] = DONE
    turns = state.turns if vocab.sep is None else state.turns + ((mode == TEXT) & (tokens == vocab.sep))
    return GrammarState(new_mode, new_rows, new_remaining, state.images + ends, turns)


class Grammar:
    """Masks of what may come next, made once for a vocabulary."""

    def __init__(self, vocab: SharedVocab, device: torch.device, grid: tuple[int, int] | None = None):
        """``grid`` fixes the rows and columns of every image; otherwise the model chooses.

        :raises ValueError: ``grid`` has no grid tokens, or differs from the vocabulary's fixed grid.
        """
        self.vocab = vocab
        self.slots = vocab.codes_per_position
        masks = torch.zeros(CODES + self.slots, vocab.size, dtype=torch.bool, device=device)
        masks[TEXT] = vocab.mask("text").to(device)
        masks[TEXT, [vocab.eos, vocab.begin_image]] = True
        if vocab.sep is not None:
            masks[TEXT, vocab.sep] = True
        for slot in range(self.slots):
            masks[CODES + slot] = vocab.mask("image", slot).to(device)
        masks[END, vocab.end_image] = True
        masks[DONE, vocab.pad] = True
        if vocab.grid is None:
            if grid not in (None, vocab.fixed_grid):
                raise ValueError(f"this vocabulary's images have the grid {vocab.fixed_grid}, got {grid}")
        elif grid is None:
            masks[ROWS] = masks[COLUMNS] = vocab.mask("grid").to(device)
        else:
            if not all(1 <= n <= vocab.grid.count for n in grid):
                raise ValueError(f"grid must lie in 1..{vocab.grid.count} rows and columns, got {grid}")
            masks[ROWS, vocab.grid.start + grid[0] - 1] = True
            masks[COLUMNS, vocab.grid.start + grid[1] - 1] = True
        self.masks = masks
        count = 0 if vocab.grid is None else vocab.grid.count
        self.number = torch.arange(1, count + 1, device=device)  # what the grid tokens say
        least = grid or vocab.fixed_grid or (1, 1)
        self.least_image = (2 if vocab.grid is None else 4) + least[0] * least[1] * self.slots
        self.least_columns = least[1]

    def mask_of(self, state: GrammarState) -> Tensor:
        """Which of ``masks`` holds in each row, (B,) int64: that of its mode, inside an image of its slot."""
        if self.slots == 1:
            return state.mode
        # `remaining` falls from a multiple of n to 1, so the slot needs no state of its own.
        return torch.where(state.mode == CODES, CODES + -state.remaining % self.slots, state.mode)

    def first_token(self, then: Next) -> Tensor:
        """What may begin the forced next modality, (V,) bool."""
        mask = torch.zeros_like(self.masks[TEXT])
        if then == "image":
            mask[self.vocab.begin_image] = True
        else:
            mask |= self.vocab.mask("text").to(mask.device)
        return mask

    def allowed(self, state: GrammarState, room: Tensor, may_begin: Tensor) -> Tensor:
        """What may come next, (B, V) bool: the grammar, and no image that would not fit into ``room``.

        :param room: (B,) tokens that may still be written.
        :param may_begin: (B,) whether a new image may begin.
        """
        allowed = self.masks[self.mask_of(state)]
        allowed[:, self.vocab.begin_image] &= may_begin & (room >= self.least_image)
        if self.vocab.sep is not None:
            allowed[:, self.vocab.sep] &= state.turns > 0
        if self.vocab.grid is None:
            return allowed
        # All codes, end_image and this token itself must fit, and for rows the column token too.
        rows_fit = self.number * (self.least_columns * self.slots) + 3 <= room[:, None]
        columns_fit = (state.rows * self.slots)[:, None] * self.number + 2 <= room[:, None]
        start, count = self.vocab.grid
        allowed[:, start : start + count] &= (state.mode != ROWS)[:, None] | rows_fit
        allowed[:, start : start + count] &= (state.mode != COLUMNS)[:, None] | columns_fit
        return allowed
