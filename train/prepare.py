"""Documents of text and images -> packed, memory-mapped windows of tokens, to train on."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from datasets import Dataset

from ..fusion_lm.folder import TOKENIZER
from ..tokenizers.documents import DocumentTokenizer
from ..tokenizers.files import atomic_folder, read_json, write_json
from ..tokenizers.image import ImageTokenizer
from ..tokenizers.pixels import Policy
from ..tokenizers.text import TextTokenizer
from ..tokenizers.vocab import SharedVocab
from .reader import DocumentReader, Report
from .sources import base_folder, fingerprint, load_source

RECORD = "prepare.json"
VERSION = 2
"""Another one means that older prepared folders are made anew."""

Order = Literal["image_first", "text_first", "both", "coin"]


@dataclass(frozen=True)
class PrepareConfig:
    """What ``prepare`` reads and writes."""

    documents: str
    """Data set of documents: a folder of save_to_disk, an imagefolder, parquet, arrow, jsonl or webdataset
    files. Columns: `images` and `texts` (parallel lists, None where the other one speaks), or `image` and
    `text`, or `text` alone; or `messages`, conversations whose answers are learned, and their `images`."""
    out: str
    """Folder to write: tokenizer/, train/, validation/, prepare.json."""
    text_tokenizer: str | None = None
    """Folder with text.model."""
    image_tokenizer: str | None = None
    """Folder of the image tokenizer (config.json, model.safetensors)."""
    model: str | None = None
    """Model folder to fine-tune, whose tokenizers and vocabulary are taken instead of those two."""
    context_length: int = 1024
    """Tokens of a window."""
    validation: str | None = None
    """Data set of validation documents; without it, a part of the documents is held out."""
    validation_share: float = 0.01
    """Part of the documents that is held out when there is no validation set; 0: none."""
    order: Order = "coin"
    """For `image` and `text` columns: which comes first. both: two documents; coin: drawn for each row."""
    policy: Policy = "resize"
    """How images get sides that are multiples of the image tokenizer's factor: resize or pad (with white)."""
    max_side: int | None = 256
    """Larger images are scaled down until their longer side has so many pixels."""
    max_grid: int = 64
    """Largest number of rows or columns of positions that the vocabulary can say."""
    fixed_grid: tuple[int, int] | None = None
    """Rows and columns that all images have; they are then not written into the documents. Images are scaled
    and cut to them, those of a conversation's prompts padded."""
    scan: Literal["rows", "columns"] = "rows"
    """Order of an image's positions in the stream: rows (raster), or columns, which suits lines of type."""
    separator: bool = False
    """Whether the vocabulary has a token that ends the turns of conversations (`messages`)."""
    long_documents: Literal["split", "drop"] = "split"
    """Documents longer than a window: split between segments (and inside texts that are too long by
    themselves), or drop. An image that is too large for a window is dropped either way."""
    balance_answers: bool = False
    """Repeat conversations so that answers of text, of images and of both come equally often."""
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
        tokenizers = [self.text_tokenizer, self.image_tokenizer]
        if (None in tokenizers) if self.model is None else (tokenizers != [None, None]):
            raise ValueError(
                "give text_tokenizer and image_tokenizer, or the model that they are to come from"
            )
        if self.model is not None:
            fields = ("max_grid", "fixed_grid", "scan", "separator")
            if told := [name for name in fields if getattr(self, name) != getattr(type(self), name)]:
                raise ValueError(f"{told[0]} is the model's own: leave it out")


def prepare(config: PrepareConfig, report: Report | None = None) -> dict[str, Any]:
    """Write ``config.out`` and return what its prepare.json says.

    When the same configuration was prepared from the same files before, nothing is done.

    :param report: called as it goes; None shows a progress bar.
    :raises FileNotFoundError: a source is missing.  :raises ValueError: one cannot be used.
    """
    out = Path(config.out)
    key = _key(config)
    if (done := _finished(out)).get("key") == key:
        print(f"{out} is prepared already: same configuration, same files")
        return done
    tokenizer = document_tokenizer(config)
    parts = _parts(config)
    record: dict[str, Any] = {
        "key": key,
        "config": asdict(config),
        "vocab_size": tokenizer.vocab.size,
        "context_length": config.context_length,
    }
    (out / RECORD).unlink(missing_ok=True)  # from here on, and until all is written, it would not be true
    with atomic_folder(out) as new, _reporting(report) as show:
        tokenizer.save(new / "tokenizer")
        for name, (dataset, folder) in parts.items():
            reader = DocumentReader(config, tokenizer, dataset, folder, name, show)
            record[name] = asdict(reader.write(new / name))
    if "validation" not in parts:
        shutil.rmtree(out / "validation", ignore_errors=True)  # of an earlier configuration
    write_json(out / RECORD, record)
    for name in parts:
        print(f"{out / name}: {summary(record[name])}")
    return record


