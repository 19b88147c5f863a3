"""Files -> rows. A row is a dictionary: column -> what the file says, before anybody guesses a type.

Texts stay as written: numbers of CSV are strings, numbers of JSON with a fraction are ``Written``. A line
that cannot be read is reported and skipped; a file that breaks gives the rows before the break.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from .listing import DataFile, Listing, kind_of, shown

Row = dict[str, Any]
Report = Callable[[str, str], None]
"""Called with a file, or "file:line", that cannot be read, and the reason."""

PLACE = "__place__"
"""The key under which a row says where it is from: file and number, or picture."""
FOLDER = "label"
"""The column with the name of the folder that a picture is in."""
BATCH = 64
"""Rows of parquet and arrow that are read together."""
_CHUNK = 1 << 20
_TEXTS = ("txt", "text", "caption", "cls", "cls2", "prompt")
"""Endings of text files in a webdataset."""

csv.field_size_limit(sys.maxsize)


class Broken(Exception):
    """A file, or the rest of it, cannot be read."""


class Refused(ValueError):
    """What a ``Report`` raises to stop the reading."""


def rows_of(listing: Listing, report: Report, columns: Collection[str] | None = None) -> Iterator[Row]:
    """The rows of a data set, file by file.

    Args:
        columns: Columns to read; None reads all. Others may come too.
        report: Called for what cannot be read; reading resumes behind it. It may raise ``Refused`` to stop.
    """
    if listing.pictures:
        for row in _pictures(listing, report):
            row[PLACE] = shown(_first_name(row))
            yield row
        return
    for file in listing.files:
        name = shown(os.path.relpath(file.path, listing.folder))
        for number, row in enumerate(file_rows(file, report, columns), 1):
            row[PLACE] = f"{name}, row {number}"
            yield row


def file_rows(file: DataFile, report: Report, columns: Collection[str] | None = None) -> Iterator[Row]:
    """The rows of one file. See ``rows_of``."""
    name, count = shown(file.path), 0
    rows = _READERS[file.kind](file.path, report, columns)
    while True:
        try:
            row = next(rows, None)
        except Refused:
            raise
        except Exception as error:  # libraries raise whatever damaged bytes make of their parsing
            cause = f"not UTF-8: {error}" if isinstance(error, UnicodeDecodeError) else reason(error)
            report(name, f"{cause}; {count:,} rows before it are used" if count else cause)
            return
        if row is None:
            return
        count += 1
        yield row


def reason(error: BaseException) -> str:
    """The first line of an error, and its cause if a library hides it."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The bytes of a file, without its compression."""
    ending = path.suffix.lower()
    if ending in (".gz", ".tgz"):
        with gzip.open(path) as file:
            yield file
    elif ending == ".bz2":
        with bz2.open(path) as file:
            yield file
    elif ending == ".xz":
        with lzma.open(path) as file:
            yield file
    elif ending == ".zst":
        with path.open("rb") as plain, pa.CompressedInputStream(plain, "zstd") as stream:
            yield io.BufferedReader(_Raw(stream))
    else:
        with path.open("rb") as file:
            yield file


