"""Rows of a data set -> documents -> packed windows in a file: the work of ``prepare``."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from torch import Tensor

from ..fusion_lm.loss import MODALITIES
from ..tokenizers.documents import TURN, DocumentTokenizer, Mark, Part, interleave
from .conversations import IMAGES, MESSAGES, answer_modalities, balanced, conversation
from .packing import pack
from .sources import RawImage, open_image, raw_images, undecoded

if TYPE_CHECKING:
    from .prepare import PrepareConfig

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many rows are done, and of how many."""
ROWS = 2000
"""Rows whose images are encoded together, by size."""
KNOWN = 100_000
"""Images whose codes are remembered, since many stand in several documents."""

Key = tuple[bytes, bool] | tuple[int, int]
"""What names an image: a digest of its file and whether all of it is to be seen, or else its row and place
among the rows at hand."""
Stored = str | RawImage | Mark
"""A segment as a row holds it."""


@dataclass
class Counts:
    """What became of the documents of one part."""

    documents: int = 0
    """Rows that were read."""
    pieces: int = 0
    """Documents in the windows: more than rows where long ones were split or both orders are kept."""
    split: int = 0
    """Rows that were longer than a window."""
    images: int = 0
    windows: int = 0
    fill: float = 0.0
    """Share of the windows' tokens that is no padding."""
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason -> how often."""

    def leave_out(self, reason: str) -> None:
        """Count something that does not get into the windows."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


