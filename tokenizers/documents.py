"""Documents <-> tokens: strings, images and more in order, as one stream, and back.

A document is ``bos``, its segments, ``eos``. Text is its tokens; segments of other modalities are blocks of
codes (see ``layout``). In a conversation, turns of the user and of the model alternate; ``sep`` ends each.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from ..storage.files import atomic_folder
from .batches import equal_batches
from .bpe import BpeTokenizer, load_text
from .layout import parse, write
from .modality import CODECS, TEXT, Codec
from .text import TextTokenizer
from .vocab import SharedVocab, text_runs

if TYPE_CHECKING:
    from .image import ImageTokenizer  # imported where it is used: its libraries take seconds to load

TOKENIZER = "tokenizer"
"""The folder of a ``DocumentTokenizer`` in a model's folder, or a prepared one."""


class Mark(Enum):
    """An item of a document that belongs to no modality."""

    END_OF_TURN = "end of turn"


END_OF_TURN = Mark.END_OF_TURN
"""Ends a turn of a conversation. Turns 1, 3, ... are the user's, the others the model's."""

Segment = Any
"""A string is text, whatever it contains. A ``Part`` is already encoded. Anything else goes to the codec that
``takes`` it: images are PIL images or tensors (3, H, W) in [-1, 1]."""

Partial = Literal["error", "drop"]

BATCH = 64
"""Most segments per call of a codec."""


class Part(NamedTuple):
    """An encoded segment, or the end of a turn."""

    kind: str
    """A modality's name, or "turn"."""
    values: Tensor
    """Text ids (n,), or codes (*shape), with several slots (*shape, n); int64."""


TURN = Part("turn", torch.empty(0, dtype=torch.int64))
"""The end of a turn."""


class Encoded(NamedTuple):
    """A document as the transformer takes it."""

    tokens: Tensor
    """(T,) int64."""
    positions: Tensor
    """Position ids (axes, T) int64; axes is 1 so far."""
    features: Tensor | None = None
    """(N, C) float: continuous vectors that replace the embeddings of N tokens; None if absent."""
    places: Tensor | None = None
    """(T,) bool: the tokens whose embeddings they replace; None without features."""


def interleave(
    parts: Sequence[tuple[str, Tensor]], vocab: SharedVocab, *, bos: bool = True, eos: bool = True
) -> Tensor:
    """Parts of one document -> its tokens (T,) int64, on the CPU.

    Args:
        parts: (modality, values) pairs, or ``TURN``.
        vocab: The vocabulary.
        bos: Begin with ``bos``.
        eos: End with ``eos``.

    Raises:
        ValueError: A shape, id or code is not in the vocabulary, or a turn ends and ``vocab`` has no ``sep``.
    """
    tokens = [_single(vocab.bos)] if bos else []
    for kind, values in parts:
        if kind == TEXT:
            tokens.append(vocab.to_tokens(TEXT, values.cpu()))
        elif kind != TURN.kind:
            tokens.append(write(vocab, kind, values.cpu()))
        elif vocab.sep is None:
            raise ValueError(
                "the document has turns, but this vocabulary has no token that ends a turn: prepare with "
                "separator: true"
            )
        else:
            tokens.append(_single(vocab.sep))
    if eos:
        tokens.append(_single(vocab.eos))
    return torch.cat(tokens) if tokens else torch.empty(0, dtype=torch.int64)


@lru_cache(maxsize=64)
def _single(token: int) -> Tensor:
    """(1,) int64, shared: to be joined with others. Making it takes longer than joining it."""
    return torch.tensor([token], device="cpu")


