"""The documents of ``prepare`` -> the rows of train and validation, and of each shard."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import IterableDataset

from ..tokenizers.vocab import SharedVocab
from .prepare_config import PrepareConfig
from .reading.conversations import answer_modalities, balanced
from .reading.readers import FOLDER, Report, Row
from .reading.shapes import ALIASES, Plan, plan_of
from .reading.sources import Source, fail, open_source
from .reading.stored import Account, Rows, stored_rows, streamed_rows


class Split(NamedTuple):
    """The rows of one part, train or validation."""

    name: str
    rows: Rows | None
    """None if the rows are streamed; they then come with the shards."""
    numbers: np.ndarray | None
    """The rows' numbers in the data set that the configuration names; None if they are 0, 1, ..."""
    plan: Plan
    """What the columns mean."""
    folder: Path
    """What relative file names are relative to."""
    duplicates: frozenset[int] = frozenset()
    """Numbers of rows whose id an earlier row has."""
    streamed: Source | None = None
    """The source of streamed rows."""


class Shard(NamedTuple):
    """The rows of a shard."""

    part: str
    number: int
    size: int
    rows: list[Row] | None = None
    """The rows, if they are streamed."""
    numbers: Sequence[int] | None = None
    """Their numbers, if they are streamed."""

    @property
    def stem(self) -> str:
        """The name of its files without suffix: STEM.arrow, and STEM.json, which is written last."""
        return f"{self.part}-{self.number:05d}"


class Reading(NamedTuple):
    """A data set that ``prepare`` reads, and what is known of it."""

    source: Source
    plan: Plan
    account: Account
    rows: Rows | None
    """None if the rows are streamed."""


def readings_of(
    config: PrepareConfig, on_rows: Callable[[str, int], None] = lambda *_: None
) -> dict[str, Reading]:
    """Open the data sets of train and, if there is one, of validation, and store their rows unless they are
    streamed.

    Args:
        on_rows: Called now and then with a part, and the number of its rows that are stored.

    Raises:
        FileNotFoundError: A data set is missing.
        ValueError: A data set cannot be used, or has columns or files that would be lost silently.
    """
    found = {}
    for name, path in {"train": config.documents, "validation": config.validation}.items():
        if path is not None:
            found[name] = _reading(config, name, path, partial(on_rows, name))
    return found


def splits_of(config: PrepareConfig, readings: Mapping[str, Reading], vocab: SharedVocab) -> dict[str, Split]:
    """The rows of train and, if there are any, of validation.

    Args:
        vocab: The vocabulary that the documents are written with.

    Raises:
        ValueError: The vocabulary cannot write such documents, or there are none.
    """
    splits = {name: _split(config, vocab, name, reading) for name, reading in readings.items()}
    train = splits["train"]
    if train.rows is None:
        if config.validation is None and config.validation_share:
            splits["validation"] = train._replace(name="validation")
        return splits
    count = len(train.rows)
    if not count:
        raise ValueError(f"{config.documents} has no rows that can be read")
    numbers: Any = None
    if config.validation is None and (held_out := round(count * config.validation_share)):
        order = np.random.default_rng([config.seed, 3]).permutation(count)
        chosen = np.sort(order[:held_out])
        splits["validation"] = train._replace(
            name="validation", rows=train.rows.select(chosen), numbers=chosen
        )
        numbers = np.sort(order[held_out:])
    if config.balance_answers:
        rng = np.random.default_rng([config.seed, 5])
        chosen = np.arange(count) if numbers is None else numbers
        kinds = [
            answer_modalities(train.plan.row(row), vocab.names, train.folder)
            for row in train.rows.select(chosen)
        ]
        numbers = chosen[balanced(kinds, rng)]
    if numbers is not None:
        splits["train"] = train._replace(rows=train.rows.select(numbers), numbers=numbers)
    return splits


def shards_of(
    config: PrepareConfig, splits: Mapping[str, Split], readings: Mapping[str, Reading]
) -> Iterator[Shard]:
    """The rows of each split, ``shard_rows`` at a time. Streamed rows are read here."""
    for split in splits.values():
        if split.rows is not None:
            rows = len(split.rows)
            for number, start in enumerate(range(0, rows, config.shard_rows)):
                yield Shard(split.name, number, min(config.shard_rows, rows - start))
    yield from _streamed_shards(config, splits, readings)


def columns_of(config: PrepareConfig, plan: Plan, source: Source) -> list[str]:
    """The columns of the data set that are read."""
    names = [*plan.read, *([config.id_column] if config.id_column else [])]
    top = [name if name in source.columns else name.partition(".")[0] for name in names]
    return list(dict.fromkeys(top))


def folder_of(config: PrepareConfig, reading: Reading) -> Path:
    """What relative file names are relative to."""
    return Path(config.images_folder).absolute() if config.images_folder else reading.source.folder


