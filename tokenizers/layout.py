"""The layout of blocks of codes in the token stream, defined in this one place.

A document is ``bos``, text and blocks in any order, ``eos``. A block of a modality is

    begin  [its size along each axis]  codes ...  end

The size is written with number tokens, or omitted if all blocks have one shape. Codes are in scan order; the
n codes of a position are adjacent, in slot order. An image of 1 x 2 positions A, B with two codes each is
``begin "1" "2" A0 A1 B0 B1 end``.

Three verbs: ``write`` (codes -> tokens), ``parse`` (tokens -> codes), and ``Cursor``, which reads a document
token by token, checks that each is allowed, and counts how many codes of a block remain. ``Cursor`` and the
batched grammar of generation follow the same tables, ``Automaton``.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from ..storage.fields import Bounds, check_value

if TYPE_CHECKING:
    from torch import Tensor

    from .vocab import SharedVocab

# torch is imported in functions: `earlyfusion info` reads a vocabulary without it.

Scan = Literal["rows", "columns"]
Shape = tuple[int, ...]


class Numbers(NamedTuple):
    """Tokens start..start+count-1 encode sizes 1..count of a block along an axis."""

    start: int
    count: int


LARGEST = 2**24
BOUNDS: Bounds = {
    "begin": (0, LARGEST),
    "end": (0, LARGEST),
    "numbers.start": (0, LARGEST),
    "numbers.count": (0, LARGEST),
    "shape": (0, LARGEST),
    "axes": (0, 8),
    "slots": (0, 64),
}
"""Of a vocab.json, which may be a stranger's."""


