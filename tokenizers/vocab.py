"""The shared vocabulary: which tokens of the stream belong to which modality, and which frame them.

The ids of each modality (text ids of sentencepiece, codes of a codec) are mapped to the *tokens* 0..V-1 of
the transformer here and nowhere else. Any mapping that keeps their order is allowed, which includes
Chameleon's (https://arxiv.org/abs/2405.09818) with its codes at 4..8195.

A codec may have several codes per position, one for each of its *slots* 0..n-1 (groups of channels, or
residual stages). Each slot has its own tokens: code c of slot g is id g * K + c.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ..storage.fields import check_value
from ..storage.files import read_json, write_json
from .layout import Layout, Numbers, Scan
from .modality import STRUCTURE, TEXT, Modality, ModalityTable, Range

if TYPE_CHECKING:
    from torch import Tensor, device

    from .bpe import BpeTokenizer
    from .text import TextTokenizer

# torch is imported in functions: reading a vocabulary and describing it does not need it.

FILE = "vocab.json"
FORMAT = 2
LONGEST_NAME = 64
LARGEST = 2**24
"""Most tokens of a vocabulary."""
ROLES = ("bos", "eos", "pad")
"""Every vocabulary has a token for each; for conversations, ``sep`` is a fourth."""


@dataclass(frozen=True)
class SharedVocab:
    """Roles and modalities of the tokens. The methods take integer tensors of any shape, on any device.

    Raises:
        ValueError: The parts overlap, leave 0..size-1, or are not in order.
    """

    size: int
    """V, the number of tokens; some may be unused."""
    bos: int
    """Begins a document."""
    eos: int
    """Ends a document."""
    pad: int
    """Fills up a batch; never a target."""
    modalities: tuple[Modality, ...]
    """Text, without a layout, and then the others, each with the layout of its blocks."""
    sep: int | None = None
    """Ends a turn of a conversation; None if the vocabulary has none."""

    def __post_init__(self) -> None:
        check_value("size", self.size, int, {"size": (1, LARGEST)})
        for role in (*ROLES, "sep"):
            kind: Any = int | None if role == "sep" else int
            check_value(role, getattr(self, role), kind, {role: (0, self.size - 1)})
        names = [modality.name for modality in self.modalities]
        if not all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in names):
            raise ValueError(f"a modality's name is a text of at most {LONGEST_NAME} characters")
        if not names or names[0] != TEXT or self.modalities[0].layout is not None:
            raise ValueError(f"modalities are {', '.join(names)}, expected text first, without a layout")
        if len({*names, STRUCTURE}) <= len(names) or not all(name.isidentifier() for name in names):
            raise ValueError(
                f"modalities are {', '.join(names)}, expected different names of letters, digits and _, "
                f"none of them {STRUCTURE!r}"
            )
        for modality in self.modalities:
            _check_ranges(modality)
        taken = sorted((start, start + count, name) for name, start, count in self._parts())
        for first, second in pairwise(taken):
            if second[0] < first[1]:
                raise ValueError(f"{first[2]} and {second[2]} both hold token {second[0]}")
        if taken[0][0] < 0 or taken[-1][1] > self.size:
            raise ValueError(f"tokens {taken[0][0]}..{taken[-1][1] - 1} do not fit into size {self.size}")

    @classmethod
    def build(
        cls,
        *,
        text: "TextTokenizer | BpeTokenizer | tuple[int, Sequence[int]]",
        codebook_size: int,
        max_grid: int | None = 64,
        fixed_grid: tuple[int, int] | None = None,
        scan: Scan = "rows",
        codes_per_position: int = 1,
        separator: bool = False,
    ) -> Self:
        """Build a vocabulary of text and images.

        The tokens are bos, eos, pad, begin and end of an image, sep, numbers, text, codes slot by slot.

        Args:
            text: A tokenizer, or its (vocab_size, structural_ids).
            codebook_size: K of each slot.
            max_grid: Most rows and columns of codes of an image; takes that many number tokens.
            fixed_grid: Rows and columns of every image, instead of ``max_grid``: sizes are not written.
            scan: Order of an image's positions.
            codes_per_position: n, the slots.
            separator: Whether to include ``sep``, for conversations.

        Raises:
            ValueError: An argument is out of range.
        """
        vocab_size, structural = text if isinstance(text, tuple) else (text.vocab_size, text.structural_ids)
        frame = len(ROLES)
        token = frame + 2 + separator
        numbers = None
        if fixed_grid is None:
            if max_grid is None or max_grid < 1:
                raise ValueError(f"max_grid is {max_grid}, expected a positive number, or a fixed_grid")
            numbers = Numbers(token, max_grid)
            token += max_grid
        ranges = []
        for start, count in text_runs(vocab_size, structural):
            ranges.append(Range(token, start, count))
            token += count
        layout = Layout(frame, frame + 1, numbers, fixed_grid, scan=scan, slots=codes_per_position)
        ids = codes_per_position * codebook_size
        return cls(
            size=token + ids,
            **{role: i for i, role in enumerate(ROLES)},
            modalities=(
                Modality(TEXT, tuple(ranges)),
                Modality("image", (Range(token, 0, ids),), layout),
            ),
            sep=frame + 2 if separator else None,
        )

    def extended(
        self,
        name: str,
        *,
        codebook_size: int,
        shape: tuple[int, ...] | None = None,
        max_size: int | None = None,
        axes: int = 1,
        scan: Scan = "rows",
        codes_per_position: int = 1,
    ) -> Self:
        """This vocabulary with one more modality, whose tokens are appended: all others stay the same.

        Args:
            name: Name of the modality: the key of its codec, losses, sampling settings, ...
            codebook_size: K of each slot.
            shape: Positions along each axis of every block; None if sizes differ.
            max_size: Largest size along each axis if sizes differ; takes that many number tokens.
            axes: 1 for sequences, 2 for grids; ignored with ``shape``.
            scan: Order of the positions of a grid.
            codes_per_position: n, the slots.

        Raises:
            ValueError: An argument is out of range, neither ``shape`` nor ``max_size`` is given, or the
                vocabulary already has a modality of that name.
        """
        token = self.size + 2
        numbers = None
        if shape is None and max_size is not None:
            numbers = Numbers(token, max_size)
            token += max_size
        ids = codes_per_position * codebook_size
        layout = Layout(self.size, self.size + 1, numbers, shape, axes, scan, codes_per_position)
        modality = Modality(name, (Range(token, 0, ids),), layout)
        return replace(self, size=token + ids, modalities=(*self.modalities, modality))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``"structure"``, then the modalities: the order of every tensor with one value per modality."""
        return (STRUCTURE, *(modality.name for modality in self.modalities))

    @cached_property
    def framed(self) -> tuple[Modality, ...]:
        """The modalities with blocks: all but text."""
        return tuple(modality for modality in self.modalities if modality.layout is not None)

    def __getitem__(self, name: str) -> Modality:
        """The modality of that name.

        Raises:
            ValueError: The vocabulary does not have it.
        """
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise ValueError(f"modality is {name!r}, expected one of {', '.join(self.names[1:])}")

    def layout(self, name: str) -> Layout:
        """How the blocks of a modality are written in the stream.

        Raises:
            ValueError: The modality is text, or not in the vocabulary.
        """
        layout = self[name].layout
        if layout is None:
            framed = ", ".join(modality.name for modality in self.framed)
            raise ValueError(f"{name} has no blocks, expected a modality that has: {framed}")
        return layout

    @property
    def roles(self) -> dict[str, int]:
        """Role -> token, for all roles of a single token: bos, eos, ..."""
        frames = {f"{e}_{m.name}": getattr(m.layout, e) for m in self.framed for e in ("begin", "end")}
        sep = {} if self.sep is None else {"sep": self.sep}
        return {role: getattr(self, role) for role in ROLES} | frames | sep

    def to_tokens(self, name: str, codes: "Tensor") -> "Tensor":
        """Text ids or codes of modality ``name`` -> tokens, int64.

        Args:
            name: The modality.
            codes: Any shape; with n > 1 slots (..., n), a position's codes on the last axis.

        Raises:
            ValueError: An id or code has no token, or the last axis is not n.
        """
        n = self[name].slots
        table = _tables(self, name, codes.device).token
        if n == 1:
            return _look_up(table, codes, f"{_id_of(name)} {{}} has no token")
        _check_last_axis("codes", codes, n)
        return _look_up(table.view(n, -1), codes, f"{name} code {{}} of slot {{}} has no token")

    def to_codes(self, name: str, tokens: "Tensor") -> "Tensor":
        """Tokens of modality ``name`` -> text ids or codes, int64: the inverse of ``to_tokens``.

        Raises:
            ValueError: A token belongs to another modality or, with several slots, to another slot.
        """
        n = self[name].slots
        if n == 1:
            return self.tokens_to_ids(name, tokens)
        _check_last_axis("tokens", tokens, n)
        table = _tables(self, name, tokens.device).code
        return _look_up(table, tokens, f"token {{}} is not a code of {name} of slot {{}}")

    def ids_to_tokens(self, name: str, ids: "Tensor") -> "Tensor":
        """Ids of modality ``name``, g * K + c for code c of slot g -> tokens, int64.

        Raises:
            ValueError: An id has no token.
        """
        return _look_up(_tables(self, name, ids.device).token, ids, f"{_id_of(name)} {{}} has no token")

    def tokens_to_ids(self, name: str, tokens: "Tensor") -> "Tensor":
        """The inverse of ``ids_to_tokens``.

        Raises:
            ValueError: A token belongs to another modality.
        """
        table = _tables(self, name, tokens.device).id
        return _look_up(table, tokens, f"token {{}} is not {'text' if name == TEXT else f'a code of {name}'}")

    def slot(self, tokens: "Tensor", name: str) -> "Tensor":
        """The slot of each code of modality ``name``, -1 for other tokens; int64.

        Raises:
            ValueError: A token is outside 0..V-1.
        """
        return _look_up(_tables(self, name, tokens.device).slot_plus_1, tokens, self._outside) - 1

    def modality(self, tokens: "Tensor") -> "Tensor":
        """The index in ``names`` of each token's modality, int64; 0 is structure.

        Raises:
            ValueError: A token is outside 0..V-1.
        """
        return _look_up(_modality(self, tokens.device), tokens, self._outside)

    def table(self, device: "device | str" = "cpu") -> ModalityTable:
        """The modality of every token, in the form that the loss takes."""
        import torch

        return ModalityTable(self.names, _modality(self, torch.device(device)))

    def is_(self, name: str, tokens: "Tensor") -> "Tensor":
        """Which tokens belong to modality ``name``, or to "structure"; bool.

        Raises:
            ValueError: ``name`` is unknown, or a token is outside 0..V-1.
        """
        if name != STRUCTURE:
            self[name]  # raises if it is unknown
        return self.modality(tokens) == self.names.index(name)

    def is_text(self, tokens: "Tensor") -> "Tensor":
        """Which tokens are text, bool."""
        return self.is_(TEXT, tokens)

    def is_begin(self, tokens: "Tensor") -> "Tensor":
        """Which tokens begin a block, bool."""
        import torch

        found = torch.zeros_like(tokens, dtype=torch.bool)
        for modality in self.framed:
            found |= tokens == self.layout(modality.name).begin
        return found

    def save(self, folder: str | Path) -> None:
        """Write ``folder``/vocab.json."""
        roles = {role: getattr(self, role) for role in (*ROLES, "sep")}
        value: dict[str, Any] = {"format": FORMAT, "size": self.size, "roles": roles, "modalities": []}
        for modality in self.modalities:
            entry: dict[str, Any] = {
                "name": modality.name,
                "ranges": [r._asdict() for r in modality.ranges],
                "layout": None,
            }
            if (layout := modality.layout) is not None:
                numbers = layout.numbers and layout.numbers._asdict()
                entry["layout"] = {**vars(layout), "numbers": numbers}
            value["modalities"].append(entry)
        write_json(Path(folder) / FILE, value)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read ``folder``/vocab.json of format 2, or of the older format 1 (text and images only).

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: It is not a vocabulary; the message names the file.
        """
        path = Path(folder) / FILE
        value = read_json(path, "a shared vocabulary")
        found = value.pop("format", None)
        read = {1: _from_format_1, FORMAT: _from_format_2}.get(found) if isinstance(found, int) else None
        if read is None:
            raise ValueError(f"{path} has an unknown format, expected 1 or {FORMAT}: update earlyfusion")
        try:
            return cls(**read(value))
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{path} is not a shared vocabulary: {error}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def _outside(self) -> str:
        return f"token {{}} is outside 0..{self.size - 1}"

    def _parts(self) -> Iterator[tuple[str, int, int]]:
        """(role, first token, number of tokens) of every range with a role."""
        for role, token in self.roles.items():
            yield role, token, 1
        for modality in self.modalities:
            if modality.layout is not None and modality.layout.numbers is not None:
                start, count = modality.layout.numbers
                yield f"numbers of {modality.name}", start, count
            for r in modality.ranges:
                yield modality.name, r.token, r.count


def text_runs(vocab_size: int, structural_ids: Iterable[int]) -> list[tuple[int, int]]:
    """(first id, number of ids) of each run of text ids: 0..vocab_size-1 without the structural ones.

    Raises:
        ValueError: A structural id is outside 0..vocab_size-1.
    """
    borders = [-1, *sorted(set(structural_ids)), vocab_size]
    if borders[1] < 0 or borders[-2] >= vocab_size:
        raise ValueError(f"structural_ids are {borders[1:-1]}, expected ids in 0..{vocab_size - 1}")
    return [(a + 1, b - a - 1) for a, b in pairwise(borders) if b - a > 1]


def _from_format_2(value: dict[str, Any]) -> dict[str, Any]:
    """vocab.json -> the fields of ``SharedVocab``."""
    modalities = []
    for entry in value.pop("modalities"):
        ranges = tuple(Range(**r) for r in entry.pop("ranges"))
        if (layout := entry.pop("layout")) is not None:
            numbers = layout.pop("numbers")
            layout = Layout(**layout, numbers=numbers and Numbers(**numbers))
        modalities.append(Modality(**entry, ranges=ranges, layout=layout))
    return {**value.pop("roles"), **value, "modalities": tuple(modalities)}


def _from_format_1(value: dict[str, Any]) -> dict[str, Any]:
    """vocab.json of format 1 -> the fields of ``SharedVocab``; codes_per_position may be missing."""
    roles, grid = value.pop("roles"), value.pop("grid")
    frame = [roles.pop(f"{edge}_image") for edge in ("begin", "end")]
    text, image = (tuple(Range(**r) for r in value.pop(name)) for name in (TEXT, "image"))
    layout = Layout(
        *frame,
        numbers=grid and Numbers(**grid),
        shape=value.pop("fixed_grid"),
        scan=value.pop("scan", "rows"),
        slots=value.pop("codes_per_position", 1),
    )
    return {**roles, **value, "modalities": (Modality(TEXT, text), Modality("image", image, layout))}


class _Tables(NamedTuple):
    """Look-up tables of one modality; -1 marks entries that do not exist."""

    token: "Tensor"  # (n_ids,)
    id: "Tensor"  # (V,)
    code: "Tensor"  # (n, V)
    slot_plus_1: "Tensor"  # (V,); 0 marks other tokens


@lru_cache(maxsize=64)
def _tables(vocab: SharedVocab, name: str, device: "device") -> _Tables:
    import torch

    modality = vocab[name]
    token = torch.full((modality.n_ids,), -1, device=device)
    id_ = torch.full((vocab.size,), -1, device=device)
    for first, id, count in modality.ranges:
        token[id : id + count] = torch.arange(first, first + count, device=device)
        id_[first : first + count] = torch.arange(id, id + count, device=device)
    slots, size = modality.slots, modality.codebook_size
    slot = id_.div(size, rounding_mode="floor")  # (V,), -1 stays -1
    own = slot == torch.arange(slots, device=device)[:, None]  # (n, V)
    return _Tables(token, id_, torch.where(own, id_ % size, -1), slot + 1)


@lru_cache(maxsize=16)
def _modality(vocab: SharedVocab, device: "device") -> "Tensor":
    """(V,) int64."""
    import torch

    found = torch.zeros(vocab.size, dtype=torch.int64, device=device)
    for number, modality in enumerate(vocab.modalities, start=1):
        for first, _, count in modality.ranges:
            found[first : first + count] = number
    return found


def _look_up(table: "Tensor", values: "Tensor", error: str) -> "Tensor":
    """table[values], or with a table (n, ...) and values (..., n), row g of the table for values[..., g].

    Raises:
        ValueError: A value has no entry. The message is ``error``, formatted with the first such value and
            its g.
    """
    if values.is_floating_point() or values.dtype.itemsize == 1:  # PyTorch takes bool and uint8 for masks
        raise ValueError(f"expected a tensor of int64, got {values.dtype}")
    values = values.long()
    if not values.numel():
        return values
    import torch

    size = table.shape[-1]
    rows = torch.arange(len(table), device=table.device) if table.ndim == 2 else None
    low, high = values.aminmax()
    inside = int(low) >= 0 and int(high) < size
    places = values if inside else values.clamp(0, size - 1)
    found = table[places] if rows is None else table[rows, places]
    if not inside:
        found = found.where((values >= 0) & (values < size), -1)
    if int(found.amin()) < 0:
        first = (found < 0).nonzero()[0].tolist()
        raise ValueError(error.format(int(values[tuple(first)]), *first[-1:]))
    return found


def _check_last_axis(what: str, values: "Tensor", n: int) -> None:
    if values.shape[-1:] != (n,):
        raise ValueError(
            f"{what} have the shape {tuple(values.shape)}, expected (..., {n}): {n} codes per position"
        )


def _check_ranges(modality: Modality) -> None:
    name, ranges = modality.name, modality.ranges
    for r in ranges:
        for field, value in r._asdict().items():
            check_value(f"{field} of {name}", value, int, {f"{field} of {name}": (0, LARGEST)})
    if not ranges or any(r.count < 1 or r.id < 0 for r in ranges):
        raise ValueError(f"{name} is {ranges}, expected at least one range, each with count > 0 and id >= 0")
    for a, b in pairwise(ranges):
        if b.token < a.token + a.count or b.id < a.id + a.count:
            raise ValueError(f"{name} has {a} before {b}: tokens and ids must both ascend")
    if modality.layout is None:
        return
    if [r.id for r in ranges] != [0, *(r.id + r.count for r in ranges[:-1])]:
        raise ValueError(f"{name} is {ranges}, expected ranges that cover the codes from 0 without a gap")
    if modality.n_ids % modality.slots:
        raise ValueError(
            f"{name} holds {modality.n_ids} ids, expected a multiple of codes_per_position, {modality.slots}"
        )


def _id_of(name: str) -> str:
    return "text id" if name == TEXT else f"{name} code"
