"""Documents of text and images -> packed, memory-mapped windows of tokens, which the transformer trains on."""

import hashlib
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from torch import Tensor

from ..fusion_lm.loss import MODALITIES
from ..tokenizers.documents import DocumentTokenizer, Part, interleave
from ..tokenizers.files import atomic_folder, read_json, write_json
from ..tokenizers.image import ImageTokenizer
from ..tokenizers.pixels import Policy, fit, to_tensor
from ..tokenizers.text import TextTokenizer
from ..tokenizers.vocab import SharedVocab
from .packing import pack
from .sources import RawImage, base_folder, fingerprint, load_source, open_image, raw_images, undecoded

RECORD = "prepare.json"
VERSION = 1
"""Another one means that older prepared folders are made anew."""

Order = Literal["image_first", "text_first", "both", "coin"]
Report = Callable[[str, int, int], None]
"""Called with what is being done, how many rows are done, and of how many."""


@dataclass(frozen=True)
class PrepareConfig:
    """What ``prepare`` reads and writes."""

    documents: str
    """Data set of documents: a folder of save_to_disk, an imagefolder, parquet, arrow, jsonl or webdataset files.
    Columns: `images` and `texts` (parallel lists, None where the other one speaks), or `image` and `text`, or
    `text` alone."""
    text_tokenizer: str
    """Folder with text.model."""
    image_tokenizer: str
    """Folder of the image tokenizer (config.json, model.safetensors)."""
    out: str
    """Folder to write: tokenizer/, train/, validation/, prepare.json."""
    context_length: int = 1024
    """Tokens of a window."""
    validation: str | None = None
    """Data set of validation documents; without it, a part of the documents is held out."""
    validation_share: float = 0.01
    """Part of the documents that is held out when there is no validation set; 0: none."""
    order: Order = "coin"
    """For `image` and `text` columns: which comes first. both: two documents; coin: drawn for each document."""
    policy: Policy = "resize"
    """How images get sides that are multiples of the image tokenizer's factor: resize or pad (with white)."""
    max_side: int | None = 256
    """Larger images are scaled down until their longer side has so many pixels."""
    max_grid: int = 64
    """Largest number of rows or columns of codes that the vocabulary can say."""
    fixed_grid: tuple[int, int] | None = None
    """Rows and columns that all images have; they are then not written into the documents."""
    scan: Literal["rows", "columns"] = "rows"
    """Order of an image's codes in the stream: rows (raster), or columns, which suits lines of type."""
    long_documents: Literal["split", "drop"] = "split"
    """Documents longer than a window: split between segments (and inside texts that are too long by
    themselves), or drop. An image that is too large for a window is dropped either way."""
    image_column: str | None = None
    """Name of the image column; default: images, else image."""
    text_column: str | None = None
    """Name of the text column; default: texts, else text."""
    shuffle_buffer: int = 10_000
    """Documents that are shuffled and packed together."""
    seed: int = 0
    """Of shuffling, coins and the held-out part."""

    def __post_init__(self) -> None:
        if self.context_length < 8:
            raise ValueError(f"context_length must be at least 8, got {self.context_length}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share must lie in [0, 1), got {self.validation_share}")
        if self.shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer must be positive, got {self.shuffle_buffer}")
        for name, allowed in (
            ("order", ("image_first", "text_first", "both", "coin")),
            ("policy", ("resize", "pad")),
            ("scan", ("rows", "columns")),
            ("long_documents", ("split", "drop")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if self.fixed_grid is not None:
            object.__setattr__(self, "fixed_grid", tuple(self.fixed_grid))


@dataclass
class Counts:
    """What became of the documents of one part."""

    documents: int = 0
    """Rows that were read."""
    pieces: int = 0
    """Documents in the windows: more than rows where long ones were split or both orders are kept."""
    images: int = 0
    windows: int = 0
    fill: float = 0.0
    """Share of the windows' tokens that is no padding."""
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> how often."""


def prepare(config: PrepareConfig, report: Report | None = None) -> dict[str, Any]:
    """Write ``config.out`` and return what its prepare.json says.

    When the same configuration was prepared from the same files before, nothing is done.

    :param report: called as it goes; None shows a progress bar.
    :raises FileNotFoundError: a source is missing.  :raises ValueError: one cannot be used.
    """
    out = Path(config.out)
    key = _key(config)
    if (out / RECORD).is_file() and (done := read_json(out / RECORD, "a record of prepare")).get("key") == key:
        print(f"{out} is prepared already: same configuration, same files")
        return done
    text, image = TextTokenizer.load(config.text_tokenizer), ImageTokenizer.load(config.image_tokenizer)
    vocab = SharedVocab.build(
        text=text,
        codebook_size=image.codebook_size,
        max_grid=config.max_grid if config.fixed_grid is None else None,
        fixed_grid=config.fixed_grid,
        scan=config.scan,
    )
    tokenizer = DocumentTokenizer(text, image, vocab)
    parts = _parts(config)
    record: dict[str, Any] = {
        "key": key,
        "config": asdict(config),
        "vocab_size": vocab.size,
        "context_length": config.context_length,
    }
    with atomic_folder(out) as new, _reporting(report) as show:
        tokenizer.save(new / "tokenizer")
        for name, (dataset, folder) in parts.items():
            reader = _Reader(config, tokenizer, dataset, folder, name, show)
            record[name] = asdict(reader.write(new / name))
        write_json(new / RECORD, record)
    if "validation" not in parts:
        shutil.rmtree(out / "validation", ignore_errors=True)  # of an earlier configuration
    for name in parts:
        print(f"{out / name}: {summary(record[name])}")
    return record


def summary(counts: dict[str, Any]) -> str:
    """One line about a part."""
    tokens = ", ".join(f"{number:,} {name}" for name, number in counts["tokens"].items())
    left_out = "".join(f"; left out: {n:,} x {reason}" for reason, n in counts["left_out"].items())
    return (
        f"{counts['windows']:,} windows, {counts['fill']:.1%} full, of {counts['documents']:,} documents with "
        f"{counts['images']:,} images; tokens: {tokens}{left_out}"
    )


def _key(config: PrepareConfig) -> str:
    """A hash of the configuration and of the files that it names."""
    values = {name: value for name, value in asdict(config).items() if name != "out"}
    files = fingerprint(config.documents, config.validation, config.text_tokenizer, config.image_tokenizer)
    return hashlib.sha256(json.dumps([VERSION, values, files]).encode()).hexdigest()[:16]


def _parts(config: PrepareConfig) -> dict[str, tuple[Dataset, Path]]:
    """The data sets of train and, if any, validation, with the folders that their file names are relative to."""
    train, folder = load_source(config.documents), base_folder(config.documents)
    if not len(train):
        raise ValueError(f"{config.documents} holds no documents")
    if config.validation is not None:
        return {
            "train": (train, folder),
            "validation": (load_source(config.validation, "validation"), base_folder(config.validation)),
        }
    held_out = round(len(train) * config.validation_share)
    if not held_out:
        return {"train": (train, folder)}
    order = np.random.default_rng([config.seed, 3]).permutation(len(train))
    return {
        "train": (train.select(np.sort(order[held_out:])), folder),
        "validation": (train.select(np.sort(order[:held_out])), folder),
    }


class _Reader:
    """Turns the rows of one part into windows."""

    def __init__(
        self,
        config: PrepareConfig,
        tokenizer: DocumentTokenizer,
        dataset: Dataset,
        folder: Path,
        name: str,
        show: Report,
    ) -> None:
        self.config, self.tokenizer, self.folder, self.name, self.show = config, tokenizer, folder, name, show
        columns = dataset.column_names
        self.image_column = _column(columns, config.image_column, ("images", "image"), config.documents, False)
        self.text_column = _column(
            columns, config.text_column, ("texts", "text"), config.documents, self.image_column is None
        )
        used = [c for c in (self.image_column, self.text_column) if c]
        self.dataset = undecoded(dataset.select_columns(used), [self.image_column] if self.image_column else [])
        self.counts = Counts()
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
            warnings.warn(f"{self.config.documents}: {broken} images of {self.name} were left out", stacklevel=2)
        return self.counts

    def _documents(self) -> Iterator[np.ndarray]:
        """The documents' tokens, int32 each no longer than a window."""
        rows = 2000  # read, and their images encoded, together
        for start in range(0, len(self.dataset), rows):
            batch = self.dataset[start : start + rows]
            images = batch[self.image_column] if self.image_column else None
            texts = batch[self.text_column] if self.text_column else None
            count = len(images if images is not None else texts or [])
            segments = [
                self._segments(images[i] if images else None, texts[i] if texts else None) for i in range(count)
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
                self.counts.left_out["row whose images and texts are not parallel"] += 1
                return []
            return [s for pair in zip(pictures, words) for s in pair if s is not None and s != ""]
        pictures = raw_images(image, self.folder) if image is not None else []
        return [s for s in (*pictures, text) if s is not None and s != ""]

    def _tokens(self, rows: Sequence[list[str | RawImage]]) -> Iterator[np.ndarray]:
        """Rows of segments -> documents; the images of all rows are encoded together, by size."""
        pixels: list[Tensor] = []
        parsed: list[list[str | int] | None] = []  # an int is a place in pixels
        for row in rows:
            document: list[str | int] | None = []
            for segment in row:
                if isinstance(segment, str):
                    document.append(segment)
                    continue
                image = self._pixels(segment)
                if image is None:
                    document = None  # a caption without its picture teaches nothing true
                    break
                document.append(len(pixels))
                pixels.append(image)
            parsed.append(document)
        codes = self.tokenizer.encode_images(pixels)
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
            self.counts.left_out[f"image that {'was ' if reason == 'not found' else ''}{reason}"] += 1
            return None

    def _orders(self, document: list[str | int]) -> Iterable[list[str | int]]:
        """The document in the order, or orders, that the configuration asks for."""
        if not document:
            return []
        pair = len(document) == 2 and isinstance(document[0], int) and isinstance(document[1], str)
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

    def _parts(self, document: Sequence[str | int], codes: Sequence[Tensor]) -> list[Part]:
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
                self.counts.left_out["document longer than a window"] += 1
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
        self.counts.left_out["whole document: split"] += 1
        kept: list[Part] = []
        for (kind, values), size in zip(parts, sizes):
            if size <= room:
                kept.append((kind, values))
            elif kind == "text":
                kept += [("text", piece) for piece in values.split(room)]
            else:
                self.counts.left_out["image larger than a window"] += 1
        return kept, [len(v) if kind == "text" else self._image_length(v) for kind, v in kept]

    def _image_length(self, codes: Tensor) -> int:
        return codes.numel() + (2 if self.tokenizer.vocab.fixed_grid else 4)


def _column(
    columns: Sequence[str], wanted: str | None, names: Sequence[str], source: str, needed: bool
) -> str | None:
    if wanted is not None and wanted not in columns:
        raise ValueError(f"{source} has no column {wanted!r}, only {', '.join(columns)}")
    found = wanted or next((name for name in names if name in columns), None)
    if found is None and needed:
        raise ValueError(f"{source} has neither images nor texts, only the columns {', '.join(columns)}")
    return found


class _reporting:
    """The caller's report, or a progress bar."""

    def __init__(self, report: Report | None) -> None:
        self.report, self.bar = report, None

    def __enter__(self) -> Report:
        if self.report is not None:
            return self.report
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True))
        self.bar.start()
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            assert self.bar is not None
            if name not in tasks:
                tasks[name] = self.bar.add_task(f"prepare {name}", total=total)
            self.bar.update(tasks[name], completed=done)

        return show

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()


def run(path: str | Path) -> None:
    """``earlyfusion prepare --config FILE``. Raises ValueError and FileNotFoundError, one line each."""
    prepare(read_config(path))


def read_config(path: str | Path) -> PrepareConfig:
    """A YAML file with the fields of ``PrepareConfig``.

    :raises FileNotFoundError: no such file.  :raises ValueError: no YAML, or an unknown, missing or bad field.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: a YAML file with the settings of prepare is expected there")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is expected to hold settings (name: value), it holds {type(values).__name__}")
    names = [f.name for f in fields(PrepareConfig)]
    if unknown := [name for name in values if name not in names]:
        raise ValueError(f"{path}: unknown setting {unknown[0]!r}; known are {', '.join(names)}")
    try:
        return PrepareConfig(**values)
    except (TypeError, ValueError) as error:
        message = str(error).replace("PrepareConfig.__init__()", "it is")
        raise ValueError(f"{path}: {message}") from None