def _report(config: PrepareConfig) -> Report:
    return fail if config.bad_input == "fail" else lambda *_: None


def look_at(config: PrepareConfig, name: str, path: str) -> Reading:
    """Open a data set and decide what is read of it, from its first rows. Nothing is stored.

    Raises:
        FileNotFoundError: The data set is missing.
        ValueError: It cannot be used, or has columns or files that would be lost silently.
    """
    source = open_source(
        path,
        name,
        streaming=config.streaming,
        ignore=config.ignore,
        follow_links=config.follow_links,
        strict=True,
    )
    if not source.columns:
        problems: list[str] = []
        rows = streamed_rows(source, [], Account(), lambda file, why: problems.append(f"{file}: {why}"))
        next(rows, None)
        reasons = "; ".join(problems[:3]) or "it is empty"
        raise ValueError(f"{source.name} has no rows that can be read: {reasons}")
    return Reading(source, _plan(config, source, []), Account(), None)


def _reading(config: PrepareConfig, name: str, path: str, on_rows: Callable[[int], None]) -> Reading:
    reading = look_at(config, name, path)
    source, plan, _, _ = reading
    if config.streaming and (source.listing is not None or isinstance(source.dataset, IterableDataset)):
        return reading
    report = _report(config)
    rows, account = stored_rows(source, columns_of(config, plan, source), report, on_rows)
    if account.late and (late := plan_with(config, source, account)) != plan:
        plan = late
        rows, account = stored_rows(source, columns_of(config, plan, source), report, on_rows)
    return Reading(source, plan, account, rows)


def plan_with(config: PrepareConfig, source: Source, account: Account) -> Plan:
    """The plan when the columns are known that the first rows did not have.

    Raises:
        ValueError: One of them looks like content, and is not used.
    """
    return _plan(config, source, account.late_rows())


def _plan(config: PrepareConfig, source: Source, more: Sequence[Row]) -> Plan:
    examples = [*source.examples, *more]
    columns = list(dict.fromkeys([*source.columns, *(name for row in more for name in row)]))
    named = dict(config.columns)
    if config.class_names and not set(ALIASES["text"]) & set(columns):
        named["text"] = FOLDER
    if config.id_column and config.id_column not in columns:
        raise ValueError(
            f"{source.name} has no column {config.id_column!r} (id_column), only {', '.join(columns)}"
        )
    used = [config.id_column] if config.id_column else []
    return plan_of(columns, examples, source.name, named=named, ignore=config.ignore, used=used)


def _split(config: PrepareConfig, vocab: SharedVocab, name: str, reading: Reading) -> Split:
    source, plan, _, rows = reading
    if plan.shape == "conversations" and vocab.sep is None:
        raise ValueError(
            f"{source.name} holds conversations, but the vocabulary has no token that ends a turn: set "
            "separator: true, or use a model that has one"
        )
    if config.balance_answers and plan.shape != "conversations":
        raise ValueError(
            f"balance_answers needs conversations (messages, or prompt and completion): {source.name} holds "
            f"{plan.shape}"
        )
    duplicates: set[int] = set()
    if config.id_column and rows is not None:
        seen: set[str] = set()
        for number, value in enumerate(rows.values(config.id_column)):
            if value is not None:
                duplicates |= {number} if repr(value) in seen else set()
                seen.add(repr(value))
    streamed = source if rows is None else None
    return Split(name, rows, None, plan, folder_of(config, reading), frozenset(duplicates), streamed)


def _streamed_shards(
    config: PrepareConfig, splits: Mapping[str, Split], readings: Mapping[str, Reading]
) -> Iterator[Shard]:
    for split in splits.values():
        shared = split.name == "train" and config.validation is None and "validation" in splits
        if split.streamed is None or (split.name == "validation" and config.validation is None):
            continue
        waiting: dict[str, list[tuple[int, Row]]] = {}
        made = dict.fromkeys(splits, 0)
        every = max(2, round(1 / config.validation_share)) if shared else 0
        columns = columns_of(config, split.plan, split.streamed)
        rows = streamed_rows(split.streamed, columns, readings[split.name].account, _report(config))
        for number, row in enumerate(rows):
            part = "validation" if every and (number + config.seed) % every == 0 else split.name
            together = waiting.setdefault(part, [])
            together.append((number, row))
            if len(together) == config.shard_rows:
                yield _streamed_shard(part, made, waiting.pop(part))
        for part, together in waiting.items():
            yield _streamed_shard(part, made, together)


def _streamed_shard(part: str, made: dict[str, int], rows: list[tuple[int, Row]]) -> Shard:
    made[part] += 1
    return Shard(part, made[part] - 1, len(rows), [row for _, row in rows], [number for number, _ in rows])
