"""The documents of ``prepare`` -> the rows of train and validation, and of each shard."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset

from ..tokenizers.vocab import SharedVocab
from .conversations import answer_modalities, balanced
from .prepare_config import PrepareConfig
from .shapes import Plan, plan_of
from .sources import base_folder, load_source, undecoded

Row = dict[str, Any]


class Split(NamedTuple):
    """The rows of one part, train or validation."""

    name: str
    dataset: Dataset | None
    """None if the rows are streamed; they then come with the shards."""
    numbers: np.ndarray | None
    """The rows' numbers in the data set that the configuration names; None if they are 0, 1, ..."""
    plan: Plan
    folder: Path
    """What relative file names are relative to."""
    duplicates: frozenset[int] = frozenset()
    """Numbers of rows whose id an earlier row has."""
    streamed: IterableDataset | None = None
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


def splits_of(
    config: PrepareConfig, vocab: SharedVocab, unreadable: list[dict[str, Any]]
) -> dict[str, Split]:
    """Load train and, if there is one, validation.

    Args:
        vocab: The vocabulary that the documents are written with.
        unreadable: Gets an entry for each file that cannot be read.

    Raises:
        FileNotFoundError: A data set is missing.
        ValueError: A data set cannot be used.
    """

    def note(name: str, file: str, reason: str) -> None:
        unreadable.append({"part": name, "file": file, "reason": reason})

    splits: dict[str, Split] = {}
    for name, path in {"train": config.documents, "validation": config.validation}.items():
        if path is None:
            continue
        skip = partial(note, name) if config.bad_input == "skip" else None
        dataset = load_source(path, name, streaming=config.streaming, unreadable=skip)
        splits[name] = _split(config, vocab, name, path, dataset)
    train = splits["train"]
    if train.dataset is None:
        if config.validation is None and config.validation_share:
            splits["validation"] = train._replace(name="validation")
        return splits
    count = len(train.dataset)
    if not count:
        raise ValueError(f"{config.documents} has no documents")
    numbers: Any = None
    if config.validation is None and (held_out := round(count * config.validation_share)):
        order = np.random.default_rng([config.seed, 3]).permutation(count)
        chosen = np.sort(order[:held_out])
        part = train.dataset.select(chosen)
        splits["validation"] = train._replace(name="validation", dataset=part, numbers=chosen)
        numbers = np.sort(order[held_out:])
    if config.balance_answers:
        rng = np.random.default_rng([config.seed, 5])
        rows = np.arange(count) if numbers is None else numbers
        found = (train.plan.row(row) for row in train.dataset.select(rows).to_list())
        kinds = [answer_modalities(row, vocab.names, train.folder) for row in found]
        numbers = rows[balanced(kinds, rng)]
    if numbers is not None:
        splits["train"] = train._replace(dataset=train.dataset.select(numbers), numbers=numbers)
    return splits


def shards_of(config: PrepareConfig, splits: dict[str, Split]) -> Iterator[Shard]:
    """The rows of each split, ``shard_rows`` at a time. Streamed rows are read here."""
    for split in splits.values():
        if split.dataset is not None:
            rows = len(split.dataset)
            for number, start in enumerate(range(0, rows, config.shard_rows)):
                yield Shard(split.name, number, min(config.shard_rows, rows - start))
    yield from _streamed_shards(config, splits)


def _split(config: PrepareConfig, vocab: SharedVocab, name: str, path: str, dataset: Any) -> Split:
    """A data set whose columns have our names, and whose images are not decoded yet."""
    if dataset.features is None:  # streamed from files that do not state their columns
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
    readable = undecoded(dataset, columns)
    examples = (
        list(readable.take(20)) if isinstance(dataset, IterableDataset) else readable.take(20).to_list()
    )
    used = [config.id_column] if config.id_column else []
    plan = plan_of(columns, examples, path, named=config.columns, ignore=config.ignore, used=used)
    shape = plan.shape
    if shape == "conversations" and vocab.sep is None:
        raise ValueError(
            f"{path} holds conversations, but the vocabulary has no token that ends a turn: set separator: "
            "true, or use a model that has one"
        )
    if config.balance_answers and shape != "conversations":
        raise ValueError(f"balance_answers needs conversations: {path} has no messages")
    dataset = readable.select_columns(
        [n for n in columns if n in {r.split(".")[0] for r in plan.read} | {*plan.read}]
    )
    streamed = dataset if isinstance(dataset, IterableDataset) else None
    return Split(
        name,
        None if isinstance(dataset, IterableDataset) else dataset,
        None,
        plan,
        base_folder(path),
        frozenset(duplicates),
        streamed,
    )


def _streamed_shards(config: PrepareConfig, splits: dict[str, Split]) -> Iterator[Shard]:
    for split in splits.values():
        shared = split.name == "train" and config.validation is None and "validation" in splits
        if split.streamed is None or (split.name == "validation" and config.validation is None):
            continue
        waiting: dict[str, list[tuple[int, Row]]] = {}
        made = dict.fromkeys(splits, 0)
        every = max(2, round(1 / config.validation_share)) if shared else 0
        for number, row in enumerate(split.streamed):
            part = "validation" if every and (number + config.seed) % every == 0 else split.name
            rows = waiting.setdefault(part, [])
            rows.append((number, row))
            if len(rows) == config.shard_rows:
                yield _streamed_shard(part, made, waiting.pop(part))
        for part, rows in waiting.items():
            yield _streamed_shard(part, made, rows)


def _streamed_shard(part: str, made: dict[str, int], rows: list[tuple[int, Row]]) -> Shard:
    made[part] += 1
    return Shard(part, made[part] - 1, len(rows), [row for _, row in rows], [number for number, _ in rows])
