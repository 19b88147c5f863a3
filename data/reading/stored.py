"""The rows of a data set: stored once for random access, or streamed, and counted."""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets import config as datasets_config

from ...storage.files import write_json
from ...tokenizers.pixels import image_endings
from .readers import PLACE, Report, Row, Written, rows_of
from .sources import Source, fail

VERSION = 1
"""Part of the name of a stored data set: with another version it is stored again."""
SCHEMA = pa.schema(
    [("row", pa.large_string()), ("blobs", pa.list_(pa.large_binary())), ("names", pa.string())]
)
"""A row as JSON; the byte strings in it, which JSON cannot hold; the file names in it, as a JSON list."""
_PICTURE = re.compile(r"[^\n\r\0]{1,1000}\.[A-Za-z0-9]{2,5}")
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class Rows:
    """Rows with random access, memory-mapped."""

    dataset: Dataset
    stored: bool
    """Whether they are in the form in which ``stored_rows`` writes them."""

    def __len__(self) -> int:
        return len(self.dataset)

    def select(self, numbers: Sequence[int] | np.ndarray) -> "Rows":
        return Rows(self.dataset.select(numbers), self.stored)

    def read(self, start: int, stop: int) -> list[Row]:
        """The rows ``start`` to ``stop``."""
        columns = self.dataset[start:stop]
        if self.stored:
            return [_restored(text, blobs) for text, blobs in zip(columns["row"], columns["blobs"])]
        count = len(range(*slice(start, stop).indices(len(self.dataset))))
        return [{name: values[i] for name, values in columns.items()} for i in range(count)]

    def values(self, column: str) -> Iterator[Any]:
        """One column of all rows; None where it is absent."""
        only = self.dataset.select_columns(["row" if self.stored else column])
        for start in range(0, len(only), 1000):
            values = only[start : start + 1000]
            yield from (
                [_restored(text, ()).get(column) for text in values["row"]] if self.stored else values[column]
            )

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), 256):
            yield from self.read(start, start + 256)


@dataclass
class Account:
    """What was found while a data set was read."""

    rows: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    """Column -> rows that have a value in it. Columns of parquet and arrow files that are not used are not
    read: 0."""
    unread: list[tuple[str, str]] = field(default_factory=list)
    """Files, and lines of files, that cannot be read, and why."""
    late: list[tuple[str, list[str]]] = field(default_factory=list)
    """For each column that the first rows do not have, the first row that has it, stored; byte strings are
    cut, and hexadecimal."""

    def late_rows(self) -> list[Row]:
        return [_restored(text, [bytes.fromhex(blob) for blob in blobs]) for text, blobs in self.late]


def stored_rows(
    source: Source,
    columns: Sequence[str],
    report: Report = fail,
    on_rows: Callable[[int], None] = lambda _: None,
) -> tuple[Rows, Account]:
    """The rows of ``source`` with random access.

    Files are read once and stored in the cache of ``datasets``, one Arrow file for a data set, with the
    values of ``columns`` as they are in the files. The same files and columns are found there again.

    Args:
        columns: The columns to keep.
        report: Called for each file, and each line, that cannot be read.
        on_rows: Called now and then with the number of rows that are stored.

    Raises:
        ValueError: The cache cannot be written.
    """
    if source.listing is None:
        found = source.dataset
        account = Account(len(found), dict.fromkeys(found.features, len(found)))
        return Rows(found.select_columns([c for c in columns if c in found.features]), False), account
    key = hashlib.sha256(json.dumps([VERSION, files_key(source), sorted(columns)]).encode()).hexdigest()[:24]
    stem = Path(datasets_config.HF_DATASETS_CACHE) / "earlyfusion" / key
    record, rows = stem.with_suffix(".json"), stem.with_suffix(".arrow")
    try:
        account = Account(**json.loads(record.read_text(encoding="utf-8")))
        found = Rows(Dataset.from_file(str(rows)), True)
    except (OSError, TypeError, json.JSONDecodeError, pa.ArrowException):
        pass  # not stored yet, or not completely
    else:
        for file, why in account.unread:
            report(file, why)
        return found, account
    account = Account()
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
        scratch = rows.with_name(f"{rows.name}.{secrets.token_hex(4)}.tmp")
        try:
            _store(source, columns, scratch, account, report, on_rows)
            os.replace(scratch, rows)
        finally:
            scratch.unlink(missing_ok=True)
        write_json(record, asdict(account))
    except OSError as error:
        raise ValueError(
            f"{source.name} cannot be stored in {rows.parent}: {error.strerror or error}. Set HF_HOME to a "
            "folder with room, or streaming: true"
        ) from None
    return Rows(Dataset.from_file(str(rows)), True), account


