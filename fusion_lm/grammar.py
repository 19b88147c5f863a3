"""The grammar of documents: which tokens are allowed next, for a batch of rows at once.

A document is text until a block begins, then the block's size (if sizes are written), its codes, slot after
slot, the block's end, and text again. Only a prompt that is a conversation, with a ``sep`` in it, may get
another ``sep``. The tables are those of ``tokenizers.layout.Automaton``, as tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..tokenizers.layout import FREE, Cursor, Shape, automaton
from ..tokenizers.vocab import SharedVocab

ANY = "any"
"""The value of ``Options.then`` that lets the model choose the modality."""


@dataclass
class GrammarState:
    """Where each row of the batch is in its document; every field is (B,) int64."""

    mode: Tensor
    """Index in ``Automaton.modes``."""
    remaining: Tensor
    """Codes of the current block still to be written. While its size is being written, the number of codes
    that the sizes so far amount to."""
    turns: Tensor
    """Complete turns."""

    def rows(self, chosen: Tensor) -> "GrammarState":
        """The state of some rows."""
        return GrammarState(self.mode[chosen], self.remaining[chosen], self.turns[chosen])


class _Frame(NamedTuple):
    """What ``Grammar.allowed`` needs to know about the blocks of one modality."""

    begin: int
    least: int
    """Tokens of the smallest block."""
    numbers: slice | None
    """The number tokens of its sizes; None if sizes are not written."""


class Grammar:
    """Which tokens are allowed in a state, and which state follows a token. Built by ``grammar_of``."""

    def __init__(
        self,
        vocab: SharedVocab,
        device: torch.device | str = "cpu",
        shapes: Mapping[str, tuple[int, ...]] = {},
    ) -> None:
        """
        Args:
            vocab: The vocabulary.
            device: Device of the states.
            shapes: As in ``Options``.

        Raises:
            ValueError: Blocks of a modality cannot have the shape that ``shapes`` gives.
        """
        self.vocab, table = vocab, automaton(vocab)
        self.modes = table.modes

        def tensor(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, device=device)

        self.next, self.end, self.after = tensor(table.next), tensor(table.end), tensor(table.after)
        self.codes, self.number = tensor(table.codes), tensor(table.number)
        self.is_code = tensor([mode.kind == "code" for mode in table.modes])
        self.is_end = tensor([mode.kind == "end" for mode in table.modes])
        self.modality = tensor([max(1, vocab.names.index(mode.name)) for mode in table.modes])
        """(M,) Index in ``vocab.names`` of the modality whose sampling settings apply; text after the end."""
        masks = tensor(table.taken_by) == tensor(table.takes)[:, None]  # (M, V)
        self.frames: list[_Frame] = []
        for modality in vocab.framed:
            layout = vocab.layout(modality.name)
            numbers = layout.numbers and slice(layout.numbers.start, sum(layout.numbers))
            self.frames.append(_Frame(layout.begin, layout.length(shapes.get(modality.name)), numbers))
        for name, shape in shapes.items():
            try:
                written = vocab.layout(name).size_tokens(tuple(shape))
            except ValueError as error:
                raise ValueError(f"shapes of {name}: {error}") from None
            for mode, (kind, of, axis) in enumerate(table.modes):
                if kind == "size" and of == name:
                    masks[mode] = False
                    masks[mode, written[axis]] = True
        self.masks = masks
        # For modes that read a size: the least number of codes per unit of it, and the other tokens that must
        # fit.
        self.is_size = tensor([mode.kind == "size" for mode in table.modes])
        least, rest = [0] * len(table.modes), [0] * len(table.modes)
        for mode, (kind, name, axis) in enumerate(table.modes):
            if kind == "size":
                shape = shapes.get(name) or vocab.layout(name).least
                least[mode] = prod(shape[axis + 1 :])
                rest[mode] = len(shape) - axis + 1  # this token, the other sizes, and the end
        self.least, self.rest = tensor(least), tensor(rest)

    def state(self, cursors: Sequence[Cursor]) -> GrammarState:
        """The state of documents at the positions of ``cursors``, one per row."""
        fields = zip(*((cursor.mode, cursor.remaining, cursor.turns) for cursor in cursors))
        return GrammarState(*(torch.tensor(field, device=self.masks.device) for field in fields))

    def advance(self, state: GrammarState, tokens: Tensor) -> GrammarState:
        """The state after ``tokens`` (B,), which must be allowed; rows that have ended do not change."""
        mode, free = state.mode, state.mode == FREE
        is_code = self.is_code[mode]
        remaining = state.remaining * self.number[tokens] - is_code.long()
        remaining = torch.where(free, self.codes[tokens], remaining)
        following = torch.where(free, self.after[tokens], self.next[mode])
        following = torch.where(is_code & (remaining == 0), self.end[mode], following)
        turns = state.turns
        if self.vocab.sep is not None:
            turns = turns + (free & (tokens == self.vocab.sep))
        return GrammarState(following, remaining, turns)

    def first_token(self, then: str) -> Tensor:
        """The tokens that can begin modality ``then``, (V,) bool."""
        mask = torch.zeros_like(self.masks[FREE])
        layout = self.vocab[then].layout
        if layout is not None:
            mask[layout.begin] = True
        else:
            mask |= self.vocab.is_text(torch.arange(self.vocab.size)).to(mask.device)
        return mask

    def allowed(self, state: GrammarState, room: Tensor, may_begin: Tensor | None = None) -> Tensor:
        """Which tokens may come next: those of the grammar, without blocks that would not fit.

        Args:
            state: Where the rows are.
            room: (B,) tokens that each row may still write.
            may_begin: (B,) whether a new block may begin; None if it always may.

        Returns:
            (B, V) bool.
        """
        mode = state.mode
        allowed = self.masks[mode]
        for frame in self.frames:
            fits = room >= frame.least
            allowed[:, frame.begin] &= fits if may_begin is None else may_begin & fits
        if self.vocab.sep is not None:
            allowed[:, self.vocab.sep] &= state.turns > 0
        for frame in self.frames:
            if frame.numbers is None:
                continue
            # A size fits if this token, the other sizes, all codes and the end do.
            codes = (state.remaining * self.least[mode])[:, None] * self.number[frame.numbers]
            fit = codes + self.rest[mode][:, None] <= room[:, None]
            allowed[:, frame.numbers] &= fit | ~self.is_size[mode][:, None]
        return allowed

    def fits(self, state: GrammarState, room: Tensor) -> Tensor:
        """Whether the rest of each row's current block fits into ``room``, (B,) bool."""
        return ~self.is_code[state.mode] | (state.remaining + 1 <= room)


def grammar_of(
    vocab: SharedVocab, device: torch.device | str, shapes: Mapping[str, tuple[int, ...]]
) -> Grammar:
    """A ``Grammar`` with these arguments. It is cached, since its tables span the whole vocabulary."""
    return _grammar(
        vocab, torch.device(device), tuple((name, tuple(shape)) for name, shape in shapes.items())
    )


@lru_cache(maxsize=8)
def _grammar(vocab: SharedVocab, device: torch.device, shapes: tuple[tuple[str, Shape], ...]) -> Grammar:
    return Grammar(vocab, device, dict(shapes))