class _Raw(io.RawIOBase):
    """A stream of pyarrow for Python's readers."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


Reader = Callable[[Path, Report, Collection[str] | None], Iterator[Row]]


def _unzipped(read: Callable[[IO[bytes], str, Report], Iterator[Row]]) -> Reader:
    """A reader of a stream, for a file that may be compressed, or a ZIP archive of several such files."""

    def reader(path: Path, report: Report, columns: Collection[str] | None) -> Iterator[Row]:
        if path.suffix.lower() != ".zip":
            with _opened(path) as file:
                yield from read(file, shown(path), report)
            return
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                inner = PurePosixPath(member.filename)
                name = f"{shown(path)}/{shown(member.filename)}"
                if member.is_dir() or "__MACOSX" in inner.parts or inner.name.startswith("."):
                    continue
                if kind_of(Path(inner)) != kind_of(path):
                    report(name, f"unknown ending {inner.suffix!r} in an archive of {kind_of(path)}")
                    continue
                with archive.open(member) as file:
                    yield from read(file, name, report)

    return reader


def _text(file: IO[bytes], newline: str | None = "") -> io.TextIOWrapper:
    """UTF-8, or what a byte order mark says."""
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)  # type: ignore[type-var]
    utf16 = buffered.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
    return io.TextIOWrapper(buffered, "utf-16" if utf16 else "utf-8-sig", newline=newline)


class Written(Decimal):
    """A number that remembers how it was written: 3.50, 1e5."""

    digits: str

    def __new__(cls, digits: str) -> "Written":
        number = super().__new__(cls, digits)
        number.digits = digits
        return number

    def __str__(self) -> str:
        return self.digits


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 4000 else Written(digits)


_DECODER = json.JSONDecoder(parse_float=Written)
_CAREFUL = json.JSONDecoder(parse_float=Written, parse_int=_integer)


def _decoded(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of thousands of digits
        return _CAREFUL.decode(text)


def _json_lines(file: IO[bytes], name: str, report: Report) -> Iterator[Row]:
    first = file.read(2)
    if first in (b"\xff\xfe", b"\xfe\xff"):
        lines: Iterator[bytes] = (
            line.encode() for line in io.TextIOWrapper(_Again(first, file), "utf-16", newline="\n")
        )
    else:
        lines = iter(io.BufferedReader(_Again(first, file)))
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            row = _decoded(line.decode())
        except (ValueError, RecursionError) as error:
            report(f"{name}:{number}", f"not JSON in UTF-8: {reason(error)}")
            continue
        if isinstance(row, dict):
            yield row
        else:
            report(f"{name}:{number}", f"expected a JSON object, found {_kind(row)}")


class _Again(io.RawIOBase):
    """A stream whose first bytes were read already."""

    name = ""

    def __init__(self, first: bytes, rest: IO[bytes]) -> None:
        self.first, self.rest = first, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.first[: len(buffer)] or self.rest.read(len(buffer))
        self.first = self.first[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _json(file: IO[bytes], name: str, report: Report) -> Iterator[Row]:
    """A list of objects, or objects one after the other, without holding all of them in memory."""
    stream = _text(file)
    text, at, number, listed = stream.read(_CHUNK), 0, 0, False
    while True:
        while at < len(text) and (text[at] in " \t\r\n" or (listed and text[at] == ",")):
            at += 1
        if at == len(text):
            text, at = stream.read(_CHUNK), 0
            if not text:
                if listed:
                    raise Broken("cut short: the list has no end")
                return
            continue
        if not listed and number == 0 and text[at] == "[":
            listed, at = True, at + 1
            continue
        if listed and text[at] == "]":
            if rest := (text[at + 1 :] + stream.read(_CHUNK)).strip():
                raise Broken(f"unexpected {rest[:20]!r} behind the list")
            return
        try:
            row, at = _CAREFUL.raw_decode(text, at)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(text) - 16 or error.msg.startswith("Unterminated string")
            more = stream.read(max(_CHUNK, len(text))) if cut else ""
            if not more:
                raise Broken(f"object {number + 1} is not JSON: {error.msg}") from None
            text, at = text[at:] + more, 0
            continue
        number += 1
        if isinstance(row, dict):
            yield row
        else:
            report(f"{name}, object {number}", f"expected a JSON object, found {_kind(row)}")


def _csv(file: IO[bytes], name: str, report: Report) -> Iterator[Row]:
    text = _text(file)
    header = text.readline()
    lines = csv.reader(chain([header], text), delimiter=max(",\t;", key=header.count))
    names = next(lines, [])
    if twice := {column for column in names if names.count(column) > 1}:
        raise Broken(f"two columns are called {sorted(twice)[0]!r}")
    for cells in lines:
        if not cells:
            continue
        if len(cells) > len(names):
            report(f"{name}:{lines.line_num}", f"{len(cells)} cells, expected {len(names)}")
            continue
        yield dict(zip(names, cells))


def _txt(file: IO[bytes], name: str, report: Report) -> Iterator[Row]:
    """Each line that is not empty is a text."""
    for line in _text(file, newline=None):
        if line.strip():
            yield {"text": line.removesuffix("\n")}


def _parquet(path: Path, report: Report, columns: Collection[str] | None) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        wanted = names if columns is None else [name for name in names if name in columns]
        if not wanted:
            yield from ({} for _ in range(file.metadata.num_rows))
            return
        for batch in file.iter_batches(BATCH, columns=wanted):
            batch.validate(full=True)
            yield from batch.to_pylist()


def _arrow(path: Path, report: Report, columns: Collection[str] | None) -> Iterator[Row]:
    with pa.memory_map(str(path)) as source:
        try:
            batches: Any = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            source.seek(0)
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
        for batch in batches:
            batch.validate(full=True)  # damaged offsets would point outside the file, and end the process
            wanted = [name for name in batch.schema.names if columns is None or name in columns]
            if not wanted:
                yield from ({} for _ in range(batch.num_rows))
            for start in range(0, batch.num_rows if wanted else 0, BATCH):
                yield from batch.select(wanted).slice(start, BATCH).to_pylist()


def _tar(path: Path, report: Report, columns: Collection[str] | None) -> Iterator[Row]:
    """The samples of a webdataset: consecutive files with one name up to the first dot, ending -> content."""
    key, row = None, {}
    with _opened(path) as stream:
        counted: Any = _Counted(stream)
        with tarfile.open(fileobj=counted, mode="r|") as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                stem, _, ending = place.name.partition(".")
                if not member.isfile() or not stem:  # folders, links, and what macOS hides
                    continue
                name, ending = str(place.parent / stem), ending.lower()
                if name != key or ending in row:
                    if row:
                        yield row
                    key, row = name, {"__key__": name}
                data = archive.extractfile(member)
                assert data is not None
                try:
                    row[ending] = _content(data.read(), ending)
                except (ValueError, RecursionError) as error:
                    report(f"{shown(path)}/{shown(member.name)}", reason(error))
        while counted.read(_CHUNK):
            pass
    if row:
        yield row
    if counted.last.strip(b"\0") or counted.size % 512:
        raise Broken("cut short: the archive has no end")


class _Counted:
    """A stream that remembers how much was read, and its last bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.last = file, 0, b"\1"

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.size += len(data)
        self.last = (self.last + data)[-512:] if data else self.last
        return data


