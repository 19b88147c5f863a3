"""Documents of text and images -> packed, memory-mapped windows of tokens, to train on.

The windows are made shard by shard (``shards``), by one process or many (``workers``). Finished shards are
kept in OUT/.shards until all are there; then they become OUT/train and OUT/validation. A run that was stopped
at any moment resumes with the shards that it finds, and the result is the same to the byte.
"""

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from datasets import DatasetInfo

from ..storage.files import (
    atomic_folder,
    check_folder,
    clear_temporary,
    fingerprint,
    read_json,
    write_json,
    write_text,
)
from ..storage.results import move_aside
from ..tokenizers.documents import TOKENIZER, DocumentTokenizer
from ..tokenizers.image import ImageTokenizer
from ..tokenizers.progress import Progress, progress_bars
from ..tokenizers.text import TextTokenizer
from ..tokenizers.vocab import SharedVocab
from .prepare_config import PrepareConfig
from .reading.readers import FOLDER
from .reading.shapes import unused
from .reading.stored import files_key, named_files_key
from .shards import Tally, features_of, make_shard
from .splits import Reading, Shard, Split, folder_of, plan_with, readings_of, shards_of, splits_of
from .workers import Engine, Make, make_all

RECORD = "prepare.json"
REJECTED = "rejected.jsonl"
SHARDS = ".shards"
VERSION = 4
"""Part of the key of a prepared folder: with another version it is prepared again."""
PARTS = ("train", "validation")


