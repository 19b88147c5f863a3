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
from ..tokenizers.documents import DocumentTokenizer, Part, interleave
from ..tokenizers.pixels import fit, to_tensor
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

Key = bytes | tuple[int, int]
"""What names an image: a digest of its file, or else its row and place among the rows at hand."""


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
        self.image_column = _column(
            columns, config.image_column, ("images", "image"), config.documents, False
        )
        self.text_column = _column(
            columns, config.text_column, ("texts", "text"), config.documents, self.image_column is None
        )
        used = [c for c in (self.image_column, self.text_column) if c]
        self.dataset = undecoded(
            dataset.select_columns(used), [self.image_column] if self.image_column else []
        )
        self.counts = Counts()
        self.codes: dict[Key, Tensor] = {}
        self.rng = np.random.default_rng([config.seed, 4, *name.encode()])
        vocab = tokenizer.vocab
        self.grid = vocab.grid.count if vocab.grid else None

    def write(self, folder: Path) -> Counts:
        """Write the windows as a data set and count."""
        length, vocab = self.config.context_length, self.tokenizer.vocab
        features = Features(
            tokens=List(Value("int32"), length=length), documents=List(Value("int32"), length=length)
        )
        modality = vocab.modality(torch.arange(vocab.size)).numpy()
        real = 0
        scratch = folder.with_name(f".{folder.name}.arrow")
        with ArrowWriter(path=str(scratch), features=features) as writer:
            documents = self._documents()
            for window in pack(documents, length, vocab.pad, self.rng, self.config.shuffle_buffer):
                kept = window.tokens[window.tokens != vocab.pad]
                for name, number in zip(MODALITIES, np.bincount(modality[kept], minlength=len(MODALITIES))):
                    self.counts.tokens[name] += int(number)
                real += len(kept)
                self.counts.windows += 1
                writer.write({"tokens": window.tokens, "documents": window.documents})
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
        """The documents' tokens, int32 each no longer than a window."""
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

    def _segments(self, image: Any, text: Any) -> list[str | RawImage]:
        """The segments of one row, in the order they are stored in."""
        if isinstance(image, list) or isinstance(text, list):
            pictures = raw_images(image, self.folder) if image is not None else [None] * len(text)
            words = text if isinstance(text, list) else [text] if text else [None] * len(pictures)
            if len(pictures) != len(words):
                self.counts.leave_out("row whose images and texts are not parallel")
                return []
            return [s for pair in zip(pictures, words) for s in pair if s is not None and s != ""]
        pictures = raw_images(image, self.folder) if image is not None else []
        return [s for s in (*pictures, text) if s is not None and s != ""]

    def _tokens(self, rows: Sequence[list[str | RawImage]]) -> Iterator[np.ndarray]:
        """Rows of segments -> documents; the images of all rows are encoded together, by size."""
        new: dict[Key, Tensor] = {}  # the pixels of images that were not seen before
        parsed: list[list[str | Key] | None] = []
        for number, row in enumerate(rows):
            document: list[str | Key] | None = []
            for place, segment in enumerate(row):
                if isinstance(segment, str):
                    document.append(segment)
                    continue
                key = _key(segment, number, place)
                if key not in self.codes and key not in new:
                    image = self._pixels(segment)
                    if image is None:
                        document = None  # a caption without its picture teaches nothing true
                        self.counts.leave_out("document with such an image")
                        break
                    new[key] = image
                document.append(key)
            parsed.append(document)
        encoded = self.tokenizer.encode_images(list(new.values()))
        codes = self.codes | dict(zip(new, encoded, strict=True))
        self.codes = {key: grid for key, grid in codes.items() if isinstance(key, bytes)}
        if len(self.codes) > KNOWN:
            self.codes = {}
        for document in parsed:
            for ordered in self._orders(document or []):
                yield from self._pieces(self._parts(ordered, codes))

    def _pixels(self, raw: RawImage) -> Tensor | None:
        factor = self.tokenizer.image.factor
        limits = [self.config.max_side, self.grid and self.grid * factor]
        limit = min((side for side in limits if side), default=None)
        try:
            image = open_image(raw)
            grid = self.config.fixed_grid
            if grid is not None:
                image = image.resize((grid[1] * factor, grid[0] * factor))
            return to_tensor(fit(image, factor, self.config.policy, limit if grid is None else None))
        except (ValueError, FileNotFoundError) as error:
            reason = "not found" if isinstance(error, FileNotFoundError) else "cannot be read"
            self.counts.leave_out(f"image that {'was ' if reason == 'not found' else ''}{reason}")
            return None

    def _orders(self, document: list[str | Key]) -> Iterable[list[str | Key]]:
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

    def _parts(self, document: Sequence[str | Key], codes: Mapping[Key, Tensor]) -> list[Part]:
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
            if segment is not None:
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


def _key(image: RawImage, row: int, place: int) -> Key:
    if image.data is None:
        return row, place
    return hashlib.blake2b(image.data, digest_size=16).digest()


def _column(
    columns: Sequence[str], wanted: str | None, names: Sequence[str], source: str, needed: bool
) -> str | None:
    if wanted is not None and wanted not in columns:
        raise ValueError(f"{source} has no column {wanted!r}, only {', '.join(columns)}")
    found = wanted or next((name for name in names if name in columns), None)
    if found is None and needed:
        raise ValueError(f"{source} has neither images nor texts, only the columns {', '.join(columns)}")
    return found
