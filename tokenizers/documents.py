"""Documents <-> tokens: strings and images in order, as one stream, and back.

A document is `bos`, its segments, `eos`. Text is its tokens; an image is `begin_image`, rows, columns, its
codes, `end_image` (no rows and columns where it has one fixed grid).

The codes follow the vocabulary's scan over the positions, by rows or by columns; each position gives its n
codes together, in the order of their slots. An image of 1 x 2 positions A, B with two codes each is

    begin_image  "1"  "2"  A0  A1  B0  B1  end_image

and takes 2 + 2 + h * w * n tokens.

In a conversation turns of one side and of the other, the model's, follow each other; `sep` stands between.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor

from .bpe import BpeTokenizer, load_text
from .files import atomic_folder
from .pixels import Policy, contain, cover, fit, load_image, to_pil, to_tensor
from .text import TextTokenizer
from .vocab import SharedVocab, text_runs

if TYPE_CHECKING:
    from .image import ImageTokenizer  # imported where it is used: its libraries take seconds to load


class Mark(Enum):
    """What is neither text nor image."""

    END_OF_TURN = "end of turn"


END_OF_TURN = Mark.END_OF_TURN
"""Ends a turn of a conversation. The first, third, ... turn are put to the model, the others are its own."""

Segment = str | Image.Image | Tensor | Mark
"""A string is text, whatever is written in it; images are PIL images or tensors (3, H, W) in [-1, 1]."""

Partial = Literal["error", "drop"]

TOKENIZER = "tokenizer"
"""Folder of the tokenizers, in the folder of a model and in one that ``prepare`` wrote."""
IMAGE_FOLDER = "image"
BATCH = 64  # images that pass the image tokenizer together


class TextPart(NamedTuple):
    """A stretch of text."""

    kind: Literal["text"]
    ids: Tensor
    """Text ids (n,) int64."""


class ImagePart(NamedTuple):
    """An image."""

    kind: Literal["image"]
    codes: Tensor
    """Codes (h, w) int64; (h, w, n) with n > 1 codes per position."""


Part = tuple[str, Tensor]
"""("text", ids) or ("image", codes), as `TextPart` and `ImagePart`, which are such pairs; or `TURN`."""

TURN: Part = ("turn", torch.empty(0, dtype=torch.int64))
"""The end of a turn."""


def interleave(parts: Sequence[Part], vocab: SharedVocab, *, bos: bool = True, eos: bool = True) -> Tensor:
    """Parts -> tokens (T,) int64.

    Raises ValueError for a grid that the vocabulary cannot say, for ids and codes that it does not hold, for
    another number of codes per position, and for the end of a turn where it has no `sep`.
    """
    tokens = []
    if bos:
        tokens.append(torch.tensor([vocab.bos]))
    for kind, values in parts:
        values = values.cpu()
        if kind == "text":
            tokens.append(vocab.text_to_tokens(values))
        elif kind == "image":
            tokens += [
                torch.tensor([vocab.begin_image, *_grid_tokens(values, vocab)]),
                vocab.codes_to_tokens(values if vocab.scan == "rows" else values.transpose(0, 1)).flatten(),
                torch.tensor([vocab.end_image]),
            ]
        elif kind == "turn":
            if vocab.sep is None:
                raise ValueError("this vocabulary has no token that ends a turn (separator of prepare)")
            tokens.append(torch.tensor([vocab.sep]))
        else:
            raise ValueError(f"part is of kind {kind!r}, expected 'text', 'image' or 'turn'")
    if eos:
        tokens.append(torch.tensor([vocab.eos]))
    return torch.cat(tokens) if tokens else torch.empty(0, dtype=torch.int64)


def split(tokens: Tensor, vocab: SharedVocab, *, partial: Partial = "error") -> list[TextPart | ImagePart]:
    """The parts of one document, tokens (T,): the inverse of `interleave`.

    `bos`, `eos` and padding behind the document may be there or not; ends of turns are left out. An image
    that the document's end cuts short is left out with `partial` "drop". Raises ValueError, naming the
    position, for such an image otherwise, and for tokens that are no document.
    """
    if tokens.ndim != 1:
        raise ValueError(f"tokens have the shape {tuple(tokens.shape)}, expected one document (T,)")
    if partial not in ("error", "drop"):
        raise ValueError(f"partial is {partial!r}, expected 'error' or 'drop'")
    tokens = tokens.cpu()
    is_text, slots = vocab.is_text(tokens).tolist(), vocab.slot(tokens).tolist()
    values = tokens.tolist()
    end = len(values)
    while end and values[end - 1] == vocab.pad:
        end -= 1
    if end and values[end - 1] == vocab.eos:
        end -= 1
    parts: list[TextPart | ImagePart] = []
    position = 1 if end and values[0] == vocab.bos else 0
    while position < end:
        start = position
        if is_text[start]:
            while position < end and is_text[position]:
                position += 1
            parts.append(TextPart("text", vocab.tokens_to_text(tokens[start:position])))
        elif values[start] == vocab.begin_image:
            image = _read_image(tokens, slots, start, end, vocab)
            if image is None:
                if partial == "error":
                    raise ValueError(f"the image at token {start} is cut short: the document ends at {end}")
                break
            parts.append(image)
            position += image.codes.numel() + (2 if vocab.fixed_grid else 4)
        elif values[start] == vocab.sep:
            position += 1
        else:
            raise ValueError(f"token {values[start]} at position {start} is neither text nor begin_image")
    return parts


class DocumentTokenizer:
    """Both tokenizers and the vocabulary they share: documents <-> tokens."""

    def __init__(
        self, text: TextTokenizer | BpeTokenizer, image: "ImageTokenizer", vocab: SharedVocab
    ) -> None:
        """Raises ValueError when `vocab` was made for another text tokenizer or other image codes."""
        if image.codebook_size != vocab.codebook_size:
            raise ValueError(
                f"the image tokenizer has {image.codebook_size} codes, the vocabulary {vocab.codebook_size}: "
                "they belong to different models"
            )
        if image.codes_per_position != vocab.codes_per_position:
            raise ValueError(
                f"the image tokenizer has {image.codes_per_position} codes per position, the vocabulary "
                f"{vocab.codes_per_position}: they belong to different models"
            )
        if _runs(vocab) != text_runs(text.vocab_size, text.structural_ids):
            raise ValueError(
                f"the text tokenizer has {text.vocab_size} ids, the vocabulary was made for others (up to "
                f"{vocab.text_vocab_size}): they belong to different models"
            )
        self.text = text
        self.image = image
        self.vocab = vocab

    def encode(
        self,
        segments: Sequence[Segment],
        *,
        bos: bool = True,
        eos: bool = True,
        policy: Policy = "resize",
        max_side: int | None = None,
    ) -> Tensor:
        """Segments -> tokens (T,) int64, on the CPU.

        Adjacent strings are one text. Images of a size that the image tokenizer does not take are fitted by
        `policy` (see `pixels.fit`); larger ones are scaled down to `max_side` pixels and to the largest grid
        of the vocabulary; where all images have one grid, they are scaled and cut to it (`pixels.cover`), but
        in a turn that is put to the model they are padded, so that nothing is lost (`pixels.contain`).
        Raises ValueError for a lone surrogate and for an image that cannot be read.
        """
        turns, pixels = 0, []
        conversation = any(isinstance(segment, Mark) for segment in segments)
        for segment in segments:
            if isinstance(segment, Mark):
                turns += 1
            elif not isinstance(segment, str):
                pixels.append(self.pixels(segment, policy, max_side, whole=conversation and turns % 2 == 0))
        images = iter(self.encode_images(pixels))
        parts: list[Part] = []
        for kind, group in groupby(segments, key=lambda s: str if isinstance(s, str) else type(s) is Mark):
            if kind is str:
                ids = self.text.encode("".join(s for s in group if isinstance(s, str)))
                parts.append(("text", torch.tensor(ids, dtype=torch.int64)))
            else:
                parts += [TURN if kind else ("image", next(images)) for _ in group]
        return interleave(parts, self.vocab, bos=bos, eos=eos)

    def encode_images(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images (3, H, W), sides multiples of the factor -> codes (h, w) or (h, w, n), batched by size."""
        return _batched(images, lambda image: image.shape, self.image.encode, self._device)

    def decode(self, tokens: Tensor, *, partial: Partial = "error") -> list[str | Tensor]:
        """The strings and images (3, H, W) of one document, tokens (T,).

        `partial` and errors as in `split`. Text tokens that are not UTF-8 together give U+FFFD.
        """
        parts = split(tokens, self.vocab, partial=partial)
        codes = [part.codes for part in parts if isinstance(part, ImagePart)]
        images = iter(_batched(codes, lambda grid: grid.shape, self.image.decode, self._device))
        return [next(images) if isinstance(p, ImagePart) else self.text.decode(p.ids.tolist()) for p in parts]

    def save(self, folder: str | Path) -> None:
        """Write `folder`: vocab.json, text.model or tokenizer.json, and image/."""
        with atomic_folder(folder) as temporary:
            self.vocab.save(temporary)
            self.text.save(temporary)
            self.image.save(temporary / IMAGE_FOLDER)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder that `save` wrote.

        Raises FileNotFoundError when a file is missing, ValueError when one is damaged or they do not fit.
        """
        from .image import ImageTokenizer

        folder = Path(folder)
        vocab = SharedVocab.load(folder)
        text = load_text(folder)
        image = ImageTokenizer.load(folder / IMAGE_FOLDER)
        try:
            return cls(text, image, vocab)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None

    @property
    def _device(self) -> torch.device:
        return next(self.image.parameters()).device

    def pixels(
        self,
        segment: Image.Image | Tensor,
        policy: Policy = "resize",
        max_side: int | None = None,
        whole: bool = False,
        max_positions: int | None = None,
    ) -> Tensor:
        """An image segment -> (3, H, W) of a size that the image tokenizer and the vocabulary take.

        With `whole` it is padded, not cut, where all images have one grid.
        """
        if not isinstance(segment, Image.Image | Tensor):
            raise ValueError(f"segment is a {type(segment).__name__}, expected string, image or tensor")
        factor, grid, fixed = self.image.factor, self.vocab.grid, self.vocab.fixed_grid
        largest = grid and grid.count * factor
        limits = [limit for limit in (max_side, largest) if limit is not None]
        limit = min(limits, default=None)
        if isinstance(segment, Tensor):
            fits = segment.numel() and all(
                side % factor == 0 and side <= (limit or side) for side in segment.shape[1:]
            )
            if fixed and tuple(segment.shape[1:]) != (fixed[0] * factor, fixed[1] * factor):
                fits = False
            if max_positions is not None and segment.numel() > 3 * max_positions * factor**2:
                fits = False
            if fits and segment.ndim == 3 and segment.shape[0] == 3:
                return segment.float()  # exact, where the way through PIL rounds to 8 bits
            segment = to_pil(segment)
        kind = self.image.config.preprocessing
        if fixed:
            size = fixed[1] * factor, fixed[0] * factor
            image = load_image(segment)
            return to_tensor(contain(image, *size) if whole else cover(image, *size, kind), kind)
        return to_tensor(fit(load_image(segment), factor, policy, limit, max_positions), kind)


def _grid_tokens(codes: Tensor, vocab: SharedVocab) -> list[int]:
    """What stands between begin_image and the codes (h, w) or (h, w, n)."""
    slots = (n,) if (n := vocab.codes_per_position) > 1 else ()
    if codes.ndim != 2 + len(slots) or codes.shape[2:] != slots or not codes.numel():
        expected = f"(rows, columns, {n}), {n} codes per position" if slots else "(rows, columns)"
        raise ValueError(f"an image's codes have the shape {tuple(codes.shape)}, expected {expected}")
    rows, columns = codes.shape[:2]
    if vocab.fixed_grid:
        if (rows, columns) != vocab.fixed_grid:
            expected = "{} x {}".format(*vocab.fixed_grid)
            raise ValueError(f"an image has {rows} x {columns} codes, but this vocabulary's have {expected}")
        return []
    assert vocab.grid is not None  # SharedVocab has one or the other
    start, count = vocab.grid
    if max(rows, columns) > count:
        raise ValueError(
            f"an image has {rows} x {columns} codes, more than this vocabulary's {count} x {count}"
        )
    return [start + rows - 1, start + columns - 1]


def _read_image(
    tokens: Tensor, slots: list[int], start: int, end: int, vocab: SharedVocab
) -> ImagePart | None:
    """The image whose begin_image stands at `start`; None when the document ends inside it.

    `slots` is `vocab.slot` of the tokens.
    """
    codes = start + 1
    if vocab.fixed_grid:
        rows, columns = vocab.fixed_grid
    else:
        assert vocab.grid is not None
        codes += 2
        sizes = tokens[start + 1 : min(codes, end)]
        if not bool(vocab.is_grid(sizes).all()):
            raise ValueError(f"the image at token {start} does not begin with its rows and columns")
        if len(sizes) < 2:
            return None
        rows, columns = (sizes - vocab.grid.start + 1).tolist()
    n = vocab.codes_per_position
    size = f"{rows} x {columns}" + (f" x {n}" if n > 1 else "")
    stop = codes + rows * columns * n
    for position in range(codes, min(stop, end)):
        slot = (position - codes) % n
        if slots[position] != slot:
            raise ValueError(
                f"the image at token {start} has {size} codes, but token {int(tokens[position])} "
                f"at position {position} is none" + (f" of slot {slot}" if n > 1 else "")
            )
    if stop >= end:
        return None
    if tokens[stop] != vocab.end_image:
        raise ValueError(f"the image at token {start} does not end after its {size} codes")
    by_rows = vocab.scan == "rows"
    scanned = (rows, columns) if by_rows else (columns, rows)
    grid = vocab.tokens_to_codes(tokens[codes:stop].view(*scanned, *([n] if n > 1 else [])))
    return ImagePart("image", grid if by_rows else grid.transpose(0, 1))


def _batched(
    inputs: Sequence[Tensor],
    key: Callable[[Tensor], Hashable],
    function: Callable[[Tensor], Tensor],
    device: torch.device,
) -> list[Tensor]:
    """`function` of each tensor, computed in batches of equal `key`; the results are on the CPU, in order."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, tensor in enumerate(inputs):
        groups[key(tensor)].append(i)
    results: dict[int, Tensor] = {}
    with torch.no_grad():
        for group in groups.values():
            for batch in (group[i : i + BATCH] for i in range(0, len(group), BATCH)):
                outputs = function(torch.stack([inputs[i].to(device) for i in batch]))
                results.update(zip(batch, outputs.cpu()))
    return [results[i] for i in range(len(inputs))]


def _runs(vocab: SharedVocab) -> list[tuple[int, int]]:
    """`text_runs` as the vocabulary has them, ranges that touch joined."""
    runs: list[tuple[int, int]] = []
    for _, id, count in vocab.text:
        if runs and sum(runs[-1]) == id:
            runs[-1] = (runs[-1][0], runs[-1][1] + count)
        else:
            runs.append((id, count))
    return runs