class DocumentReader:
    """Turns the rows of one part, train or validation, into windows of tokens."""

    def __init__(
        self,
        config: "PrepareConfig",
        tokenizer: DocumentTokenizer,
        dataset: Dataset,
        folder: Path,
        name: str,
        show: Report,
    ) -> None:
        self.config, self.tokenizer, self.folder, self.name, self.show = config, tokenizer, folder, name, show
        columns = dataset.column_names
        self.talks = MESSAGES in columns
        """Whether the rows are conversations."""
        if self.talks and tokenizer.vocab.sep is None:
            raise ValueError(
                f"{config.documents} holds conversations, and the vocabulary has no token that ends a turn: "
                "set separator: true, or take a model that has one"
            )
        self.text_column = MESSAGES
        if self.talks:
            self.image_column = IMAGES if IMAGES in columns else None
        else:
            self.image_column = _column(
                columns, config.image_column, ("images", "image"), config.documents, False
            )
            self.text_column = _column(
                columns, config.text_column, ("texts", "text"), config.documents, self.image_column is None
            )
        used = [c for c in (self.image_column, self.text_column) if c]
        self.dataset = undecoded(dataset.select_columns(used), used)
        self.counts = Counts()
        self.codes: dict[Key, Tensor] = {}
        self.rng = np.random.default_rng([config.seed, 4, *name.encode()])
        if config.balance_answers and not self.talks:
            raise ValueError(
                f"balance_answers is for conversations: {config.documents} has no column {MESSAGES}"
            )
        if config.balance_answers and name == "train":
            kinds = [answer_modalities(messages) for messages in self.dataset[MESSAGES]]
            self.dataset = self.dataset.select(balanced(kinds, self.rng))

    def write(self, folder: Path) -> Counts:
        """Write the windows as a data set and count."""
        length, vocab = self.config.context_length, self.tokenizer.vocab
        columns = {"tokens": "int32", "documents": "int32"} | ({"learned": "int8"} if self.talks else {})
        features = Features({name: List(Value(kind), length=length) for name, kind in columns.items()})
        modality = vocab.modality(torch.arange(vocab.size)).numpy()
        real = 0
        scratch = folder.with_name(f".{folder.name}.arrow")
        with ArrowWriter(path=str(scratch), features=features) as writer:
            documents = self._documents()
            for window in pack(documents, length, vocab.pad, self.rng, self.config.shuffle_buffer):
                learned = window.tokens >= 0
                tokens = np.where(learned, window.tokens, ~window.tokens)
                kept = tokens[tokens != vocab.pad]
                for name, number in zip(MODALITIES, np.bincount(modality[kept], minlength=len(MODALITIES))):
                    self.counts.tokens[name] += int(number)
                real += len(kept)
                self.counts.windows += 1
                row = {"tokens": tokens, "documents": window.documents, "learned": learned.astype(np.int8)}
                writer.write({name: row[name] for name in columns})
            writer.finalize()
        if not self.counts.windows:
            reasons = "; ".join(self.counts.left_out) or "it is empty"
            raise ValueError(f"{self.config.documents}: no document of {self.name} can be used: {reasons}")
        self.counts.fill = real / (self.counts.windows * length)
        Dataset.from_file(str(scratch)).save_to_disk(str(folder))
        scratch.unlink()
        if broken := sum(n for reason, n in self.counts.left_out.items() if reason.startswith("image")):
            warnings.warn(
                f"{self.config.documents}: {broken} images of {self.name} were left out", stacklevel=2
            )
        return self.counts

    def _documents(self) -> Iterator[np.ndarray]:
        """The documents' tokens, int32 each no longer than a window; ~t for a token t that is not learned."""
        for start in range(0, len(self.dataset), ROWS):
            batch = self.dataset[start : start + ROWS]
            images = batch[self.image_column] if self.image_column else None
            texts = batch[self.text_column] if self.text_column else None
            count = len(images if images is not None else texts or [])
            segments = [
                self._segments(images[i] if images else None, texts[i] if texts else None)
                for i in range(count)
            ]
            yield from self._tokens(segments)
            self.counts.documents += count
            self.show(self.name, start + count, len(self.dataset))

    def _segments(self, image: Any, text: Any) -> list[Stored]:
        """The segments of one row, in the order they are stored in."""
        if self.talks:
            try:
                return conversation(text, image, self.folder)
            except ValueError as error:
                self.counts.leave_out(str(error))
                return []
        if isinstance(image, list) or isinstance(text, list):
            pictures = raw_images(image, self.folder) if image is not None else [None] * len(text)
            words = text if isinstance(text, list) else [text] if text else [None] * len(pictures)
            if len(pictures) != len(words):
                self.counts.leave_out("row whose images and texts are not parallel")
                return []
            return [s for pair in zip(pictures, words) for s in pair if s is not None and s != ""]
        pictures = raw_images(image, self.folder) if image is not None else []
        return [s for s in (*pictures, text) if s is not None and s != ""]

    def _tokens(self, rows: Sequence[list[Stored]]) -> Iterator[np.ndarray]:
        """Rows of segments -> documents; the images of all rows are encoded together, by size."""
        new: dict[Key, Tensor] = {}  # the pixels of images that were not seen before
        parsed: list[list[str | Mark | Key] | None] = []
        for number, row in enumerate(rows):
            document: list[str | Mark | Key] | None = []
            answer = False
            for place, segment in enumerate(row):
                if isinstance(segment, str | Mark):
                    answer ^= isinstance(segment, Mark)
                    document.append(segment)
                    continue
                whole = self.talks and not answer
                key = _key(segment, number, place, whole)
                if key not in self.codes and key not in new:
                    image = self._pixels(segment, whole)
                    if image is None:
                        document = None  # a caption without its picture teaches nothing true
                        self.counts.leave_out("document with such an image")
                        break
                    new[key] = image
                document.append(key)
            parsed.append(document)
        encoded = self.tokenizer.encode_images(list(new.values()))
        codes = self.codes | dict(zip(new, encoded, strict=True))
        self.codes = {key: grid for key, grid in codes.items() if isinstance(key[0], bytes)}
        if len(self.codes) > KNOWN:
            self.codes = {}
        for document in parsed:
            if self.talks:
                yield from self._conversation(self._parts(document or [], codes))
                continue
            for ordered in self._orders(document or []):
                yield from self._pieces(self._parts(ordered, codes))

    def _pixels(self, raw: RawImage, whole: bool) -> Tensor | None:
        try:
            return self.tokenizer.pixels(open_image(raw), self.config.policy, self.config.max_side, whole)
        except (ValueError, FileNotFoundError) as error:
            reason = "not found" if isinstance(error, FileNotFoundError) else "cannot be read"
            self.counts.leave_out(f"image that {'was ' if reason == 'not found' else ''}{reason}")
            return None

    def _conversation(self, parts: list[Part]) -> Iterator[np.ndarray]:
        """A conversation of which the answers are learned, and the ends of their turns.

        Of one that is longer than a window the last answers are left out, with what they answer.
        """
        if not parts:
            return
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
                self.counts.leave_out("conversation longer than a window")
                return
            self.counts.split += 1
        tokens = np.concatenate(document[:fitting])
        if fitting == len(document):
            tokens[-1] = vocab.eos
        self.counts.pieces += 1
        self.counts.images += int(np.isin(tokens, [vocab.begin_image, ~vocab.begin_image]).sum())
        yield tokens.astype(np.int32)

    def _orders(self, document: list[str | Mark | Key]) -> Iterable[list[str | Mark | Key]]:
        """The document in the order, or orders, that the configuration asks for."""
        if not document:
            return []
        pair = len(document) == 2 and not isinstance(document[0], str) and isinstance(document[1], str)
        if not pair or self.image_column is None or not self._is_pair_column():
            return [document]
        backwards = document[::-1]
        if self.config.order == "both":
            return [document, backwards]
        if self.config.order == "coin":
            return [document if self.rng.random() < 0.5 else backwards]
        return [document if self.config.order == "image_first" else backwards]

    def _is_pair_column(self) -> bool:
        return not isinstance(self.dataset.features[self.image_column], List | list)

    def _parts(self, document: Sequence[str | Mark | Key], codes: Mapping[Key, Tensor]) -> list[Part]:
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
                parts.append(("image", codes[segment]))
        return parts

    def _pieces(self, parts: list[Part]) -> Iterator[np.ndarray]:
        """The document, or the pieces of one that is longer than a window.

        Each piece begins with bos, so that every text that the model sees has a beginning; eos stands where
        the document really ends.
        """
        vocab, length = self.tokenizer.vocab, self.config.context_length
        sizes = [len(values) if kind == "text" else self._image_length(values) for kind, values in parts]
        if sum(sizes) + 2 > length:
            if self.config.long_documents == "drop":
                self.counts.leave_out("document longer than a window")
                return
            parts, sizes = self._shortened(parts, sizes, length - 2)
        while parts:
            count, room = 0, length - 2
            while count < len(parts) and sizes[count] <= room:
                room -= sizes[count]
                count += 1
            piece, parts, sizes = parts[:count], parts[count:], sizes[count:]
            self.counts.pieces += 1
            self.counts.images += sum(kind == "image" for kind, _ in piece)
            yield interleave(piece, vocab, eos=not parts).numpy().astype(np.int32)

    def _shortened(self, parts: list[Part], sizes: list[int], room: int) -> tuple[list[Part], list[int]]:
        """No part longer than ``room``: long texts are cut, images that are too large are left out."""
        self.counts.split += 1
        kept: list[Part] = []
        for (kind, values), size in zip(parts, sizes):
            if size <= room:
                kept.append((kind, values))
            elif kind == "text":
                kept += [("text", piece) for piece in values.split(room)]
            else:
                self.counts.leave_out("image larger than a window")
        return kept, [len(v) if kind == "text" else self._image_length(v) for kind, v in kept]

    def _image_length(self, codes: Tensor) -> int:
        return codes.numel() + (2 if self.tokenizer.vocab.fixed_grid else 4)


def _key(image: RawImage, row: int, place: int, whole: bool) -> Key:
    if image.data is None:
        return row, place
    return hashlib.blake2b(image.data, digest_size=16).digest(), whole


def _column(
    columns: Sequence[str], wanted: str | None, names: Sequence[str], source: str, needed: bool
) -> str | None:
    if wanted is not None and wanted not in columns:
        raise ValueError(f"{source} has no column {wanted!r}, only {', '.join(columns)}")
    found = wanted or next((name for name in names if name in columns), None)
    if found is None and needed:
        raise ValueError(f"{source} has neither images nor texts, only the columns {', '.join(columns)}")
    return found