def document_tokenizer(config: PrepareConfig) -> DocumentTokenizer:
    """The model's, or one made of both tokenizers.

    :raises FileNotFoundError: a file is missing.  :raises ValueError: one is damaged.
    """
    if config.model is not None:
        return DocumentTokenizer.load(Path(config.model) / TOKENIZER)
    assert config.text_tokenizer is not None and config.image_tokenizer is not None
    text, image = TextTokenizer.load(config.text_tokenizer), ImageTokenizer.load(config.image_tokenizer)
    vocab = SharedVocab.build(
        text=text,
        codebook_size=image.codebook_size,
        max_grid=config.max_grid if config.fixed_grid is None else None,
        fixed_grid=config.fixed_grid,
        scan=config.scan,
        codes_per_position=image.codes_per_position,
        separator=config.separator,
    )
    return DocumentTokenizer(text, image, vocab)


def summary(counts: dict[str, Any]) -> str:
    """One line about a part."""
    tokens = ", ".join(f"{number:,} {name}" for name, number in counts["tokens"].items())
    left_out = "".join(f"; left out: {n:,} x {reason}" for reason, n in counts["left_out"].items())
    split = f" ({counts['split']:,} of them split)" if counts["split"] else ""
    return (
        f"{counts['windows']:,} windows, {counts['fill']:.1%} full, of {counts['documents']:,} documents"
        f"{split} with {counts['images']:,} images; tokens: {tokens}{left_out}"
    )


def _finished(out: Path) -> dict[str, Any]:
    """The record of a prepared folder; empty when it is none, or not whole."""
    if not (out / RECORD).is_file():
        return {}
    record = read_json(out / RECORD, "a record of prepare")
    parts = [name for name in ("train", "validation") if name in record]
    return record if all((out / name).is_dir() for name in ("tokenizer", *parts)) else {}


def _key(config: PrepareConfig) -> str:
    """A hash of the configuration and of the files that it names."""
    values = {name: value for name, value in asdict(config).items() if name != "out"}
    files = fingerprint(config.documents, config.validation)
    model = config.model and Path(config.model) / TOKENIZER
    tokenizers = fingerprint(config.text_tokenizer, config.image_tokenizer, model, content=True)
    return hashlib.sha256(json.dumps([VERSION, values, files, tokenizers]).encode()).hexdigest()[:16]


def _parts(config: PrepareConfig) -> dict[str, tuple[Dataset, Path]]:
    """The data sets of train and, if any, validation, with the folders that file names are relative to."""
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

    :raises FileNotFoundError: no such file.
    :raises ValueError: no YAML, or an unknown, missing or bad field.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found: a YAML file with the settings of prepare is expected there"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} is expected to hold settings (name: value), it holds {type(values).__name__}"
        )
    names = [f.name for f in fields(PrepareConfig)]
    if unknown := [name for name in values if name not in names]:
        raise ValueError(f"{path}: unknown setting {unknown[0]!r}; known are {', '.join(names)}")
    for name, value in values.items():
        hint = get_type_hints(PrepareConfig)[name]
        if get_origin(hint) is not Literal and not _fits(value, hint):
            raise ValueError(f"{path}: {name} is {value!r}, expected {_described(hint)}")
    try:
        return PrepareConfig(**values)
    except (TypeError, ValueError) as error:
        message = str(error).replace("PrepareConfig.__init__()", "it is")
        raise ValueError(f"{path}: {message}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML is what a field of ``PrepareConfig`` holds."""
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        fits = isinstance(value, list) and len(value) == len(parts)
        return fits and all(_fits(item, part) for item, part in zip(value, parts))
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _described(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(map(_described, get_args(hint)))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "null"}
    return names.get(hint, "two whole numbers")
