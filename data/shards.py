"""Rows of a data set -> documents -> parts -> pieces -> packed windows in a file: the work of ``prepare``.

A shard depends only on its rows, the configuration and the tokenizers, not on the process that makes it or on
other shards. So many processes can make shards, and a run that was killed resumes with those it finds.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Features, List, Value
from datasets.arrow_writer import ArrowWriter
from torch import Tensor

from ..storage.files import write_json
from ..tokenizers.documents import DocumentTokenizer, Part, Segment
from ..tokenizers.pixels import tiles
from .packing import Document, pack
from .pieces import (
    conversation_tokens,
    cut_texts,
    document_tokens,
    fitting_turns,
    pieces,
    tokens_of,
    turns_of,
)
from .prepare_config import PrepareConfig
from .reading.cells import RawImage, Unusable, open_image
from .reading.conversations import Stored
from .reading.listing import shown
from .reading.readers import PLACE, Row
from .reading.rows import documents_of
from .splits import Shard, Split

TOGETHER = 500
"""Rows that are read together, and whose images are encoded together, by size."""
TEXT, IMAGE = "text", "image"
"""The modalities of a string and of a ``RawImage``."""

ImageKey = tuple[bytes, bool] | tuple[int, int, int]
"""Identifies an image: a digest of its file and whether all of it must be seen, or row, document, place."""
OnRows = Callable[[int], None]
"""Called with the number of rows that were done since the last call."""


@dataclass
class Tally:
    """What became of the rows of a shard, or of a part: rows = used + the sum of ``left_out``."""

    rows: int = 0
    """Rows that were read."""
    used: int = 0
    """Rows that became documents; the others are in ``left_out``."""
    documents: int = 0
    """Their documents: more than rows if both orders are kept, or if an image has several captions."""
    segments: dict[str, int] = field(default_factory=dict)
    """Modality -> segments of these documents."""
    pieces: int = 0
    """Documents in the windows: more than documents if long ones were split."""
    split: int = 0
    """Documents that were longer than a window."""
    images: int = 0
    """Images in the windows; tiles count one by one."""
    windows: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    """Modality -> number of tokens."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason -> rows that are not used."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> documents, or parts of documents, of rows that are used."""

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the tally of a shard, as its file stores it."""
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
    splits: Mapping[str, Split],
    folder: Path,
    shard: Shard,
    on_rows: OnRows = lambda _: None,
) -> int:
    """Write the files of a shard into ``folder``.

    Returns:
        The number of images in it.

    Raises:
        ValueError: A row cannot be used, and the configuration says to fail.
    """
    maker = _Maker(config, tokenizer, splits[shard.part], shard, on_rows)
    maker.write(folder / shard.stem)
    return maker.tally.images


