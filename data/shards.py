"""Rows of a data set -> documents -> packed windows in files, shard by shard: the work of ``prepare``.

A shard depends on its rows, the configuration and the tokenizers alone, not on the process that makes it nor
on the other shards: so shards are made by many processes, and a run that was killed goes on with those that
are there.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, Features, IterableDataset, List, Value
from datasets.arrow_writer import ArrowWriter
from torch import Tensor

from ..tokenizers.documents import TURN, DocumentTokenizer, Mark, Part, interleave
from ..tokenizers.files import write_json
from ..tokenizers.layout import write
from ..tokenizers.pixels import tiles
from .packing import pack
from .prepare_config import PrepareConfig
from .rows import Stored, documents_of
from .sources import RawImage, Unusable, open_image

TOGETHER = 500
"""Rows that are read together, and whose images are encoded together, by size."""

Key = tuple[bytes, bool] | tuple[int, int, int]
"""What names an image: a digest of its file and whether all of it is to be seen, or else its row, document
and place."""
Report = Callable[[int], None]
"""Called with how many rows more are done."""


class Source(NamedTuple):
    """The rows of one part, train or validation."""

    name: str
    dataset: Dataset | None
    """None: they are streamed, and come with the blocks."""
    numbers: np.ndarray | None
    """Their numbers in the data set that the configuration names; None: 0, 1, ..."""
    shape: str
    """One of ``rows.SHAPES``."""
    folder: Path
    """Where relative file names begin."""
    duplicates: frozenset[int] = frozenset()
    """Numbers of rows whose id came before."""
    streamed: IterableDataset | None = None
    """Where streamed rows come from."""


class Block(NamedTuple):
    """The rows of a shard."""

    part: str
    number: int
    size: int
    rows: list[dict[str, Any]] | None = None
    """The rows themselves, where they are streamed."""
    numbers: Sequence[int] | None = None
    """Their numbers then."""

    @property
    def stem(self) -> str:
        """Begins the names of its files: STEM.arrow, and STEM.json, which comes last."""
        return f"{self.part}-{self.number:05d}"


@dataclass
class Counts:
    """What became of the rows of a shard, or of a part."""

    documents: int = 0
    """Rows that were read."""
    pieces: int = 0
    """Documents in the windows: more than rows where long ones were split or both orders are kept."""
    split: int = 0
    """Documents that were longer than a window."""
    images: int = 0
    windows: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason -> how often."""

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the counts of a shard, as its file holds them."""
        for name, value in other.items():
            if isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
            else:
                for key, number in value.items():
                    getattr(self, name)[key] = getattr(self, name).get(key, 0) + number


def features_of(config: PrepareConfig, shape: str) -> Features:
    """The columns of the windows."""
    columns = {"tokens": "int32", "documents": "int32"}
    if shape == "conversations":
        columns["learned"] = "int8"
    return Features({name: List(Value(kind), length=config.context_length) for name, kind in columns.items()})


def make_shard(
    config: PrepareConfig,
    tokenizer: DocumentTokenizer,
    sources: Mapping[str, Source],
    folder: Path,
    block: Block,
    report: Report = lambda _: None,
) -> Counts:
    """Write the files of a shard into ``folder``.

    :raises ValueError: a row cannot be used, and the configuration says to fail.
    """
    shard = _Shard(config, tokenizer, sources[block.part], block, report)
    shard.write(folder / block.stem)
    return shard.counts


class _Shard:
    """One shard while it is made."""

    def __init__(
        self,
        config: PrepareConfig,
        tokenizer: DocumentTokenizer,
        source: Source,
        block: Block,
        report: Report,
    ) -> None:
        self.config, self.tokenizer, self.source = config, tokenizer, source
        self.block, self.report = block, report
        self.talks = source.shape == "conversations"
        self.counts = Counts()
        self.rejected: list[dict[str, Any]] = []
        self.codes: dict[Key, list[Tensor]] = {}
        """Codes of images that may stand in several documents, each of one image or of its tiles."""
        self.rng = np.random.default_rng([config.seed, 4, *block.part.encode(), block.number])

    def write(self, stem: Path) -> None:
        """Write the windows, and then the counts: a shard that has them is whole."""
        length, vocab = self.config.context_length, self.tokenizer.vocab
        features = features_of(self.config, self.source.shape)
        modality = vocab.modality(torch.arange(vocab.size)).numpy()
        scratch = stem.with_suffix(".partial")
        with ArrowWriter(path=str(scratch), features=features) as writer:
            for window in pack(self._documents(), length, vocab.pad, self.rng):
                learned = window.tokens >= 0
                tokens = np.where(learned, window.tokens, ~window.tokens)
                kept = tokens[tokens != vocab.pad]
                for name, number in zip(vocab.names, np.bincount(modality[kept], minlength=len(vocab.names))):
                    self.counts.tokens[name] = self.counts.tokens.get(name, 0) + int(number)
                self.counts.windows += 1
                row = {"tokens": tokens, "documents": window.documents, "learned": learned.astype(np.int8)}
                writer.write({name: row[name] for name in features})
            writer.finalize()
        scratch.replace(stem.with_suffix(".arrow"))
        write_json(stem.with_suffix(".json"), {"counts": asdict(self.counts), "rejected": self.rejected})

    def _rows(self) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """The rows and their numbers, some at a time."""
        source, block = self.source, self.block
        if block.rows is not None:
            assert block.numbers is not None
            for start in range(0, block.size, TOGETHER):
                stop = start + TOGETHER
                yield list(zip(block.numbers[start:stop], block.rows[start:stop]))
            return
        assert source.dataset is not None
        first = block.number * self.config.shard_rows
        for start in range(first, first + block.size, TOGETHER):
            stop = min(start + TOGETHER, first + block.size)
            columns = source.dataset[start:stop]
            numbers = range(start, stop) if source.numbers is None else source.numbers[start:stop]
            yield [
                (int(n), {name: values[i] for name, values in columns.items()}) for i, n in enumerate(numbers)
            ]

    def _documents(self) -> Iterator[np.ndarray]:
        """The documents' tokens, int32 each no longer than a window; ~t for a token t that is not learned."""
        for rows in self._rows():
            found: list[tuple[int, list[Stored]]] = []
            for number, row in rows:
                self.counts.documents += 1
                found += [(number, document) for document in self._read(number, row)]
            yield from self._tokens(found)
            self.report(len(rows))

    def _read(self, number: int, row: dict[str, Any]) -> list[list[Stored]]:
        """The documents of a row; none where it cannot be used."""
        if number in self.source.duplicates:
            self._reject(number, "row whose id came before")
            return []
        try:
            documents = documents_of(row, self.source.shape, self.config.order, self.rng, self.source.folder)
        except Unusable as error:
            self._reject(number, error.reason, error.detail)
            return []
        if not documents:
            self._reject(number, "empty row")
        return documents

    def _reject(self, row: int, reason: str, detail: str = "") -> None:
        """Count what is left out, and where, or stop."""
        if self.config.bad_input == "fail":
            what = f"{reason}: {detail}" if detail else reason
            raise ValueError(
                f"row {row} of {self.source.name} cannot be used: {what} (bad_input: skip counts such rows "
                "and goes on)"
            )
        self.counts.left_out[reason] = self.counts.left_out.get(reason, 0) + 1
        entry = {"part": self.source.name, "row": row, "reason": reason, "detail": detail[:300]}
        self.rejected.append(entry)

    def _tokens(self, rows: Sequence[tuple[int, list[Stored]]]) -> Iterator[np.ndarray]:
        """Documents of segments -> tokens; the images of all of them are encoded together, by size."""
        new: dict[Key, list[Tensor]] = {}  # the pixels of images that were not seen before
        parsed: list[tuple[int, list[str | Mark | Key]]] = []
        for index, (number, segments) in enumerate(rows):
            document: list[str | Mark | Key] = []
            answer = False
            try:
                for place, segment in enumerate(segments):
                    if isinstance(segment, RawImage):
                        whole = self.talks and not answer
                        key = _key(segment, number, index, place, whole)
                        if key not in self.codes and key not in new:
                            new[key] = self._pixels(segment, whole)
                        document.append(key)
                    else:
                        answer ^= isinstance(segment, Mark)
                        document.append(_clean(segment) if isinstance(segment, str) else segment)
            except Unusable as error:  # a caption without its picture teaches nothing true
                self._reject(number, error.reason, error.detail)
            else:
                parsed.append((number, document))
        pixels = [tile for some in new.values() for tile in some]
        encoded = iter(self.tokenizer.encode_inputs("image", pixels))
        codes = self.codes | {key: [next(encoded) for _ in some] for key, some in new.items()}
        self.codes = {key: grids for key, grids in codes.items() if isinstance(key[0], bytes)}
        for number, document in parsed:
            parts = self._parts(document, codes)
            yield from self._conversation(number, parts) if self.talks else self._pieces(number, parts)

    def _pixels(self, raw: RawImage, whole: bool) -> list[Tensor]:
        """An image, or its tiles, as the image tokenizer takes them."""
        config = self.config
        try:
            image = open_image(raw)
            if config.large_images == "tile" and config.max_side is not None:
                images = tiles(image, config.max_side)
            else:
                images = [image]
            return [
                self.tokenizer.prepare(
                    "image",
                    one,
                    whole=whole,
                    policy=config.policy,
                    max_side=config.max_side,
                    max_positions=config.max_positions,
                )
                for one in images
            ]
        except FileNotFoundError as error:
            raise Unusable("image that was not found", str(error)) from None
        except ValueError as error:
            raise Unusable("image that cannot be read", str(error)) from None

    def _conversation(self, row: int, parts: list[Part]) -> Iterator[np.ndarray]:
        """A conversation of which the answers are learned, and the ends of their turns.

        Of one that is longer than a window the last answers are left out, with what they answer.
        """
        vocab, length = self.tokenizer.vocab, self.config.context_length
        document = [np.array([~vocab.bos])]
        fitting, turns = 0, 0
        turn: list[Part] = []
        for part in [*parts, TURN]:
            turn.append(part)
            if part is not TURN:
                continue
            tokens = interleave(turn, vocab, bos=False, eos=False).numpy()
            document.append(tokens if turns % 2 else ~tokens)
            turns += 1
            if turns % 2 == 0 and sum(map(len, document)) <= length:
                fitting = len(document)
            turn = []
        if fitting < len(document):
            if self.config.long_documents == "drop" or not fitting:
                self._reject(row, "conversation longer than a window")
                return
            self.counts.split += 1
        tokens = np.concatenate(document[:fitting])
        if fitting == len(document):
            tokens[-1] = vocab.eos
        self.counts.pieces += 1
        begin = vocab.layout("image").begin
        self.counts.images += int(np.isin(tokens, [begin, ~begin]).sum())
        yield tokens.astype(np.int32)

    def _parts(self, document: Sequence[str | Mark | Key], codes: Mapping[Key, list[Tensor]]) -> list[Part]:
        """Adjacent strings are one text, as in ``DocumentTokenizer.encode``."""
        parts: list[Part] = []
        text = ""
        for segment in [*document, None]:
            if isinstance(segment, str):
                text += segment
                continue
            if text:
                parts.append(("text", torch.tensor(self.tokenizer.text.encode(text), dtype=torch.int64)))
                text = ""
            if isinstance(segment, Mark):
                parts.append(TURN)
            elif segment is not None:
                parts += [("image", grid) for grid in codes[segment]]
        return parts

    def _pieces(self, row: int, parts: list[Part]) -> Iterator[np.ndarray]:
        """The document, or the pieces of one that is longer than a window.

        Each piece begins with bos, so that every text that the model sees has a beginning; eos stands where
        the document really ends.
        """
        vocab, length = self.tokenizer.vocab, self.config.context_length
        sizes = [len(values) if kind == "text" else self._image_length(values) for kind, values in parts]
        if sum(sizes) + 2 > length:
            if self.config.long_documents == "drop":
                self._reject(row, "document longer than a window")
                return
            parts, sizes = self._shortened(row, parts, sizes, length - 2)
        while parts:
            count, room = 0, length - 2
            while count < len(parts) and sizes[count] <= room:
                room -= sizes[count]
                count += 1
            piece, parts, sizes = parts[:count], parts[count:], sizes[count:]
            self.counts.pieces += 1
            self.counts.images += sum(kind == "image" for kind, _ in piece)
            yield interleave(piece, vocab, eos=not parts).numpy().astype(np.int32)

    def _shortened(
        self, row: int, parts: list[Part], sizes: list[int], room: int
    ) -> tuple[list[Part], list[int]]:
        """No part longer than ``room``: long texts are cut, images that are too large are left out."""
        self.counts.split += 1
        kept: list[Part] = []
        for (kind, values), size in zip(parts, sizes):
            if size <= room:
                kept.append((kind, values))
            elif kind == "text":
                kept += [("text", piece) for piece in values.split(room)]
            else:
                self._reject(row, "image larger than a window")
        return kept, [len(v) if kind == "text" else self._image_length(v) for kind, v in kept]

    def _image_length(self, codes: Tensor) -> int:
        return len(write(self.tokenizer.vocab, "image", codes))


def _key(image: RawImage, row: int, document: int, place: int, whole: bool) -> Key:
    if image.data is None:
        return row, document, place
    return hashlib.blake2b(image.data, digest_size=16).digest(), whole


def _clean(text: str) -> str:
    """``text``, if it is Unicode. Raises Unusable for lone surrogates, which no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable("text with a lone surrogate", f"at character {error.start}") from None
    return text
