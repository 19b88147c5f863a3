"""Documents of text and images -> packed, memory-mapped windows of tokens, to train on.

The windows are made shard by shard (``shards``), by one process or many (``workers``). Finished shards stand
in OUT/.shards until all are there; then they become OUT/train and OUT/validation. A run that was stopped, at
any moment, goes on with the shards that are there, and the result is the same to the byte.
"""

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetInfo, IterableDataset

from ..tokenizers.documents import TOKENIZER, DocumentTokenizer
from ..tokenizers.files import (
    atomic_folder,
    check_folder,
    clear_temporary,
    fingerprint,
    read_json,
    write_json,
    write_text,
)
from ..tokenizers.image import ImageTokenizer
from ..tokenizers.text import TextTokenizer
from ..tokenizers.vocab import SharedVocab
from .conversations import answer_modalities, balanced
from .prepare_config import PrepareConfig
from .shapes import MESSAGES, shape_of, used_columns
from .shards import Block, Counts, Source, features_of, make_shard
from .sources import base_folder, load_source, undecoded
from .workers import Engine, Make, make_all

RECORD = "prepare.json"
REJECTED = "rejected.jsonl"
SHARDS = ".shards"
VERSION = 3
"""Another one means that older prepared folders are made anew."""
PARTS = ("train", "validation")

Report = Callable[[str, int, int | None], None]
"""Called with a part, how many of its rows are done, and of how many, where that is known."""


def prepare(
    config: PrepareConfig, report: Report | None = None, jobs: int = 1, engine: Engine = "local"
) -> dict[str, Any]:
    """Write ``config.out`` and return what its prepare.json says.

    When the same configuration was prepared from the same files before, nothing is done; when a run of it was
    stopped, this one goes on.

    :param report: called as it goes; None shows a progress bar.
    :param jobs: processes, with one image tokenizer each.
    :param engine: where they run: on this machine, or on the Ray cluster that ``ray.init()`` finds.
    :raises FileNotFoundError: a source is missing.  :raises ValueError: one cannot be used.
    """
    out = Path(config.out)
    if jobs < 1:
        raise ValueError(f"jobs must be positive, got {jobs}")
    key = _key(config)
    if (done := _finished(out)).get("key") == key:
        shutil.rmtree(out / SHARDS, ignore_errors=True)  # of a run that was killed in its last moment
        print(f"{out} is prepared already: same configuration, same files")
        return done
    tokenizer = document_tokenizer(config)
    unreadable: list[dict[str, Any]] = []
    sources = _sources(config, tokenizer, unreadable)
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    clear_temporary(out)
    work = out / SHARDS / key
    work.mkdir(parents=True, exist_ok=True)
    (out / RECORD).unlink(missing_ok=True)  # from here on, and until all is written, it would not be true
    began, images = time.perf_counter(), 0
    with _Progress(report, config, sources, work) as progress:
        todo = (block for block in _blocks(config, sources) if not progress.is_done(block))
        for done in make_all(partial(_setup, config, sources, work), todo, jobs, engine, progress.add):
            progress.add(done.block.part, done.rows)
            images += done.counts.images
    seconds = time.perf_counter() - began
    record = _collect(config, key, tokenizer, sources, unreadable, work)
    for name in sources:
        print(f"{out / name}: {summary(record[name])}")
    if left_out := sum(sum(record[name]["left_out"].values()) for name in sources) + len(unreadable):
        warnings.warn(
            f"{config.documents}: {left_out} rows, images or files were left out, see {out / REJECTED}",
            stacklevel=2,
        )
    if progress.rows:
        print(f"{progress.rows / seconds:,.0f} rows/s, {images / seconds:,.1f} images/s")
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
    return DocumentTokenizer(vocab, text=text, image=image)


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
    parts = [name for name in PARTS if name in record]
    return record if all((out / name).is_dir() for name in ("tokenizer", *parts)) else {}


def _key(config: PrepareConfig) -> str:
    """A hash of the configuration and of the files that it names."""
    values = {name: value for name, value in asdict(config).items() if name != "out"}
    files = fingerprint(config.documents, config.validation)
    model = config.model and Path(config.model) / TOKENIZER
    tokenizers = fingerprint(config.text_tokenizer, config.image_tokenizer, model, content=True)
    return hashlib.sha256(json.dumps([VERSION, values, files, tokenizers]).encode()).hexdigest()[:16]