class _Maker:
    """Makes one shard. Its methods are the steps, from the rows to the windows."""

    def __init__(
        self,
        config: PrepareConfig,
        tokenizer: DocumentTokenizer,
        split: Split,
        shard: Shard,
        on_rows: OnRows,
    ) -> None:
        self.config, self.tokenizer, self.split = config, tokenizer, split
        self.vocab = tokenizer.vocab
        self.shard, self.on_rows = shard, on_rows
        self.talks = split.plan.shape == "conversations"
        self.tally = Tally()
        self.rejected: list[dict[str, Any]] = []
        self.places: dict[int, str] = {}
        """Where the rows are from that are worked on."""
        self.encoded: dict[ImageKey, list[Part]] = {}
        """Images that may come again in other documents; each is one part, or one for each tile."""
        self.rng = np.random.default_rng([config.seed, 4, *shard.part.encode(), shard.number])

    def write(self, stem: Path) -> None:
        """Write the windows, and then the tally: a shard that has one is complete."""
        features = features_of(self.config, self.split.plan.shape)
        scratch = stem.with_suffix(".partial")
        with ArrowWriter(path=str(scratch), features=features) as writer:
            for window in pack(self.documents(), self.config.context_length, self.vocab.pad, self.rng):
                self._count(window.tokens)
                row = {**window._asdict(), "learned": window.learned.astype(np.int8)}
                writer.write({name: row[name] for name in features})
            writer.finalize()
        scratch.replace(stem.with_suffix(".arrow"))
        write_json(stem.with_suffix(".json"), {"counts": asdict(self.tally), "rejected": self.rejected})

    def documents(self) -> Iterator[Document]:
        """Documents and pieces of documents, each at most as long as a window."""
        for rows in self._rows():
            self.places = {}
            read = [(number, segments) for number, row in rows for segments in self._read(number, row)]
            segments = self._encode_images(read)
            for (number, _), parts in zip(segments, self.tokenizer.parts_many([s for _, s in segments])):
                yield from self._conversation(number, parts) if self.talks else self._pieces(number, parts)
            self.on_rows(len(rows))

    def _rows(self) -> Iterator[list[tuple[int, Row]]]:
        """The rows and their numbers, ``TOGETHER`` at a time."""
        split, shard = self.split, self.shard
        if shard.rows is not None:
            assert shard.numbers is not None
            for start in range(0, shard.size, TOGETHER):
                stop = start + TOGETHER
                yield list(zip(shard.numbers[start:stop], shard.rows[start:stop]))
            return
        assert split.rows is not None
        first = shard.number * self.config.shard_rows
        for start in range(first, first + shard.size, TOGETHER):
            stop = min(start + TOGETHER, first + shard.size)
            numbers = range(start, stop) if split.numbers is None else split.numbers[start:stop].tolist()
            yield list(zip(numbers, split.rows.read(start, stop)))

    def _read(self, number: int, row: Row) -> list[list[Stored]]:
        """The documents of a row; none if it cannot be used."""
        self.tally.rows += 1
        self.places[number] = row.get(PLACE, "")
        if number in self.split.duplicates:
            self._reject(number, "duplicate id")
            return []
        try:
            documents = documents_of(
                self.split.plan.row(row),
                self.split.plan.shape,
                self.rng,
                self.split.folder,
                order=self.config.order,
                captions=self.config.captions,
                incomplete_pairs=self.config.incomplete_pairs,
                note=partial(self._drop, number),
            )
        except Unusable as error:
            self._reject(number, error.reason, error.detail)
            return []
        if not documents:
            self._reject(number, "empty row")
        return documents

    def _encode_images(self, read: Sequence[tuple[int, list[Stored]]]) -> list[tuple[int, list[Segment]]]:
        """The documents with encoded images; those of all documents are encoded together, by size.

        A row with an image that cannot be used is left out: without it, its text teaches nothing true.
        """
        inputs: dict[ImageKey, list[Tensor]] = {}  # images that are new
        keys: list[list[ImageKey]] = []
        bad: set[int] = set()
        for index, (number, document) in enumerate(read):
            keys.append([])
            if number in bad:
                continue
            answer = False
            try:
                for place, segment in enumerate(document):
                    if isinstance(segment, RawImage):
                        whole = self.talks and not answer
                        keys[-1].append(key := _key(segment, number, index, place, whole))
                        if key not in self.encoded and key not in inputs:
                            inputs[key] = self._inputs(segment, whole)
                    elif isinstance(segment, str):
                        _check_unicode(segment)
                    else:
                        answer = not answer
            except Unusable as error:
                self._reject(number, error.reason, error.detail)
                bad.add(number)
        kept = [(*one, some) for one, some in zip(read, keys) if one[0] not in bad]
        self.tally.used += len({number for number, _, _ in kept})
        for _, document, some in kept:
            self.tally.documents += 1
            texts = sum(isinstance(segment, str) for segment in document)
            self.tally.add({"segments": {TEXT: texts, IMAGE: len(some)}})
        codes = iter(self.tokenizer.encode_inputs(IMAGE, [one for some in inputs.values() for one in some]))
        parts = {key: [Part(IMAGE, next(codes)) for _ in some] for key, some in inputs.items()}
        parts = self.encoded | parts
        self.encoded = {key: some for key, some in parts.items() if isinstance(key[0], bytes)}
        return [(number, _with_parts(document, some, parts)) for number, document, some in kept]

    def _inputs(self, raw: RawImage, whole: bool) -> list[Tensor]:
        """An image, or its tiles, as the image tokenizer takes them."""
        config = self.config
        image = open_image(raw)
        images = [image]
        try:
            if config.large_images == "tile" and config.max_side is not None:
                images = tiles(image, config.max_side)
            return [
                self.tokenizer.prepare(
                    IMAGE,
                    one,
                    whole=whole,
                    policy=config.policy,
                    max_side=config.max_side,
                    max_positions=config.max_positions,
                )
                for one in images
            ]
        except ValueError as error:
            raise Unusable("unreadable image", str(error)) from None

    def _conversation(self, row: int, parts: list[Part]) -> Iterator[Document]:
        """A conversation. If it is longer than a window, the last answers are left out with their prompts."""
        turns = turns_of(parts)
        fitting = fitting_turns(turns, self.vocab, self.config.context_length)
        if fitting < len(turns):
            if self.config.long_documents == "drop" or not fitting:
                self._drop(row, "conversation longer than a window")
                return
            self.tally.split += 1
            self._drop(row, "last turns of a conversation longer than a window")
        self._add_piece([part for turn in turns[:fitting] for part in turn])
        yield conversation_tokens(turns[:fitting], self.vocab, eos=fitting == len(turns))

    def _pieces(self, row: int, parts: list[Part]) -> Iterator[Document]:
        """A document, or its pieces if it is longer than a window."""
        room = self.config.context_length - 2  # bos and eos
        if sum(tokens_of(part, self.vocab) for part in parts) > room:
            if self.config.long_documents == "drop":
                self._drop(row, "document longer than a window")
                return
            self.tally.split += 1
            parts = cut_texts(parts, room)
            for part in parts:
                if tokens_of(part, self.vocab) > room:
                    self._drop(row, f"{part.kind} larger than a window")
            parts = [part for part in parts if tokens_of(part, self.vocab) <= room]
        found = list(pieces(parts, self.vocab, room))
        for number, piece in enumerate(found, 1):
            self._add_piece(piece)
            yield document_tokens(piece, self.vocab, eos=number == len(found))

    def _add_piece(self, parts: Sequence[Part]) -> None:
        self.tally.pieces += 1
        self.tally.images += sum(part.kind == IMAGE for part in parts)

    def _count(self, tokens: np.ndarray) -> None:
        """Count a window and its tokens by modality."""
        self.tally.windows += 1
        modality = self.vocab.modality(torch.from_numpy(tokens[tokens != self.vocab.pad]).long())
        counts = torch.bincount(modality, minlength=len(self.vocab.names)).tolist()
        self.tally.add({"tokens": dict(zip(self.vocab.names, counts))})

    def _reject(self, row: int, reason: str, detail: str = "") -> None:
        """Count and list a row that cannot be used, or fail."""
        self._list(self.tally.left_out, row, reason, detail)

    def _drop(self, row: int, reason: str) -> None:
        """Count and list a part of a row that is not used, or fail."""
        self._list(self.tally.dropped, row, reason, "")

    def _list(self, counts: dict[str, int], row: int, reason: str, detail: str) -> None:
        place = self.places.get(row, "")
        if self.config.bad_input == "fail":
            what = f"{reason}: {detail}" if detail else reason
            where = f" ({place})" if place else ""
            raise ValueError(
                f"row {row} of {self.split.name}{where} cannot be used: {what} "
                "(bad_input: skip leaves it out)"
            )
        counts[reason] = counts.get(reason, 0) + 1
        entry = {"part": self.split.name, "row": row, "place": place}
        entry |= {"reason": reason, "detail": shown(detail[:300])}
        self.rejected.append(entry)


def _key(image: RawImage, row: int, document: int, place: int, whole: bool) -> ImageKey:
    if image.data is None:
        return row, document, place
    return hashlib.blake2b(image.data, digest_size=16).digest(), whole


def _with_parts(
    document: Sequence[Stored], keys: Sequence[ImageKey], parts: Mapping[ImageKey, list[Part]]
) -> list[Segment]:
    """The document with the parts of its images, whose keys are ``keys``."""
    images = iter(keys)
    segments: list[Segment] = []
    for segment in document:
        segments += parts[next(images)] if isinstance(segment, RawImage) else [segment]
    return segments


def _check_unicode(text: str) -> None:
    """Refuse lone surrogates, which no encoding can express."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable("text with a lone surrogate", f"at character {error.start}") from None