def _content(data: bytes, ending: str) -> Any:
    last = ending.rpartition(".")[2]
    if last in _TEXTS:
        return data.decode("utf-8-sig")
    return _decoded(data.decode("utf-8-sig")) if last == "json" else data


def _pictures(listing: Listing, report: Report) -> Iterator[Row]:
    """A row for each picture, with the columns that metadata files, or files beside it and the name of its
    folder, give it.

    A picture that several lines of the metadata name has several rows. Lines that name no picture of the
    folder come last.
    """
    lines: dict[str, list[Row]] = {}
    for file in listing.metadata:
        kind = kind_of(file)
        assert kind is not None
        for row in file_rows(DataFile(file, kind), report):
            where = file.parent.relative_to(listing.folder)
            named = _with_paths(row, where, listing.folder)
            lines.setdefault(_first_name(named), []).append(named)
    inside = {str(file.relative_to(listing.folder)) for file in listing.pictures}
    taken = {name for rows in lines.values() for row in rows for name in _names(row)} & inside
    for picture in listing.pictures:
        name = str(picture.relative_to(listing.folder))
        if name in lines:
            yield from lines.pop(name)
        elif name not in taken:
            label = {} if picture.parent == listing.folder else {FOLDER: picture.parent.name}
            yield {"image": name} | label | _beside(picture, listing, report)
    for rows in lines.values():
        yield from rows


def _with_paths(row: Row, where: Path, folder: Path) -> Row:
    """A line of metadata: file_name becomes image, and X_file_name X, with paths relative to the folder."""
    found: Row = {}
    for name, value in row.items():
        if not name.endswith(("file_name", "file_names")):
            found[name] = value
            continue
        plural = name.endswith("s")
        column = name.removesuffix("file_names" if plural else "file_name").removesuffix("_")
        column = column or ("images" if plural else "image")
        names = value if isinstance(value, list) else [value]
        paths = [_joined(one, where, folder) if isinstance(one, str) and one else one for one in names]
        found[column] = paths if isinstance(value, list) else paths[0]
    return found


def _joined(name: str, where: Path, folder: Path) -> str:
    if not (folder / where / name).exists() and (folder / where / name.replace("\\", "/")).exists():
        name = name.replace("\\", "/")
    path = Path(name)
    if path.is_absolute():
        return str(path.relative_to(folder.absolute())) if path.is_relative_to(folder.absolute()) else name
    return str(where / path)


def _names(row: Row) -> list[str]:
    values = [value for value in row.values() if isinstance(value, str | list)]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return [one for one in flat if isinstance(one, str)]


def _first_name(row: Row) -> str:
    for column in ("image", "images"):
        value = row.get(column)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str):
            return value
    return ""


def _beside(picture: Path, listing: Listing, report: Report) -> Row:
    """What the files beside a picture say, by their ending."""
    row: Row = {}
    for ending in ("txt", "caption", "json"):
        for file in (picture.with_suffix(f".{ending}"), picture.with_suffix(f".{ending.upper()}")):
            if file in listing.sidecars:
                try:
                    row[ending] = _content(file.read_bytes(), ending)
                except (ValueError, OSError, RecursionError) as error:
                    report(shown(file), reason(error))
    return row


def _kind(value: Any) -> str:
    names = {str: "a string", list: "a list", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


_READERS: dict[str, Reader] = {
    "jsonl": _unzipped(_json_lines),
    "json": _unzipped(_json),
    "csv": _unzipped(_csv),
    "txt": _unzipped(_txt),
    "parquet": _parquet,
    "arrow": _arrow,
    "tar": _tar,
}