def split(tokens: Tensor, vocab: SharedVocab, *, partial: Partial = "error") -> list[Part]:
    """The parts of one document, tokens (T,): the inverse of ``interleave``.

    ``bos``, ``eos`` and padding after the document are optional; ends of turns are left out.

    Args:
        tokens: One document.
        vocab: Its vocabulary.
        partial: Whether a last block that is cut short is an "error", or left out ("drop").

    Raises:
        ValueError: A block is cut short, or these are not the tokens of a document; the message names the
            position.
    """
    if tokens.ndim != 1:
        raise ValueError(f"tokens have the shape {tuple(tokens.shape)}, expected one document (T,)")
    if partial not in ("error", "drop"):
        raise ValueError(f"partial is {partial!r}, expected 'error' or 'drop'")
    tokens = tokens.cpu()
    is_text, is_begin, values = (
        vocab.is_text(tokens).tolist(),
        vocab.is_begin(tokens).tolist(),
        tokens.tolist(),
    )
    end = len(values)
    while end and values[end - 1] == vocab.pad:
        end -= 1
    if end and values[end - 1] == vocab.eos:
        end -= 1
    parts: list[Part] = []
    position = 1 if end and values[0] == vocab.bos else 0
    while position < end:
        start = position
        if is_text[start]:
            while position < end and is_text[position]:
                position += 1
            parts.append(Part(TEXT, vocab.to_codes(TEXT, tokens[start:position])))
        elif is_begin[start]:
            block = parse(vocab, tokens, start, end)
            if block is None:
                if partial == "error":
                    raise ValueError(f"the block at token {start} is cut short: the document ends at {end}")
                break
            parts.append(Part(block.name, block.codes))
            position = block.stop
        elif values[start] == vocab.sep:
            position += 1
        else:
            raise ValueError(
                f"token {values[start]} at position {start} is not allowed: expected text, the begin of a "
                "block, or the end of a turn"
            )
    return parts