@dataclass(frozen=True)
class Layout:
    """How the blocks of a modality are written in the stream.

    Raises:
        ValueError: A field is invalid.
    """

    begin: int
    """Token that begins a block."""
    end: int
    """Token that ends a block."""
    numbers: Numbers | None = None
    """Tokens for the size along each axis, written after ``begin``; None if all blocks have ``shape``."""
    shape: Shape | None = None
    """Positions along each axis of every block; None if blocks differ in size, written with ``numbers``."""
    axes: int = 2
    """1 for sequences, 2 for images (rows, columns)."""
    scan: Scan = "rows"
    """Order of the positions of two axes: row by row (raster, Chameleon's), or column by column, which keeps
    the codes of a letter together in a line of type."""
    slots: int = 1
    """n, codes per position."""

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(self.shape))  # JSON has lists
        values = {name: getattr(self, name) for name in ("begin", "end", "axes", "slots")}
        if self.numbers is not None:
            object.__setattr__(self, "numbers", Numbers(*self.numbers))
            values |= {f"numbers.{name}": value for name, value in self.numbers._asdict().items()}
        for name, value in values.items():
            check_value(name, value, int, BOUNDS)
        check_value("shape", self.shape, tuple[int, ...] | None, BOUNDS)
        if self.shape is not None and prod(self.shape) > LARGEST:
            raise ValueError(f"shape is {self.shape}, expected at most {LARGEST:,} positions")
        if self.numbers is not None:
            if self.numbers.count < 1:
                raise ValueError(f"numbers has count {self.numbers.count}, expected at least 1")
        if self.shape is not None:
            if not self.shape or min(self.shape) < 1:
                raise ValueError(f"shape is {self.shape}, expected positive numbers")
            object.__setattr__(self, "axes", len(self.shape))
        if (self.numbers is None) == (self.shape is None):
            raise ValueError(
                "expected either numbers or a shape, not "
                + ("both" if self.shape else "neither")
                + ": set numbers if sizes are written in the stream, shape if all blocks have one"
            )
        if self.axes < 1:
            raise ValueError(f"axes is {self.axes}, expected at least 1")
        if self.scan not in ("rows", "columns") or (self.scan == "columns" and self.axes != 2):
            raise ValueError(
                f"scan is {self.scan!r} with axes {self.axes}, expected 'rows', or 'columns' with axes 2"
            )
        if self.slots < 1:
            raise ValueError(f"codes_per_position is {self.slots}, expected 1 or more")

    @property
    def head(self) -> int:
        """Tokens before the codes."""
        return 1 if self.numbers is None else 1 + self.axes

    @property
    def raster(self) -> bool:
        """Whether positions are scanned row by row."""
        return self.scan == "rows"

    @property
    def least(self) -> Shape:
        """The shape of the smallest block."""
        return self.shape or (1,) * self.axes

    def length(self, shape: Shape | None = None) -> int:
        """Tokens of a block of ``shape`` (default: the smallest), including begin, size and end."""
        return self.head + prod(shape or self.least) * self.slots + 1

    def size_tokens(self, shape: Shape) -> list[int]:
        """The number tokens of ``shape``, between ``begin`` and the codes; [] if all blocks have one shape.

        Raises:
            ValueError: Blocks of this layout cannot have that shape.
        """
        size = _by(shape)
        if self.shape is not None:
            if shape != self.shape:
                raise ValueError(f"the codes are {size}, expected {_by(self.shape)}, this vocabulary's size")
            return []
        assert self.numbers is not None
        if len(shape) != self.axes or min(shape) < 1 or max(shape) > self.numbers.count:
            limit = _by((self.numbers.count,) * self.axes)
            raise ValueError(
                f"the codes are {size}, expected at most {limit}, this vocabulary's largest size"
            )
        return [self.numbers.start + n - 1 for n in shape]

    def scanned(self, shape: Shape) -> Shape:
        """``shape`` in the order of the scan: (lines, positions along a line) of two axes."""
        return shape[::-1] if self.scan == "columns" else shape

    def place(self, position: int, shape: Shape) -> Shape:
        """The indices along each axis of the ``position``-th position of the scan."""
        found: list[int] = []
        for size in reversed(self.scanned(shape)):
            position, index = divmod(position, size)
            found.append(index)
        return tuple(found if self.scan == "columns" else found[::-1])

    def line(self, shape: Shape) -> int:
        """Number of codes in one line of the scan: a row or a column, or one position of a sequence."""
        return prod(self.scanned(shape)[1:]) * self.slots

    def in_order(self, values: "Tensor") -> "Tensor":
        """Values of positions (*shape, ...) -> the same in scan order, (*scanned(shape), ...)."""
        return values.transpose(0, 1) if self.scan == "columns" else values

    def from_order(self, values: "Tensor", shape: Shape) -> "Tensor":
        """Values of codes in scan order, (N,) -> (*shape), or (*shape, n) with several slots.

        N may also be fewer lines than ``shape`` has: then the first axis of the scan is shorter.
        """
        inner = self.scanned(shape)[1:]
        slots = (self.slots,) if self.slots > 1 else ()
        grid = values.view(-1, *inner, *slots)
        return grid.transpose(0, 1) if self.scan == "columns" else grid


def write(vocab: "SharedVocab", name: str, codes: "Tensor") -> "Tensor":
    """Codes (*shape), or (*shape, n), of one block of modality ``name`` -> its tokens (T,) int64.

    Raises:
        ValueError: The shape or a code is not in the vocabulary.
    """
    import torch

    layout = vocab.layout(name)
    slots = (layout.slots,) if layout.slots > 1 else ()
    shape = tuple(codes.shape[: layout.axes])
    if codes.ndim != layout.axes + len(slots) or codes.shape[layout.axes :] != slots or not codes.numel():
        names = ("rows", "columns") if layout.axes == 2 else ("positions",) * layout.axes
        expected = ", ".join((*names, *map(str, slots)))
        raise ValueError(f"codes of {name} have the shape {tuple(codes.shape)}, expected ({expected})")
    try:
        head = [layout.begin, *layout.size_tokens(shape)]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    tokens = vocab.to_tokens(name, layout.in_order(codes)).flatten()
    return torch.cat([torch.tensor(head), tokens, torch.tensor([layout.end])])


class Block(NamedTuple):
    """A block of codes in a document."""

    name: str
    codes: "Tensor"
    """(*shape), or (*shape, n)."""
    stop: int
    """One past its last token."""