def streamed_rows(
    source: Source, columns: Sequence[str], account: Account, report: Report = fail
) -> Iterator[Row]:
    """The rows of ``source``, one after the other. ``account`` counts them."""
    if source.listing is None:
        for row in source.dataset.select_columns([c for c in columns if c in source.columns]):
            account.rows += 1
            yield dict(row)
        return
    for row in rows_of(source.listing, partial(_note, account, report), columns):
        _count(account, row, source.columns)
        yield {name: row[name] for name in (*columns, PLACE) if name in row}


def files_key(source: Source) -> str:
    """A hash of the names, sizes and times of the files of a data set."""
    digest = hashlib.sha256()
    files = sorted(source.folder.glob("*.arrow")) if source.listing is None else source.listing.all_files()
    for file in files:
        digest.update(json.dumps([str(file), *_status(file)]).encode())
    return digest.hexdigest()[:24]


def named_files_key(source: Source, rows: Rows | None, folder: Path) -> str:
    """A hash of the sizes and times of the files that rows name.

    Args:
        rows: The stored rows; None if they are streamed. Then all pictures in the folder count, if the first
            rows name files.
        folder: What file names are relative to.
    """
    names: Iterator[str] = iter(())
    if rows is None and any(map(_file_names, source.examples)):
        names = (str(file) for file in sorted(folder.rglob("*")) if file.suffix.lower() in image_endings())
    elif rows is not None and rows.stored:
        cells = (cell.as_py() for chunk in rows.dataset.data.column("names").chunks for cell in chunk)
        names = (name for cell in cells if cell for name in json.loads(cell))
    digest = hashlib.sha256()
    for name in names:
        digest.update(json.dumps([name, *_status(folder / name)]).encode())
    return digest.hexdigest()[:24]


def _status(file: Path) -> list[int | None]:
    try:
        status = file.stat()
        return [status.st_size, status.st_mtime_ns]
    except (OSError, ValueError):
        return [None, None]


def _store(
    source: Source,
    columns: Sequence[str],
    path: Path,
    account: Account,
    report: Report,
    on_rows: Callable[[int], None],
) -> None:
    assert source.listing is not None
    rows: list[tuple[str, list[bytes], str | None]] = []
    size = 0

    def flush(writer: Any) -> None:
        nonlocal size
        if rows:
            arrays = [pa.array(values, kind.type) for values, kind in zip(zip(*rows), SCHEMA)]
            writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
            rows.clear()
            size = 0
            on_rows(account.rows)

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for row in rows_of(source.listing, partial(_note, account, report), columns):
            _count(account, row, source.columns)
            kept = {name: row[name] for name in columns if name in row}
            names = _file_names(kept)
            kept[PLACE] = row[PLACE]
            text, blobs = _plain(kept)
            rows.append((text, blobs, names))
            size += len(text) + sum(map(len, blobs))
            if len(rows) == 1000 or size > 1 << 24:
                flush(writer)
        flush(writer)


def _note(account: Account, report: Report, file: str, why: str) -> None:
    account.unread.append((file, why))
    report(file, why)


def _count(account: Account, row: Row, known: Sequence[str]) -> None:
    account.rows += 1
    counts = account.columns
    for name, value in row.items():
        if name not in counts and name != PLACE:
            counts[name] = 0
            if name not in known:
                text, blobs = _plain({k: v for k, v in row.items() if k != PLACE})
                account.late.append((text, [blob[:64].hex() for blob in blobs]))
        if value is not None and name != PLACE:
            counts[name] += 1


def _plain(row: Row) -> tuple[str, list[bytes]]:
    """A row as JSON, and the byte strings that it refers to by number."""
    blobs: list[bytes] = []
    try:
        return _encode(row), blobs
    except TypeError:  # bytes, decimals, dates
        pass

    def other(value: Any) -> Any:
        if isinstance(value, bytes):
            blobs.append(value)
            return {"\0": len(blobs) - 1}
        return {"\0": str(value)} if isinstance(value, Decimal) else str(value)  # dates and times

    return json.dumps(row, default=other, separators=(",", ":")), blobs


def _restored(text: str, blobs: Sequence[bytes]) -> Row:
    if '{"\\u0000":' not in text:
        return json.loads(text)

    def other(value: dict[str, Any]) -> Any:
        if value.keys() != {"\0"}:
            return value
        mark = value["\0"]
        if isinstance(mark, int):
            return blobs[mark] if blobs else b""
        return Written(mark)

    return json.loads(text, object_hook=other)


def _file_names(row: Mapping[str, Any]) -> str | None:
    """The strings in a row that may name pictures, as JSON."""
    found: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, str):
            if "." in value[-6:] and _PICTURE.fullmatch(value):
                found.append(value)
        elif isinstance(value, Mapping):
            for one in value.values():
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    look(row)
    return json.dumps(found) if found else None