class DocumentTokenizer:
    """The tokenizers of all modalities and the vocabulary they share: documents <-> tokens."""

    def __init__(
        self, vocab: SharedVocab, *, text: TextTokenizer | BpeTokenizer, **codecs: "Codec | ImageTokenizer"
    ) -> None:
        """
        Args:
            vocab: The vocabulary.
            text: The text tokenizer.
            codecs: The codec of every other modality, by name: ``image=...``.

        Raises:
            ValueError: ``vocab`` was made for another text tokenizer or other codecs.
        """
        wanted = [modality.name for modality in vocab.framed]
        if sorted(codecs) != sorted(wanted):
            raise ValueError(f"codecs are {', '.join(codecs) or 'missing'}, expected {', '.join(wanted)}")
        for name, codec in codecs.items():
            for field, theirs in (
                ("codebook_size", vocab[name].codebook_size),
                ("codes_per_position", vocab[name].slots),
            ):
                if (own := getattr(codec, field)) != theirs:
                    raise ValueError(
                        f"the {name} tokenizer has {field} {own}, but the vocabulary has {theirs}: use the "
                        "tokenizer and the vocabulary of one model"
                    )
        if _runs(vocab) != text_runs(text.vocab_size, text.structural_ids):
            raise ValueError(
                f"the text tokenizer has {text.vocab_size} ids, but the vocabulary was made for others (up "
                f"to {vocab[TEXT].n_ids}): use the tokenizer and the vocabulary of one model"
            )
        self.vocab, self.text = vocab, text
        self.codecs: dict[str, Any] = {name: codecs[name] for name in wanted}

    @property
    def image(self) -> "ImageTokenizer":
        """The image tokenizer.

        Raises:
            ValueError: The model does not have images.
        """
        if "image" not in self.codecs:
            raise ValueError(f"this tokenizer does not have images, only {', '.join(self.vocab.names[1:])}")
        return self.codecs["image"]

    def encode(
        self,
        segments: Sequence[Segment],
        *,
        bos: bool = True,
        eos: bool = True,
        options: Mapping[str, Mapping[str, Any]] = {},
    ) -> Encoded:
        """Segments -> the tokens of one document, on the CPU.

        Adjacent strings are joined. Images are scaled or cropped to a size that the image tokenizer takes
        (see ``ImageTokenizer.prepare``); in the user's turns of a conversation they are padded, not cropped.

        Args:
            segments: The document.
            bos: Begin with ``bos``.
            eos: End with ``eos``.
            options: Arguments of the codecs' ``prepare``, by modality: ``{"image": {"max_side": 256}}``.

        Raises:
            ValueError: A string has a lone surrogate, or a segment cannot be read.
        """
        return self.encode_many([segments], bos=bos, eos=eos, options=options)[0]

    def encode_many(
        self,
        documents: Sequence[Sequence[Segment]],
        *,
        bos: bool = True,
        eos: bool = True,
        options: Mapping[str, Mapping[str, Any]] = {},
    ) -> list[Encoded]:
        """Encode many documents like ``encode``; segments of one shape are encoded in batches."""
        return [
            self.positioned(interleave(parts, self.vocab, bos=bos, eos=eos))
            for parts in self.parts_many(documents, options)
        ]

    def positioned(self, tokens: Tensor) -> Encoded:
        """Add the position ids to the tokens (T,) of one document."""
        return Encoded(tokens, torch.arange(len(tokens))[None])

    def parts_many(
        self, documents: Sequence[Sequence[Segment]], options: Mapping[str, Mapping[str, Any]] = {}
    ) -> list[list[Part]]:
        """The parts of each document. A segment that occurs several times is encoded once.

        Args:
            documents: Lists of segments.
            options: As in ``encode``.

        Raises:
            ValueError: As ``encode``.
        """
        # Inputs of the codecs, by modality, then by (segment, whether nothing may be cropped).
        inputs: dict[str, dict[tuple[int, bool], Tensor]] = defaultdict(dict)
        sketches: list[list[str | Part | _Place]] = []
        for segments in documents:
            sketch: list[str | Part | _Place] = []
            conversation, turns = any(isinstance(segment, Mark) for segment in segments), 0
            for segment in segments:
                if isinstance(segment, Mark):
                    turns += 1
                    sketch.append(TURN)
                elif isinstance(segment, str | Part):
                    sketch.append(segment)
                else:
                    name, whole = self._modality_of(segment), conversation and turns % 2 == 0
                    key = id(segment), whole
                    if key not in inputs[name]:
                        inputs[name][key] = self.prepare(name, segment, whole=whole, **options.get(name, {}))
                    sketch.append(_Place(name, key))
            sketches.append(sketch)
        codes = {
            name: dict(zip(found, self.encode_inputs(name, list(found.values()))))
            for name, found in inputs.items()
        }
        return [[self._part(segment, codes) for segment in _joined(sketch)] for sketch in sketches]

    def prepare(self, name: str, segment: Segment, *, whole: bool = False, **options: Any) -> Tensor:
        """A segment of modality ``name`` -> an input of its codec that fits the vocabulary's layout."""
        return self.codecs[name].prepare(segment, self.vocab[name].layout, whole=whole, **options)

    def encode_inputs(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Inputs of a codec, as from ``prepare`` -> codes (*shape) or (*shape, n), batched by size."""
        return _batched(inputs, self.codecs[name].encode, device_of(self.codecs[name]))

    def decode_codes(self, name: str, codes: Sequence[Tensor]) -> list[Tensor]:
        """Codes of modality ``name`` -> decoded segments, such as images (3, H, W), batched by shape."""
        return _batched(codes, self.codecs[name].decode, device_of(self.codecs[name]))

    def decode(self, tokens: Tensor, *, partial: Partial = "error") -> list[str | Tensor]:
        """The strings and decoded segments, such as images (3, H, W), of one document.

        Args:
            tokens: (T,) int64. Text tokens whose bytes are not valid UTF-8 become U+FFFD.
            partial: As in ``split``.

        Raises:
            ValueError: As in ``split``.
        """
        return [value for _, value in self.decode_parts(split(tokens, self.vocab, partial=partial))]

    def decode_parts(self, parts: Sequence[Part]) -> list[tuple[str, str | Tensor]]:
        """The modality and the decoded value of each part; see ``decode``."""
        groups: dict[str, list[Tensor]] = defaultdict(list)
        for part in parts:
            if part.kind != TEXT:
                groups[part.kind].append(part.values)
        decoded = {name: iter(self.decode_codes(name, codes)) for name, codes in groups.items()}
        return [
            (kind, self.text.decode(values.tolist()) if kind == TEXT else next(decoded[kind]))
            for kind, values in parts
        ]

    def save(self, folder: str | Path) -> None:
        """Write ``folder``: vocab.json, text.model or tokenizer.json, and one folder per codec."""
        with atomic_folder(folder) as temporary:
            self.vocab.save(temporary)
            self.text.save(temporary)
            for name, codec in self.codecs.items():
                codec.save(temporary / name)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder that ``save`` wrote.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged, they do not fit together, or ``CODECS`` lacks a modality.
        """
        folder = Path(folder)
        vocab = SharedVocab.load(folder)
        text = load_text(folder)
        names = [modality.name for modality in vocab.framed]
        if unknown := [name for name in names if name not in CODECS]:
            raise ValueError(
                f"{folder} has the unknown modality {unknown[0]}, expected {', '.join(CODECS)}: add a "
                "function that loads its codec to earlyfusion.tokenizers.modality.CODECS"
            )
        codecs = {name: CODECS[name](folder / name) for name in names}
        try:
            return cls(vocab, text=text, **codecs)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None

    def to(self, device: torch.device | str) -> Self:
        """Move the codecs that are networks to ``device``; returns ``self``."""
        for codec in self.codecs.values():
            if isinstance(codec, torch.nn.Module):
                codec.to(device)
        return self

    def _part(self, segment: "str | Part | _Place", codes: Mapping[str, Mapping[Any, Tensor]]) -> Part:
        if isinstance(segment, str):
            return Part(TEXT, torch.tensor(self.text.encode(segment), dtype=torch.int64))
        return (
            Part(segment.name, codes[segment.name][segment.key]) if isinstance(segment, _Place) else segment
        )

    def _modality_of(self, segment: Segment) -> str:
        for name, codec in self.codecs.items():
            if codec.takes(segment):
                return name
        known = ", ".join(["string", *self.codecs])
        raise ValueError(f"segment is a {type(segment).__name__}, expected one of: {known}")


class _Place(NamedTuple):
    """A segment whose codes are found later, by codec and key."""

    name: str
    key: tuple[int, bool]


def _joined(segments: Sequence["str | Part | _Place"]) -> "Iterator[str | Part | _Place]":
    """Join adjacent strings."""
    for is_text, group in groupby(segments, key=lambda segment: isinstance(segment, str)):
        if is_text:
            yield "".join(segment for segment in group if isinstance(segment, str))
        else:
            yield from group


def device_of(codec: Any) -> torch.device:
    """The device of a codec's weights, or the CPU if it has none."""
    weight = next(codec.parameters(), None) if isinstance(codec, torch.nn.Module) else None
    return torch.device("cpu") if weight is None else weight.device


def _batched(
    inputs: Sequence[Tensor], function: Callable[[Tensor], Tensor], device: torch.device
) -> list[Tensor]:
    """Apply ``function`` to each tensor, in batches of one shape; the results are on the CPU, in order."""
    results: dict[int, Tensor] = {}
    with torch.no_grad():
        for batch in equal_batches([tensor.shape for tensor in inputs], BATCH):
            outputs = function(torch.stack([inputs[i].to(device) for i in batch]))
            results.update(zip(batch, outputs.cpu()))
    return [results[i] for i in range(len(inputs))]


def _runs(vocab: SharedVocab) -> list[tuple[int, int]]:
    """The runs of text ids in the vocabulary, like ``text_runs``; adjacent ranges are joined."""
    runs: list[tuple[int, int]] = []
    for _, id, count in vocab[TEXT].ranges:
        if runs and sum(runs[-1]) == id:
            runs[-1] = (runs[-1][0], runs[-1][1] + count)
        else:
            runs.append((id, count))
    return runs
