"""The shared vocabulary: which tokens of the stream are text, which are image codes, which are structure.

Three numberings meet here and nowhere else: *text ids* (sentencepiece), *codes* 0..K-1 (image tokenizer) and
*tokens* 0..V-1 (transformer). The layout is free as long as order is kept, so that the vocabularies of others
can be expressed too, such as Chameleon's (https://arxiv.org/abs/2405.09818) with its codes at 4..8195.

An image tokenizer may give several codes per position, one for each of its *slots* 0..n-1 (groups of
channels, or residual stages). Each slot has tokens of its own: code c of slot g is *image id* g * K + c.
With one code per position, image ids are the codes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from .files import read_json, write_json
from .modality import ModalityTable

if TYPE_CHECKING:
    from torch import Tensor, device

    from .bpe import BpeTokenizer
    from .text import TextTokenizer

# torch is imported in `_tables`: reading a vocabulary and telling what it is does without it.

STRUCTURE, TEXT, IMAGE = 0, 1, 2
"""What `SharedVocab.modality` gives. Grid tokens and tokens without a role are structure."""
NAMES = ("structure", "text", "image")
"""Their names."""

FILE = "vocab.json"
FORMAT = 1
ROLES = ("bos", "eos", "pad", "begin_image", "end_image")
"""What every vocabulary has a token for; `sep` is a sixth, where there are conversations."""


class Range(NamedTuple):
    """Tokens token..token+count-1 stand, in order, for the text ids (or image ids) id..id+count-1."""

    token: int
    id: int
    count: int


class Grid(NamedTuple):
    """Tokens start..start+count-1 say "1" to "count", the number of rows or of columns of an image."""

    start: int
    count: int


@dataclass(frozen=True)
class SharedVocab:
    """Roles and ranges of the tokens. Its methods take integer tensors of any shape, on any device.

    Raises ValueError when the parts overlap, leave 0..size-1, or are not in order.
    """

    size: int
    """V, the number of tokens. Not all of them need a role."""
    bos: int
    """Begins a document."""
    eos: int
    """Ends a document."""
    pad: int
    """Fills up a batch; never a target."""
    begin_image: int
    """Begins an image: its grid and its codes follow."""
    end_image: int
    """Ends an image."""
    text: tuple[Range, ...]
    """Tokens <-> text ids; sentencepiece's structural ids have no token."""
    image: tuple[Range, ...]
    """Tokens <-> image ids 0..n*K-1; a range may hold several slots, or a part of one."""
    grid: Grid | None = None
    """Rows and columns are written after begin_image with these tokens; None where `fixed_grid` is given."""
    fixed_grid: tuple[int, int] | None = None
    """(rows, columns) that every image has, unwritten; None where `grid` is given."""
    scan: Literal["rows", "columns"] = "rows"
    """Order of an image's positions: row by row (raster, Chameleon's), or column by column, which keeps the
    codes of a letter together in a line of type. The codes of one position stand together, in slot order."""
    codes_per_position: int = 1
    """n, the number of slots."""
    sep: int | None = None
    """Ends a turn of a conversation; None where the vocabulary has none."""

    def __post_init__(self) -> None:
        for name in ("text", "image"):  # JSON has lists
            object.__setattr__(self, name, tuple(Range(*r) for r in getattr(self, name)))
        if self.grid is not None:
            object.__setattr__(self, "grid", Grid(*self.grid))
            if self.grid.count < 1:
                raise ValueError(f"grid is {self.grid}, expected at least one token")
        if self.fixed_grid is not None:
            rows, columns = self.fixed_grid
            object.__setattr__(self, "fixed_grid", (rows, columns))
            if rows < 1 or columns < 1:
                raise ValueError(f"fixed_grid is {self.fixed_grid}, expected two positive numbers")
        if self.scan not in ("rows", "columns"):
            raise ValueError(f"scan is {self.scan!r}, expected 'rows' or 'columns'")
        if (self.grid is None) == (self.fixed_grid is None):
            raise ValueError("exactly one of grid and fixed_grid is needed: is an image's size written?")
        if self.codes_per_position < 1:
            raise ValueError(f"codes_per_position is {self.codes_per_position}, expected 1 or more")
        for name in ("text", "image"):
            _check_order(name, getattr(self, name))
        if [r.id for r in self.image] != _ends(self.image)[:-1]:
            raise ValueError(f"image is {self.image}, expected the codes from 0 on without a gap")
        if (ids := _ends(self.image)[-1]) % self.codes_per_position:
            raise ValueError(
                f"image holds {ids} ids, expected a multiple of codes_per_position, {self.codes_per_position}"
            )
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
        scan: Literal["rows", "columns"] = "rows",
        codes_per_position: int = 1,
        separator: bool = False,
    ) -> Self:
        """The layout of this project: bos, eos, pad, begin_image, end_image, grid, text, codes slot by slot.

        `text` is a tokenizer, or its (vocab_size, structural_ids). Images have up to `max_grid` rows and
        columns of positions, or all of them `fixed_grid`, which then is not written and takes no tokens.
        `codebook_size` is that of each slot. With `separator` there is a `sep`, before the grid.
        """
        vocab_size, structural = text if isinstance(text, tuple) else (text.vocab_size, text.structural_ids)
        token = len(ROLES) + separator
        grid = None
        if fixed_grid is None:
            if max_grid is None or max_grid < 1:
                raise ValueError(f"max_grid is {max_grid}, expected a positive number, or a fixed_grid")
            grid = Grid(token, max_grid)
            token += max_grid
        ranges = []
        for start, count in text_runs(vocab_size, structural):
            ranges.append(Range(token, start, count))
            token += count
        image_ids = codes_per_position * codebook_size
        return cls(
            size=token + image_ids,
            **{role: i for i, role in enumerate(ROLES)},
            text=tuple(ranges),
            image=(Range(token, 0, image_ids),),
            grid=grid,
            fixed_grid=fixed_grid,
            scan=scan,
            codes_per_position=codes_per_position,
            sep=len(ROLES) if separator else None,
        )

    @property
    def roles(self) -> dict[str, int]:
        """The token of each role that one token has."""
        return {role: token for role in (*ROLES, "sep") if (token := getattr(self, role)) is not None}

    @property
    def codebook_size(self) -> int:
        """K, the number of codes of each slot."""
        return _ends(self.image)[-1] // self.codes_per_position

    @property
    def text_vocab_size(self) -> int:
        """One more than the highest text id that has a token."""
        return _ends(self.text)[-1]

    def text_to_tokens(self, ids: "Tensor") -> "Tensor":
        """Text ids -> tokens, int64. Raises ValueError for an id that has no token."""
        return _look_up(_tables(self, ids.device).text_to_token, ids, "text id {} has no token")

    def tokens_to_text(self, tokens: "Tensor") -> "Tensor":
        """Tokens -> text ids, int64. Raises ValueError for a token that is not text."""
        return _look_up(_tables(self, tokens.device).token_to_text, tokens, "token {} is not text")

    def codes_to_tokens(self, codes: "Tensor") -> "Tensor":
        """Codes of any shape -> tokens, int64; with n > 1 the last axis holds a position's codes, (..., n).

        Raises ValueError for a code outside 0..K-1, and for another last axis.
        """
        if self.codes_per_position == 1:
            return self.image_ids_to_tokens(codes)
        self._check_last_axis("codes", codes)
        table = _tables(self, codes.device).image_id_to_token.view(self.codes_per_position, -1)
        return _look_up(table, codes, "image code {} of slot {} has no token")

    def tokens_to_codes(self, tokens: "Tensor") -> "Tensor":
        """The inverse of `codes_to_tokens`: tokens of any shape, with n > 1 (..., n) -> codes, int64.

        Raises ValueError for a token that is not an image code, or that stands in another slot than its own.
        """
        if self.codes_per_position == 1:
            return self.tokens_to_image_ids(tokens)
        self._check_last_axis("tokens", tokens)
        tables = _tables(self, tokens.device)
        return _look_up(tables.slot_token_to_code, tokens, "token {} is not an image code of slot {}")

    def image_ids_to_tokens(self, ids: "Tensor") -> "Tensor":
        """Image ids, g * K + c for code c of slot g -> tokens, int64. Raises ValueError outside 0..n*K-1."""
        return _look_up(_tables(self, ids.device).image_id_to_token, ids, "image code {} has no token")

    def tokens_to_image_ids(self, tokens: "Tensor") -> "Tensor":
        """Tokens -> image ids, int64. Raises ValueError for a token that is not an image code."""
        table = _tables(self, tokens.device).token_to_image_id
        return _look_up(table, tokens, "token {} is not an image code")

    def slot(self, tokens: "Tensor") -> "Tensor":
        """The slot of each image code, -1 for other tokens, int64. Raises ValueError outside 0..V-1."""
        error = f"token {{}} is outside 0..{self.size - 1}"
        return _look_up(_tables(self, tokens.device).slot_plus_1, tokens, error) - 1

    def modality(self, tokens: "Tensor") -> "Tensor":
        """STRUCTURE, TEXT or IMAGE for each token, int64. Raises ValueError for a token outside 0..V-1."""
        error = f"token {{}} is outside 0..{self.size - 1}"
        return _look_up(_tables(self, tokens.device).modality, tokens, error)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities; `modality` gives indices into them."""
        return NAMES

    def table(self, device: "device | str | None" = None) -> ModalityTable:
        """The modality of every token."""
        return ModalityTable(self.names, _tables(self, _device(device)).modality)

    def is_text(self, tokens: "Tensor") -> "Tensor":
        """Which tokens are text, bool."""
        return self.modality(tokens) == TEXT

    def is_image(self, tokens: "Tensor") -> "Tensor":
        """Which tokens are image codes, bool."""
        return self.modality(tokens) == IMAGE

    def is_grid(self, tokens: "Tensor") -> "Tensor":
        """Which tokens are numbers of rows or columns, bool."""
        start, count = self.grid or (0, 0)
        return (tokens >= start) & (tokens < start + count)

    def mask(self, role: str, slot: int | None = None) -> "Tensor":
        """Which tokens have `role`: one of `ROLES`, sep, grid, text or image, (V,) bool.

        With `slot`, only the image codes of that slot. Raises ValueError for another role or slot.
        """
        import torch

        if role not in (*ROLES, "sep", "grid", "text", "image"):
            raise ValueError(f"role is {role!r}, expected one of {', '.join(ROLES)}, sep, grid, text, image")
        if slot is not None:
            if role != "image" or not 0 <= slot < self.codes_per_position:
                allowed = f"0..{self.codes_per_position - 1} of role 'image'"
                raise ValueError(f"slot is {slot} of role {role!r}, expected one of {allowed}")
            return self.slot(torch.arange(self.size)) == slot
        mask = torch.zeros(self.size, dtype=torch.bool)
        for name, start, count in self._parts():
            if name == role:
                mask[start : start + count] = True
        return mask

    def save(self, folder: str | Path) -> None:
        """Write `folder`/vocab.json."""
        value: dict[str, Any] = {"format": FORMAT, "size": self.size, "roles": self.roles}
        for name in ("text", "image"):
            value[name] = [r._asdict() for r in getattr(self, name)]
        value["grid"] = self.grid and self.grid._asdict()
        value["fixed_grid"] = self.fixed_grid
        value["scan"] = self.scan
        value["codes_per_position"] = self.codes_per_position
        write_json(Path(folder) / FILE, value)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `folder`/vocab.json; one without codes_per_position is of an earlier version, which had one.

        Raises FileNotFoundError or ValueError, naming the file.
        """
        path = Path(folder) / FILE
        value = read_json(path, "a shared vocabulary")
        if value.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is not in format {FORMAT}, the one that this earlyfusion reads")
        try:
            return cls._from_json(value)
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{path} is not a shared vocabulary: {error}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Self:
        roles = value.pop("roles")
        text, image = (tuple(Range(**r) for r in value.pop(name)) for name in ("text", "image"))
        grid = value.pop("grid")
        return cls(**roles, **value, text=text, image=image, grid=grid and Grid(**grid))

    def _check_last_axis(self, name: str, values: "Tensor") -> None:
        n = self.codes_per_position
        if values.shape[-1:] != (n,):
            raise ValueError(
                f"{name} have the shape {tuple(values.shape)}, expected (..., {n}): this vocabulary has {n} "
                "codes per position"
            )

    def _parts(self) -> Iterator[tuple[str, int, int]]:
        """(role, first token, number of tokens) of everything that has a role."""
        for role, token in self.roles.items():
            yield role, token, 1
        if self.grid is not None:
            yield "grid", self.grid.start, self.grid.count
        for name in ("text", "image"):
            for r in getattr(self, name):
                yield name, r.token, r.count


