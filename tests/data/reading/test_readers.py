"""Files -> rows, with everything in them, as it is written."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from earlyfusion.data.reading.listing import list_files
from earlyfusion.data.reading.readers import PLACE, Row, rows_of


def read(path: Path, columns: list[str] | None = None) -> tuple[list[Row], list[tuple[str, str]]]:
    """The rows of a data set, and what cannot be read."""
    problems: list[tuple[str, str]] = []
    rows = list(rows_of(list_files(path), lambda file, why: problems.append((Path(file).name, why)), columns))
    assert all(row.pop(PLACE) for row in rows)
    return rows, problems


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


LINES = b'{"text": "one"}\n{"text": "two"}\n'


def _zip(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inside/rows.jsonl", data)
    return file.getvalue()


def _zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("ending", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", _zst), (".zip", _zip)],
)
def test_compressed_files(tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]):
    file = tmp_path / f"rows.jsonl{ending}"
    file.write_bytes(compress(LINES))
    assert read(file) == ([{"text": "one"}, {"text": "two"}], [])
    long = compress(b"".join(b'{"text": "%d"}\n' % number for number in range(20_000)))
    file.write_bytes(long[: len(long) // 2])
    rows, [(name, why)] = read(file)
    assert name == file.name and why
    assert [row["text"] for row in rows] == [str(number) for number in range(len(rows))]


def test_lines_of_json(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    lines = [
        b'\xef\xbb\xbf{"id": 1, "text": "7"}\r',
        b'{"id": "a", "text": 3.50, "n": 1e5}',
        b"",
        b"{broken",
        b"[1]",
        b'{"text": "\xff"}',
        b'{"id": ' + b"9" * 5000 + b', "text": "big"}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
    ]
    file.write_bytes(b"\n".join(lines))
    rows, problems = read(file)
    assert [row["text"] for row in rows] == ["7", Decimal("3.50"), "big", "\ud800"]
    assert (str(rows[1]["text"]), str(rows[1]["n"])) == ("3.50", "1e5")
    assert [name for name, _ in problems] == [f"rows.jsonl:{number}" for number in (4, 5, 6, 9)]
    file.write_text('{"text": "é"}\n', encoding="utf-16")
    assert read(file) == ([{"text": "é"}], [])


@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_a_list_or_objects_in_a_row(tmp_path: Path, indent: int | None):
    file = tmp_path / "rows.json"
    rows = [{"text": "x" * 300_000, "n": number} for number in range(8)]  # more than one piece of the file
    file.write_text(json.dumps(rows, indent=indent))
    assert read(file) == (rows, [])
    file.write_text("\n".join(json.dumps(row, indent=indent) for row in rows))
    assert read(file) == (rows, [])
    file.write_text(json.dumps(rows)[:-5])
    found, [(_, why)] = read(file)
    assert found == rows[:7] and "object 8" in why
    file.write_text(json.dumps(rows[:2])[:-1])
    assert read(file) == (
        rows[:2],
        [("rows.json", "cut short: the list has no end; 2 rows before it are used")],
    )
    file.write_text("[1, {}]")
    assert read(file) == ([{}], [("rows.json, object 1", "expected a JSON object, found a number")])


def test_cells_of_csv_are_texts(tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b'\xef\xbb\xbftext,n\r\nNA,007\r\n"a ""b""\r\nc",1e5\r\n1,2,3\r\nshort\r\n')
    rows, problems = read(file)
    assert rows == [{"text": "NA", "n": "007"}, {"text": 'a "b"\r\nc', "n": "1e5"}, {"text": "short"}]
    assert [why for _, why in problems] == ["3 cells, expected 2"]
    (tmp_path / "rows.tsv").write_text("text\tn\na, b\t1\n")
    assert read(tmp_path / "rows.tsv") == ([{"text": "a, b", "n": "1"}], [])
    file.write_text("text,text\na,b\n")
    assert "'text'" in read(file)[1][0][1]


def test_lines_of_text(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"one \r\n\r\n two")
    assert read(tmp_path / "a.txt") == ([{"text": "one "}, {"text": " two"}], [])


def test_parquet_and_arrow(tmp_path: Path):
    table = pa.table({"text": pa.array(["a", "b"]).dictionary_encode(), "n": [1, 2]})
    wrong = {"huggingface": '{"info": {"features": {"text": {"_type": "Image"}}}}'}
    pq.write_table(table.replace_schema_metadata(wrong), tmp_path / "1.parquet")
    with pa.OSFile(str(tmp_path / "2.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "3.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert read(tmp_path) == ([{"text": "a", "n": 1}, {"text": "b", "n": 2}] * 3, [])
    assert read(tmp_path, ["text"])[0] == [{"text": "a"}, {"text": "b"}] * 3
    (tmp_path / "1.parquet").write_bytes((tmp_path / "1.parquet").read_bytes()[:-40])
    (tmp_path / "3.arrow").write_bytes(b"nothing")
    rows, problems = read(tmp_path)
    assert len(rows) == 2 and [name for name, _ in problems] == ["1.parquet", "3.arrow"]


def test_webdataset(tmp_path: Path):
    members = [
        ("a/1.jpg", b"picture"),
        ("a/1.txt", b"\xef\xbb\xbfbox"),
        ("a/1.json", b'{"n": 1.50}'),
        ("a/2.PNG", b"picture"),
        ("a/._2.PNG", b"of macOS"),
        ("a/3.seg.txt", b"\xff"),
        ("a/3.txt", b"three"),
    ]
    file = tmp_path / "a.tar"
    tar(file, members)
    rows = [
        {"__key__": "a/1", "jpg": b"picture", "txt": "box", "json": {"n": Decimal("1.50")}},
        {"__key__": "a/2", "png": b"picture"},
        {"__key__": "a/3", "txt": "three"},
    ]
    found, [(name, why)] = read(file)
    assert found == rows and name == "3.seg.txt" and "utf-8" in why
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert read(tmp_path / "b.tar.gz")[0] == rows


def test_archives_that_are_cut_short(tmp_path: Path):
    """Everywhere: in a picture, in a header, and between two files."""
    file = tmp_path / "a.tar"
    tar(file, [(f"{n}.{end}", bytes([n + 1]) * 700) for n in range(6) for end in ("jpg", "png")])
    whole = file.read_bytes()
    for size in range(100, 6 * 2 * 1536, 300):
        file.write_bytes(whole[:size])
        rows, problems = read(file)
        assert [name for name, _ in problems] == ["a.tar"], size
        assert all(row["jpg"] == bytes([n + 1]) * 700 for n, row in enumerate(rows)), size
    file.write_bytes(whole[: 2 * 1536])
    assert read(file)[1] == [("a.tar", "cut short: the archive has no end; 1 rows before it are used")]
    file.write_bytes(b"<html>404</html>")
    assert [name for name, _ in read(file)[1]] == ["a.tar"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for name in ("a.png", "b.PNG", "cats/c.png", "cats/d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def test_pictures_with_metadata(pictures: Path):
    lines: list[Any] = [
        {"file_name": "a.png", "text": "first"},
        {"file_name": "a.png", "text": "second"},
        {"file_name": "none.png", "text": "missing"},
        {"file_name": "cats\\c.png", "text": "backslash"},
        {"file_name": str(pictures.absolute() / "b.PNG"), "text": "absolute"},
    ]
    (pictures / "metadata.jsonl").write_text("\n".join([*map(json.dumps, lines), "{broken"]))
    rows, problems = read(pictures)
    assert [(row["image"], row.get("text")) for row in rows] == [
        ("a.png", "first"),
        ("a.png", "second"),
        ("b.PNG", "absolute"),
        ("cats/c.png", "backslash"),
        ("cats/d.png", None),
        ("none.png", "missing"),
    ]
    assert [name for name, _ in problems] == ["metadata.jsonl:6"]
    assert read(pictures / "metadata.jsonl")[0] == rows


def test_pictures_with_files_beside_them(pictures: Path):
    (pictures / "a.txt").write_text("text of a")
    (pictures / "a.json").write_text('{"caption": "of a"}')
    (pictures / "cats/c.caption").write_text("text of c")
    (pictures / "cats/d.json").write_text("{broken")
    rows, problems = read(pictures)
    assert rows == [
        {"image": "a.png", "txt": "text of a", "json": {"caption": "of a"}},
        {"image": "b.PNG"},
        {"image": "cats/c.png", "label": "cats", "caption": "text of c"},
        {"image": "cats/d.png", "label": "cats"},
    ]
    assert [name for name, _ in problems] == ["d.json"]