def prepare(
    config: PrepareConfig,
    progress: Progress | None = None,
    jobs: int = 1,
    engine: Engine = "local",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write ``config.out``.

    Nothing is done if the same configuration was prepared from the same files before. A run that was stopped
    resumes. If files changed, the same configuration is prepared again.

    Args:
        progress: Called with a part, the number of its rows that are done, and of all its rows. None shows
            progress bars.
        jobs: Number of processes, with one image tokenizer each.
        engine: Where they run: on this machine, or on the Ray cluster that ``ray.init()`` finds.
        overwrite: Move what another configuration wrote aside, instead of refusing.

    Returns:
        The content of prepare.json.

    Raises:
        FileNotFoundError: A data set or tokenizer is missing.
        ValueError: A data set or tokenizer cannot be used, or ``config.out`` holds something else.
    """
    out = Path(config.out)
    if jobs < 1:
        raise ValueError(f"jobs must be positive, got {jobs}")
    with progress_bars() if progress is None else nullcontext(progress) as report:
        readings = readings_of(config, lambda part, rows: report(f"{part}: reading", rows, None))
    key = _key(config, readings)
    if (record := _finished(out)).get("key") == key:
        shutil.rmtree(out / SHARDS, ignore_errors=True)  # of a run that was killed in its last moment
        print(f"{out} is already prepared: same configuration, same files")
        return record
    other = _made_otherwise(config)
    if other and not overwrite:
        raise ValueError(f"{out} {other}: give another folder, or --overwrite, which moves it aside")
    tokenizer = document_tokenizer(config)
    splits = splits_of(config, readings, tokenizer.vocab)
    check_folder(out)
    if other:
        inputs = ("documents", "validation", "model", "text_tokenizer", "image_tokenizer", "images_folder")
        paths = filter(None, (getattr(config, name) for name in inputs))
        move_aside(out, filter(os.path.exists, paths))
    out.mkdir(parents=True, exist_ok=True)
    clear_temporary(out)
    work = out / SHARDS / key
    work.mkdir(parents=True, exist_ok=True)
    (out / RECORD).unlink(missing_ok=True)  # it would be wrong until everything is written
    began, images = time.perf_counter(), 0
    with progress_bars() if progress is None else nullcontext(progress) as report:
        rows = _Rows(report, splits)
        todo = (shard for shard in shards_of(config, splits, readings) if not _is_made(work, shard, rows))
        for done in make_all(partial(_setup, config, splits, work), todo, jobs, engine, rows.add):
            rows.add(done.shard.part, done.rows)
            images += done.images
    seconds = time.perf_counter() - began
    record = _collect(config, key, tokenizer, splits, readings, work)
    print("\n".join(account_lines(record)))
    for reading in readings.values():
        if reading.rows is None:  # of stored rows it is known before
            try:
                plan_with(config, reading.source, reading.account)
            except ValueError as error:
                warnings.warn(f"{error}; they came after the first rows", stacklevel=2)
    if left_out := _left_out(record):
        warnings.warn(
            f"{config.documents}: {left_out:,} files, rows or parts of rows left out, see {out / REJECTED}",
            stacklevel=2,
        )
    if rows.made:
        print(f"{rows.made / seconds:,.0f} rows/s, {images / seconds:,.1f} images/s")
    return record


def document_tokenizer(config: PrepareConfig) -> DocumentTokenizer:
    """Load the tokenizer of the model, or make one of the text and the image tokenizer.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged.
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


def account_lines(record: dict[str, Any]) -> list[str]:
    """What ``prepare`` read and wrote, from prepare.json, in lines to print: nothing is left out silently."""
    lines = []
    for name in PARTS:
        if (source := record["sources"].get(name)) is not None:
            lines += read_lines(name, source)
        if (tally := record.get(name)) is not None:
            lines.append(f"{Path(record['config']['out']) / name}: {summary(tally)}")
            lines += [f"  left out  {count:,} rows: {why}" for why, count in tally["left_out"].items()]
            lines += [f"  dropped   {count:,} x {why}" for why, count in tally["dropped"].items()]
    return lines


def read_lines(part: str, source: dict[str, Any], rows: str = "") -> list[str]:
    """What was read of a source, from its entry in prepare.json.

    Args:
        rows: Said before the number of rows.
    """
    count = source["files"]
    files = "a data set" if count is None else "1 file" if count == 1 else f"{count:,} files"
    names = {
        ours: theirs if ours == theirs else f"{theirs} (as {ours})"
        for ours, theirs in source["columns"].items()
    }
    lines = [
        f"{part} is read from {source['name']}: {files}, {rows}{source['rows']:,} rows as {source['shape']}",
        f"  columns   {', '.join(names.values())}",
    ]
    if source["unused"]:
        folders = " (the name of the folder; class_names: true takes it as text)"
        names = [f"{name}{folders}" if name == source["folder_names"] else name for name in source["unused"]]
        lines.append(f"  not used  {', '.join(names)}")
    if source["ignored"]:
        lines.append(f"  ignored   {', '.join(source['ignored'])}")
    return [*lines, *(f"  not read  {some}" for some in _grouped(source["unread"]))]


def summary(tally: dict[str, Any]) -> str:
    """One line about a part, from its entry in prepare.json."""
    tokens = ", ".join(f"{number:,} {name}" for name, number in tally["tokens"].items())
    segments = ", ".join(f"{number:,} {name}s" for name, number in tally["segments"].items())
    split = f", {tally['split']:,} of them split" if tally["split"] else ""
    return (
        f"{tally['used']:,} of {tally['rows']:,} rows -> {tally['documents']:,} documents "
        f"({segments}{split}) -> {tally['windows']:,} windows, {tally['fill']:.1%} full; tokens: {tokens}"
    )


def _grouped(unread: list[list[str]]) -> list[str]:
    """Files that are not read, by reason."""
    files: dict[str, list[str]] = {}
    for file, why in unread:
        files.setdefault(why, []).append(file)
    return [
        f"{', '.join(some[:3])}{f' and {len(some) - 3:,} more' if len(some) > 3 else ''}: {why}"
        for why, some in files.items()
    ]


def _left_out(record: dict[str, Any]) -> int:
    parts = [record[name] for name in PARTS if name in record]
    counted = sum(sum(part[kind].values()) for part in parts for kind in ("left_out", "dropped"))
    return counted + sum(source["unreadable"] for source in record["sources"].values())


def _finished(out: Path) -> dict[str, Any]:
    """The record of a prepared folder; empty if the folder is not prepared, or not complete."""
    if not (out / RECORD).is_file():
        return {}
    record = read_json(out / RECORD, "a record of prepare")
    parts = [name for name in PARTS if name in record]
    return record if all((out / name).is_dir() for name in (TOKENIZER, *parts)) else {}


def _made_otherwise(config: PrepareConfig) -> str:
    """How ``config.out`` differs from what this configuration writes; "" if nothing there would be lost."""
    out = Path(config.out)
    if not (out / RECORD).is_file():
        unfinished = (out / SHARDS).is_dir() or (out / REJECTED).is_file()
        found = [name for name in (*PARTS, TOKENIZER) if (out / name).exists()]
        return f"has {found[0]}/, which prepare did not write" if found and not unfinished else ""
    before = read_json(out / RECORD, "a record of prepare").get("config", {})
    for name, value in asdict(config).items():
        usual = getattr(PrepareConfig, name, None)  # an earlier version did not have it
        old, new = (None if one in ({}, []) else one for one in (before.get(name, usual), value))
        if name != "out" and json.dumps(old) != json.dumps(new):
            return f"holds windows that were prepared with {name} {old!r}, not {value!r}"
    return ""


def _key(config: PrepareConfig, readings: Mapping[str, Reading]) -> str:
    """A hash of the configuration and of the files that it names, and that its documents name."""
    values = {name: value for name, value in asdict(config).items() if name not in ("out", "follow_links")}
    files = [
        [files_key(reading.source), named_files_key(reading.source, reading.rows, folder_of(config, reading))]
        for reading in readings.values()
    ]
    model = config.model and Path(config.model) / TOKENIZER
    tokenizers = fingerprint(config.text_tokenizer, config.image_tokenizer, model, content=True)
    return hashlib.sha256(json.dumps([VERSION, values, files, tokenizers]).encode()).hexdigest()[:16]


def _setup(config: PrepareConfig, splits: dict[str, Split], work: Path) -> Make:
    return partial(make_shard, config, document_tokenizer(config), splits, work)


class _Rows:
    """Counts the rows that are done, and reports them."""

    def __init__(self, report: Progress, splits: dict[str, Split]) -> None:
        self.report = report
        self.done = dict.fromkeys(splits, 0)
        self.totals = {
            name: None if split.rows is None else len(split.rows) for name, split in splits.items()
        }
        self.made = 0
        """Rows that this run prepared."""

    def add(self, part: str, rows: int, *, found: bool = False) -> None:
        """Add rows that are done.

        Args:
            found: An earlier run prepared them.
        """
        self.made += 0 if found else rows
        self.done[part] += rows
        self.report(part, self.done[part], self.totals[part])


def _is_made(work: Path, shard: Shard, rows: _Rows) -> bool:
    """Whether an earlier run made the shard. Its rows are then counted."""
    if not (work / f"{shard.stem}.json").is_file():
        return False
    rows.add(shard.part, shard.size, found=True)
    return True


def _collect(
    config: PrepareConfig,
    key: str,
    tokenizer: DocumentTokenizer,
    splits: dict[str, Split],
    readings: Mapping[str, Reading],
    work: Path,
) -> dict[str, Any]:
    """Put the finished shards together into the folder. Returns the content of prepare.json."""
    out = Path(config.out)
    record: dict[str, Any] = {
        "key": key,
        "config": asdict(config),
        "vocab_size": tokenizer.vocab.size,
        "context_length": config.context_length,
        "sources": {name: source_record(config, reading) for name, reading in readings.items()},
    }
    rejected: list[dict[str, Any]] = [
        {"part": name, "file": file, "reason": why}
        for name, reading in readings.items()
        for file, why in reading.account.unread
    ]
    with atomic_folder(out) as new:
        tokenizer.save(new / TOKENIZER)
        for name, split in splits.items():
            tally, files = Tally(), []
            for stem in sorted(path.with_suffix("") for path in work.glob(f"{name}-*.json")):
                shard = read_json(stem.with_suffix(".json"), "the counts of a shard")
                tally.add(shard["counts"])
                rejected += shard["rejected"]
                if shard["counts"]["windows"]:
                    files.append(stem.with_suffix(".arrow"))
            if not tally.windows:
                _write_rejected(out / REJECTED, rejected)
                found = (tally.left_out | tally.dropped).items()
                reasons = "; ".join(f"{count:,} x {why}" for why, count in found) or "it is empty"
                raise ValueError(
                    f"{config.documents}: {name} has no document that can be used: {reasons}; "
                    f"{_first(rejected)}see {out / REJECTED}"
                )
            real = sum(tally.tokens.values())
            record[name] = {**asdict(tally), "fill": real / (tally.windows * config.context_length)}
            _write_part(new / name, files, DatasetInfo(features=features_of(config, split.plan.shape)), key)
        _write_rejected(new / REJECTED, rejected)
    if "validation" not in splits:
        shutil.rmtree(out / "validation", ignore_errors=True)  # of an earlier configuration
    write_json(out / RECORD, record)
    shutil.rmtree(out / SHARDS, ignore_errors=True)
    return read_json(out / RECORD, "a record of prepare")


def source_record(config: PrepareConfig, reading: Reading) -> dict[str, Any]:
    """What prepare.json says of a source."""
    source, account, listing = reading.source, reading.account, reading.source.listing
    columns = list(dict.fromkeys([*source.columns, *account.columns]))
    return {
        "name": source.name,
        "files": None if listing is None else len(listing.files) or len(listing.pictures),
        "rows": account.rows,
        "shape": reading.plan.shape,
        "columns": {
            ours: theirs if isinstance(theirs, str) else " or ".join(theirs)
            for ours, theirs in reading.plan.columns.items()
        },
        "folder_names": FOLDER if listing is not None and listing.pictures else None,
        "unused": unused(columns, reading.plan, config.ignore),
        "ignored": [name for name in columns if name in config.ignore],
        "unread": [*([] if listing is None else map(list, listing.unread)), *map(list, account.unread)],
        "unreadable": len(account.unread),
    }


def _first(rejected: Sequence[dict[str, Any]]) -> str:
    """The first row that says more than its reason, in words."""
    entry = next((entry for entry in rejected if entry.get("detail")), None)
    return (
        ""
        if entry is None
        else f"the first: {entry['place'] or 'row ' + str(entry['row'])}: {entry['detail']}; "
    )


def _write_rejected(path: Path, rejected: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in rejected))


def _write_part(folder: Path, files: list[Path], info: DatasetInfo, key: str) -> None:
    """Write a folder like ``save_to_disk`` does, of existing files. Nothing is copied if links work."""
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