def parse(vocab: "SharedVocab", tokens: "Tensor", start: int, end: int) -> Block | None:
    """Read one block.

    Args:
        vocab: The vocabulary.
        tokens: A document (T,).
        start: Where the block's ``begin`` is.
        end: Where the document ends.

    Returns:
        The block, or None if ``end`` cuts it short.

    Raises:
        ValueError: No block begins there, or it is malformed; the message names the position.
    """
    begin = int(tokens[start])
    modality = next((m for m in vocab.framed if vocab.layout(m.name).begin == begin), None)
    if modality is None:
        raise ValueError(f"invalid document: token {begin} at position {start} does not begin a block")
    name, layout = modality.name, vocab.layout(modality.name)
    first = start + layout.head
    if layout.shape is not None:
        shape = layout.shape
    else:
        assert layout.numbers is not None
        sizes = [int(token) - layout.numbers.start + 1 for token in tokens[start + 1 : min(first, end)]]
        if any(not 1 <= size <= layout.numbers.count for size in sizes):
            raise ValueError(f"the {name} at token {start} does not begin with its size")
        if len(sizes) < layout.axes:
            return None
        shape = tuple(sizes)
    stop, size = first + prod(shape) * layout.slots, _by(shape + (layout.slots,) * (layout.slots > 1))
    found = vocab.slot(tokens[first : min(stop, end)], name)
    expected = (found.new_tensor(range(layout.slots))).repeat(-(-len(found) // layout.slots))[: len(found)]
    if bool((wrong := found != expected).any()):
        place = int(wrong.nonzero()[0])
        of_slot = f" of slot {place % layout.slots}" if layout.slots > 1 else ""
        raise ValueError(
            f"the {name} at token {start} has {size} codes, but token {int(tokens[first + place])} at "
            f"position {first + place} is not a code{of_slot}"
        )
    if stop >= end:
        return None
    if int(tokens[stop]) != layout.end:
        raise ValueError(f"the {name} at token {start} does not end after its {size} codes")
    codes = layout.from_order(tokens[first:stop], shape)
    return Block(name, vocab.to_codes(name, codes), stop + 1)


# token by token

FREE, DONE = 0, 1
"""The first two modes of every vocabulary: in text, where blocks may begin, and after the document's end."""


class Mode(NamedTuple):
    """What kind of token the next one of a document must be."""

    kind: Literal["free", "done", "size", "code", "end"]
    name: str
    """Its modality; for "free" text, for "done" structure."""
    part: int = 0
    """The axis of a size, the slot of a code; else 0."""


class Automaton(NamedTuple):
    """The modes of documents over one vocabulary, and which tokens lead from one to the next.

    The tables are indexed by mode (M of them) or by token (V).
    """

    modes: tuple[Mode, ...]
    next: tuple[int, ...]
    """(M,) The next mode, except in mode ``FREE`` (see ``after``) and after a block's last code (``end``)."""
    takes: tuple[int, ...]
    """(M,) Mode m accepts token t if ``taken_by[t] == takes[m]``."""
    end: tuple[int, ...]
    """(M,) For modes that read codes, the mode after the block's last code; else 0."""
    taken_by: tuple[int, ...]
    """(V,) See ``takes``; -1 for tokens that no mode accepts."""
    after: tuple[int, ...]
    """(V,) The mode after each token in mode ``FREE``."""
    codes: tuple[int, ...]
    """(V,) For tokens that begin a block, its number of codes, still to be multiplied by its written sizes;
    else 0."""
    number: tuple[int, ...]
    """(V,) For number tokens, the size that they encode; else 1."""


@lru_cache(maxsize=16)
def automaton(vocab: "SharedVocab") -> Automaton:
    """Build the tables for documents over ``vocab``."""
    modes, following, takes, ends = (
        [Mode("free", "text"), Mode("done", "structure")],
        [FREE, DONE],
        [0, 1],
        [0, 0],
    )
    taken_by, after, codes, number = (
        [-1] * vocab.size,
        [FREE] * vocab.size,
        [0] * vocab.size,
        [1] * vocab.size,
    )
    for first, _, count in vocab["text"].ranges:
        taken_by[first : first + count] = [FREE] * count
    taken_by[vocab.eos], after[vocab.eos] = FREE, DONE
    taken_by[vocab.pad] = DONE
    if vocab.sep is not None:
        taken_by[vocab.sep] = FREE
    for modality in vocab.framed:
        layout, name, here = vocab.layout(modality.name), modality.name, len(modes)
        taken_by[layout.begin], after[layout.begin] = FREE, here
        codes[layout.begin] = layout.slots * prod(layout.shape or (1,))
        if layout.numbers is not None:
            start, count = layout.numbers
            taken_by[start : start + count] = [here] * count
            number[start : start + count] = range(1, count + 1)
            modes += [Mode("size", name, axis) for axis in range(layout.axes)]
            takes += [here] * layout.axes
        first = len(modes)
        modes += [Mode("code", name, slot) for slot in range(layout.slots)]
        takes += range(first, first + layout.slots)
        for start, id, count in modality.ranges:
            for n in range(count):
                taken_by[start + n] = first + (id + n) // modality.codebook_size
        end = len(modes)
        modes.append(Mode("end", name))
        takes.append(end)
        taken_by[layout.end] = end
        following += [*range(here + 1, first + 1), *range(first + 1, end), first, FREE]
        ends += [0] * (first - here) + [end] * layout.slots + [0]
    return Automaton(
        tuple(modes),
        tuple(following),
        tuple(takes),
        tuple(ends),
        tuple(taken_by),
        tuple(after),
        tuple(codes),
        tuple(number),
    )


class Span(NamedTuple):
    """A block in a document."""

    name: str
    start: int
    stop: int
    """One past its ``end``."""
    shape: Shape


class Cursor:
    """A reader of one document, token by token: what was read, and what may come next."""

    def __init__(self, vocab: "SharedVocab") -> None:
        self.vocab, self.automaton = vocab, automaton(vocab)
        self.mode = FREE
        self.index = 0
        """Tokens read."""
        self.remaining = 0
        """Codes of the current block still to be read."""
        self.sizes: list[int] = []
        """Sizes of the current block read so far."""
        self.start = 0
        """Index of the last ``begin`` token."""
        self.spans: list[Span] = []
        """Complete blocks."""
        self.turns = 0
        """Number of complete turns."""

    def take(self, token: int) -> Mode:
        """Read one more token.

        Returns:
            The mode that accepted it: its modality and its part of a block. The first token may be ``bos``.

        Raises:
            ValueError: The token is not allowed here.
        """
        table, mode, vocab = self.automaton, self.mode, self.vocab
        if not 0 <= token < vocab.size:
            raise ValueError(f"token {token} is outside 0..{vocab.size - 1}")
        if token == vocab.bos and self.index == 0:
            self.index = 1
            return Mode("free", "structure")
        if table.taken_by[token] != table.takes[mode]:
            raise ValueError(f"token {token} is not allowed at position {self.index}")
        was = table.modes[mode]
        self.mode = table.next[mode]
        if mode == FREE:
            self.mode = table.after[token]
            if self.mode > DONE:
                self.start, self.remaining = self.index, table.codes[token]
                self.sizes = list(self.layout.shape or ())
            self.turns += token == vocab.sep
        elif was.kind == "size":
            self.sizes.append(table.number[token])
            self.remaining *= table.number[token]
        elif was.kind == "code":
            self.remaining -= 1
            if not self.remaining:
                self.mode = table.end[mode]
        elif was.kind == "end":
            self.spans.append(Span(was.name, self.start, self.index + 1, tuple(self.sizes)))
        self.index += 1
        return was

    def take_all(self, tokens: "Tensor") -> Self:
        """Read tokens (T,); returns ``self``.

        Raises:
            ValueError: As ``take``.
        """
        for token in tokens.tolist():
            self.take(token)
        return self

    @property
    def inside(self) -> str | None:
        """The modality of the current block; None in text."""
        return self.automaton.modes[self.mode].name if self.mode > DONE else None

    @property
    def layout(self) -> Layout:
        """The layout of the current block."""
        return self.vocab.layout(self.automaton.modes[self.mode].name)

    @property
    def shape(self) -> Shape | None:
        """The shape of the current block; None in text, and until the size is read."""
        return None if self.mode <= DONE or len(self.sizes) < self.layout.axes else tuple(self.sizes)

    @property
    def done(self) -> int:
        """Codes of the current block read so far."""
        return 0 if (shape := self.shape) is None else prod(shape) * self.layout.slots - self.remaining


def _by(shape: Shape) -> str:
    return " x ".join(map(str, shape))