def _setup(config: PrepareConfig, sources: dict[str, Source], work: Path) -> Make:
    return partial(make_shard, config, document_tokenizer(config), sources, work)


def _sources(
    config: PrepareConfig, tokenizer: DocumentTokenizer, unreadable: list[dict[str, Any]]
) -> dict[str, Source]:
    """Train and, if any, validation. What cannot be read of their files is added to ``unreadable``."""

    def note(name: str, file: str, reason: str) -> None:
        unreadable.append({"part": name, "file": file, "reason": reason})

    given = {"train": config.documents, "validation": config.validation}
    sources: dict[str, Source] = {}
    for name, path in given.items():
        if path is None:
            continue
        skip = partial(note, name) if config.bad_input == "skip" else None
        dataset = load_source(path, name, streaming=config.streaming, unreadable=skip)
        sources[name] = _source(config, tokenizer, name, path, dataset)
    train = sources["train"]
    if train.dataset is None:
        if config.validation is None and config.validation_share:
            sources["validation"] = train._replace(name="validation")
        return sources
    count = len(train.dataset)
    if not count:
        raise ValueError(f"{config.documents} holds no documents")
    numbers: Any = None
    if config.validation is None and (held_out := round(count * config.validation_share)):
        order = np.random.default_rng([config.seed, 3]).permutation(count)
        chosen = np.sort(order[:held_out])
        part = train.dataset.select(chosen)
        sources["validation"] = train._replace(name="validation", dataset=part, numbers=chosen)
        numbers = np.sort(order[held_out:])
    if config.balance_answers:
        rng = np.random.default_rng([config.seed, 5])
        rows = np.arange(count) if numbers is None else numbers
        kinds = [answer_modalities(messages) for messages in train.dataset.select(rows)[MESSAGES]]
        numbers = rows[balanced(kinds, rng)]
    if numbers is not None:
        sources["train"] = train._replace(dataset=train.dataset.select(numbers), numbers=numbers)
    return sources


def _source(
    config: PrepareConfig, tokenizer: DocumentTokenizer, name: str, path: str, dataset: Any
) -> Source:
    """A data set whose columns have our names, and whose images are not decoded yet."""
    if dataset.features is None:  # streamed, from files that do not say
        dataset = dataset._resolve_features()
    columns = list(dataset.features)
    for ours, theirs in {**config.columns, **({"id": config.id_column} if config.id_column else {})}.items():
        if theirs not in columns:
            raise ValueError(f"{path} has no column {theirs!r} (for {ours}), only {', '.join(columns)}")
    duplicates: set[int] = set()
    if config.id_column:
        seen: set[Any] = set()
        for number, value in enumerate(dataset.select_columns(config.id_column)[config.id_column]):
            if value in seen:
                duplicates.add(number)
            seen.add(value)
    for ours, theirs in config.columns.items():
        if ours != theirs:
            dataset = dataset.remove_columns([ours]) if ours in dataset.features else dataset
            dataset = dataset.rename_column(theirs, ours)
    shape = shape_of(list(dataset.features), path)
    if shape == "conversations" and tokenizer.vocab.sep is None:
        raise ValueError(
            f"{path} holds conversations, and the vocabulary has no token that ends a turn: set separator: "
            "true, or take a model that has one"
        )
    if config.balance_answers and shape != "conversations":
        raise ValueError(f"balance_answers is for conversations: {path} has no column {MESSAGES}")
    used = used_columns(shape, list(dataset.features))
    dataset = undecoded(dataset.select_columns(used), used)
    streamed = dataset if isinstance(dataset, IterableDataset) else None
    return Source(
        name,
        None if isinstance(dataset, IterableDataset) else dataset,
        None,
        shape,
        base_folder(path),
        frozenset(duplicates),
        streamed,
    )


def _blocks(config: PrepareConfig, sources: dict[str, Source]) -> Iterator[Block]:
    """The rows of each part, ``shard_rows`` at a time; streamed ones are read here."""
    for source in sources.values():
        if source.dataset is not None:
            rows = len(source.dataset)
            for number, start in enumerate(range(0, rows, config.shard_rows)):
                yield Block(source.name, number, min(config.shard_rows, rows - start))
    yield from _streamed_blocks(config, sources)