def text_runs(vocab_size: int, structural_ids: Iterable[int]) -> list[tuple[int, int]]:
    """(first id, number of ids) of each run of text ids: 0..vocab_size-1 without the structural ones."""
    borders = [-1, *sorted(set(structural_ids)), vocab_size]
    if borders[1] < 0 or borders[-2] >= vocab_size:
        raise ValueError(f"structural_ids are {borders[1:-1]}, expected ids in 0..{vocab_size - 1}")
    return [(a + 1, b - a - 1) for a, b in pairwise(borders) if b - a > 1]


class _Tables(NamedTuple):
    """Look-up tables, -1 where there is nothing."""

    text_to_token: "Tensor"  # (text_vocab_size,)
    image_id_to_token: "Tensor"  # (n * K,)
    token_to_text: "Tensor"  # (V,)
    token_to_image_id: "Tensor"  # (V,)
    slot_token_to_code: "Tensor"  # (n, V)
    slot_plus_1: "Tensor"  # (V,), 0 where there is none
    modality: "Tensor"  # (V,)


def _device(device: "device | str | None") -> "device":
    import torch

    return torch.device(device or "cpu")


@lru_cache(maxsize=16)
def _tables(vocab: SharedVocab, device: "device") -> _Tables:
    import torch

    def empty(size: int) -> "Tensor":
        return torch.full((size,), -1, device=device)

    def fill(forward: "Tensor", backward: "Tensor", ranges: tuple[Range, ...]) -> None:
        for token, id, count in ranges:
            forward[id : id + count] = torch.arange(token, token + count, device=device)
            backward[token : token + count] = torch.arange(id, id + count, device=device)

    slots, size = vocab.codes_per_position, vocab.codebook_size
    text_to_token, image_id_to_token = empty(vocab.text_vocab_size), empty(slots * size)
    token_to_text, token_to_image_id = empty(vocab.size), empty(vocab.size)
    fill(text_to_token, token_to_text, vocab.text)
    fill(image_id_to_token, token_to_image_id, vocab.image)
    modality = TEXT * (token_to_text >= 0) + IMAGE * (token_to_image_id >= 0)
    slot = token_to_image_id.div(size, rounding_mode="floor")  # (V,), -1 stays -1
    own = slot == torch.arange(slots, device=device)[:, None]  # (n, V)
    codes = torch.where(own, token_to_image_id % size, -1)
    return _Tables(
        text_to_token, image_id_to_token, token_to_text, token_to_image_id, codes, slot + 1, modality
    )


def _look_up(table: "Tensor", values: "Tensor", error: str) -> "Tensor":
    """table[values], or with a table (n, ...) and values (..., n), row g of the table for values[..., g].

    Raises ValueError with `error`, whose "{}" are the first value that has no entry, and its g.
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


def _check_order(name: str, ranges: tuple[Range, ...]) -> None:
    if not ranges or any(r.count < 1 or r.id < 0 for r in ranges):
        raise ValueError(f"{name} is {ranges}, expected at least one range, none of them empty or below 0")
    for a, b in pairwise(ranges):
        if b.token < a.token + a.count or b.id < a.id + a.count:
            raise ValueError(f"{name} has {a} before {b}: tokens and ids must both ascend")


def _ends(ranges: tuple[Range, ...]) -> list[int]:
    """0, then the id after the last one of each range."""
    return [0, *(r.id + r.count for r in ranges)]