def _streamed_blocks(config: PrepareConfig, sources: dict[str, Source]) -> Iterator[Block]:
    for source in sources.values():
        shared = source.name == "train" and config.validation is None and "validation" in sources
        if source.streamed is None or (source.name == "validation" and config.validation is None):
            continue
        waiting: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        made = dict.fromkeys(sources, 0)
        every = max(2, round(1 / config.validation_share)) if shared else 0
        for number, row in enumerate(source.streamed):
            part = "validation" if every and (number + config.seed) % every == 0 else source.name
            rows = waiting.setdefault(part, [])
            rows.append((number, row))
            if len(rows) == config.shard_rows:
                yield _streamed_block(part, made, waiting.pop(part))
        for part, rows in waiting.items():
            yield _streamed_block(part, made, rows)


def _streamed_block(part: str, made: dict[str, int], rows: list[tuple[int, dict[str, Any]]]) -> Block:
    made[part] += 1
    return Block(part, made[part] - 1, len(rows), [row for _, row in rows], [number for number, _ in rows])


def _collect(
    config: PrepareConfig,
    key: str,
    tokenizer: DocumentTokenizer,
    sources: dict[str, Source],
    unreadable: list[dict[str, Any]],
    work: Path,
) -> dict[str, Any]:
    """Finished shards -> the folder, and what its prepare.json says."""
    out = Path(config.out)
    record: dict[str, Any] = {
        "key": key,
        "config": asdict(config),
        "vocab_size": tokenizer.vocab.size,
        "context_length": config.context_length,
    }
    rejected = list(unreadable)
    with atomic_folder(out) as new:
        tokenizer.save(new / TOKENIZER)
        for name, source in sources.items():
            counts, files = Counts(), []
            for stem in sorted(path.with_suffix("") for path in work.glob(f"{name}-*.json")):
                shard = read_json(stem.with_suffix(".json"), "the counts of a shard")
                counts.add(shard["counts"])
                rejected += shard["rejected"]
                if shard["counts"]["windows"]:
                    files.append(stem.with_suffix(".arrow"))
            if not counts.windows:
                reasons = "; ".join(counts.left_out) or "it is empty"
                raise ValueError(f"{config.documents}: no document of {name} can be used: {reasons}")
            real = sum(counts.tokens.values())
            record[name] = {**asdict(counts), "fill": real / (counts.windows * config.context_length)}
            _write_part(new / name, files, DatasetInfo(features=features_of(config, source.shape)), key)
        lines = (json.dumps(entry, ensure_ascii=False) for entry in rejected)
        write_text(new / REJECTED, "".join(f"{line}\n" for line in lines))
    if "validation" not in sources:
        shutil.rmtree(out / "validation", ignore_errors=True)  # of an earlier configuration
    write_json(out / RECORD, record)
    shutil.rmtree(out / SHARDS, ignore_errors=True)
    return record


def _write_part(folder: Path, files: list[Path], info: DatasetInfo, key: str) -> None:
    """A folder as save_to_disk writes it, of files that are there: nothing is copied."""
    folder.mkdir()
    names = [f"data-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
    for file, name in zip(files, names):
        try:
            os.link(file, folder / name)
        except OSError:  # a file system without links
            shutil.copyfile(file, folder / name)
    info.write_to_directory(str(folder), pretty_print=True)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": key,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state)


class _Progress:
    """What is done, for the caller's report or a progress bar."""

    def __init__(
        self, report: Report | None, config: PrepareConfig, sources: dict[str, Source], work: Path
    ) -> None:
        self.report, self.work, self.bar = report, work, None
        self.done = dict.fromkeys(sources, 0)
        self.totals = {
            name: None if source.dataset is None else len(source.dataset) for name, source in sources.items()
        }
        self.rows = 0
        """Rows of this run."""

    def is_done(self, block: Block) -> bool:
        """Whether the block's shard is there already, which is then counted."""
        if not (self.work / f"{block.stem}.json").is_file():
            return False
        self.done[block.part] += block.size
        self._show(block.part)
        return True

    def add(self, part: str, rows: int) -> None:
        """So many rows more are done."""
        self.rows += rows
        self.done[part] += rows
        self._show(part)

    def _show(self, part: str) -> None:
        if self.report is not None:
            self.report(part, self.done[part], self.totals[part])

    def __enter__(self) -> "_Progress":
        if self.report is None:
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True))
            self.bar.start()
            tasks: dict[str, Any] = {}

            def show(name: str, done: int, total: int | None) -> None:
                assert self.bar is not None
                if name not in tasks:
                    tasks[name] = self.bar.add_task(f"prepare {name}", total=total)
                self.bar.update(tasks[name], completed=done)

            self.report = show
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
