"""Makes small data sets of every kind, damages half of them, and reads each, stored and streamed.

    .venv/bin/python benchmarks/studies/reliability/fuzz_sources.py --sources 5000 --out fuzz_sources.json

Files of rows (JSON lines, JSON, CSV, TSV, text, parquet, arrow, webdataset), pictures with metadata or
with files beside them, compressed or not, in several encodings, under odd names, with unused columns of
changing types. The documents are known before they are written. Checked for each source:

- nothing but a ``ValueError`` or ``FileNotFoundError`` of one line comes out of it;
- stored and streamed reading give the same documents, rejections and unreadable files;
- every row is used, or left out with a reason;
- all documents of an undamaged source are there, and nothing else; of a damaged one those of all other
  files.
"""

import argparse
import base64
import bz2
import csv
import gzip
import io
import json
import lzma
import random
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from earlyfusion.benchmarks.speed.machine import write_figures
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.data.reading.cells import RawImage, Unusable, open_image
from earlyfusion.data.reading.rows import documents_of
from earlyfusion.data.reading.stored import streamed_rows
from earlyfusion.data.splits import columns_of, folder_of, readings_of
from earlyfusion.tokenizers.documents import Mark

Document = tuple[str, ...]
"""Texts, and for each picture "[color]", which no other picture has."""

SCRIPT = "benchmarks/studies/reliability/fuzz_sources.py"
FORBIDDEN = ("Traceback", "An error occurred while generating", "\n")
WORDS = (
    "7",
    "true",
    "null",
    "3.50",
    '"quoted"',
    "[1, 2]",
    "NA",
    "nan",
    "1e5",
    "2026-11-28",
    "é",
    "e\u0301",
    "👩‍👩‍👧",
)
NAMES = (
    "food",
    "music",
    "web-dev-forum",
    "test-drive",
    "train-1",
    "[a]*?",
    "with space",
    "é",
    "a.b",
    "part-0",
)
ENDINGS = ("jpg", "png", "webp", "PNG")


class Made(NamedTuple):
    """A source, and what is in it."""

    path: Path
    options: dict[str, Any]
    documents: dict[Path, list[Document]]
    """File -> the documents of its rows. Pictures that rows name count as files of their own."""
    needs: dict[Path, list[Document]]
    """Picture file -> the documents that it is in."""


class Row(NamedTuple):
    text: str
    color: int

    @property
    def document(self) -> Document:
        return f"[{self.color}]", self.text


def picture(color: int, ending: str = "png") -> bytes:
    """A small picture of one color, which survives every format that is used."""
    image = Image.new("RGB", (8, 8), (color >> 16, (color >> 8) & 255, color & 255))
    out = io.BytesIO()
    kind = {"jpg": "PNG", "png": "PNG", "webp": "WEBP", "PNG": "PNG"}[ending]
    image.save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


def some_rows(rng: random.Random, count: int) -> list[Row]:
    return [
        Row(f"number {rng.randrange(10**9)} {rng.choice(WORDS)}", rng.randrange(1 << 24))
        for _ in range(count)
    ]


def unused(rng: random.Random) -> dict[str, Any]:
    """Columns that are not used, of types that change from row to row."""
    cells: dict[str, Any] = {
        "id": rng.choice((1, "a", None, 2.5)),
        "url": "http://x/y",
        "score": rng.choice((0.5, 1, None, "NaN")),
        "width": 8,
    }
    return {name: value for name, value in cells.items() if rng.random() < 0.5}


def encoded(text: str, rng: random.Random) -> bytes:
    """As bytes: UTF-8 with or without a mark, or UTF-16."""
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16")))


def compressed(path: Path, data: bytes, rng: random.Random) -> Path:
    """Write a file, compressed or not."""
    ending, compress = rng.choice(
        (
            ("", bytes),
            ("", bytes),
            ("", bytes),
            (".gz", gzip.compress),
            (".bz2", bz2.compress),
            (".xz", lzma.compress),
        )
    )
    path = path.with_name(path.name + ending)
    path.write_bytes(compress(data))
    return path


def in_json(row: Row, shape: str, image: Any) -> tuple[dict[str, Any], Document]:
    """A row in one of the shapes of JSON, and its document."""
    mark, text = f"[{row.color}]", row.text
    if shape == "texts":
        return {"text": text}, (text,)
    if shape == "captions":
        return {"caption": text, "image": image}, (mark, text)
    if shape == "parallel":
        return {"images": [image, None], "texts": [None, text]}, (mark, text)
    if shape == "llava":
        said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": text}]
        return {"image": image, "conversations": said}, (mark, "What?", text)
    if shape == "messages":
        asked = [{"type": "text", "text": "What?"}, {"type": "image", "image": image}]
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": text}]}, (
            "What?",
            mark,
            text,
        )
    return {"image": image, "text": text}, (mark, text)


def json_files(folder: Path, rng: random.Random) -> Made:
    kind = rng.choice(("jsonl", "json"))
    shape = rng.choice(("texts", "pairs", "captions", "parallel", "llava", "messages"))
    stored = rng.choice(("name", "base64", "data"))
    documents: dict[Path, list[Document]] = {}
    needs: dict[Path, list[Document]] = {}
    for number in range(rng.randrange(1, 4)):
        objects, found = [], []
        for index, row in enumerate(some_rows(rng, rng.randrange(1, 6))):
            data = picture(row.color)
            image: str = base64.b64encode(data).decode()
            if stored == "data":
                image = f"data:image/png;base64,{image}"
            if stored == "name":
                image = f"pictures/{number}-{index}.png"
            cells, document = in_json(row, shape, image)
            if stored == "name" and shape != "texts":
                (folder / "pictures").mkdir(exist_ok=True)
                (folder / image).write_bytes(data)
                needs[folder / image] = [document]
            objects.append(unused(rng) | cells)
            found.append(document)
        between = rng.choice(("\n", "\r\n"))
        ascii_only = rng.random() < 0.5
        lines = [json.dumps(one, ensure_ascii=ascii_only) for one in objects]
        text = between.join(lines) if kind == "jsonl" else json.dumps(objects, indent=rng.choice((None, 1)))
        name = f"{NAMES[number]}{rng.choice(NAMES)}.{kind}"
        documents[compressed(folder / name, encoded(text, rng), rng)] = found
    return Made(folder, {}, documents, needs)


def tables(folder: Path, rng: random.Random) -> Made:
    kind = rng.choice(("csv", "tsv", "txt"))
    documents: dict[Path, list[Document]] = {}
    for number in range(rng.randrange(1, 4)):
        rows = some_rows(rng, rng.randrange(1, 6))
        if kind == "txt":
            text = rng.choice(("\n", "\r\n")).join(row.text for row in rows)
        else:
            out = io.StringIO()
            writer = csv.writer(
                out, delimiter="," if kind == "csv" else "\t", lineterminator=rng.choice(("\n", "\r\n"))
            )
            writer.writerow(["id", "text", "score"])
            writer.writerows([rng.choice(("1", "a", "")), row.text, "NA"] for row in rows)
            text = out.getvalue()
        name = f"{NAMES[number]}{rng.choice(NAMES)}.{kind}"
        documents[compressed(folder / name, encoded(text, rng), rng)] = [(row.text,) for row in rows]
    return Made(folder, {}, documents, {})


def columnar(folder: Path, rng: random.Random) -> Made:
    kind = rng.choice(("parquet", "arrow", "saved"))
    stored = rng.choice(("bytes", "struct", "base64"))
    documents: dict[Path, list[Document]] = {}
    for number in range(1 if kind == "saved" else rng.randrange(1, 4)):
        rows = some_rows(rng, rng.randrange(1, 6))
        data = [picture(row.color) for row in rows]
        images: list[Any] = {
            "bytes": data,
            "struct": [{"bytes": one, "path": None} for one in data],
            "base64": [base64.b64encode(one).decode() for one in data],
        }[stored]
        table = pa.table(
            {"image": images, "text": [row.text for row in rows], "id": [rng.random() for _ in rows]}
        )
        if rng.random() < 0.3:
            table = table.set_column(1, "text", table["text"].dictionary_encode())
        path = folder / f"{NAMES[number]}{rng.choice(NAMES)}.{kind}"
        if kind == "parquet":
            pq.write_table(table, path)
        elif kind == "arrow":
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        else:
            datasets.Dataset(pa.table({"image": images, "text": [row.text for row in rows]})).save_to_disk(
                str(folder)
            )
            [path] = folder.glob("*.arrow")
        documents[path] = [row.document for row in rows]
    return Made(folder, {}, documents, {})


def archives(folder: Path, rng: random.Random) -> Made:
    documents: dict[Path, list[Document]] = {}
    ending = rng.choice(("txt", "caption", "json"))
    for number in range(rng.randrange(1, 4)):
        rows = some_rows(rng, rng.randrange(1, 6))
        out = io.BytesIO()
        with tarfile.open(
            fileobj=out, mode="w", format=rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
        ) as tar:
            for index, row in enumerate(rows):
                text = row.text if ending != "json" else json.dumps({"caption": row.text, "url": "http://x"})
                kind = rng.choice(ENDINGS)
                for name, data in ((kind, picture(row.color, kind)), (ending, text.encode())):
                    info = tarfile.TarInfo(f"{number:05d}{index:04d}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        path = compressed(folder / f"{NAMES[number]}{rng.choice(NAMES)}.tar", out.getvalue(), rng)
        documents[path] = [row.document for row in rows]
    return Made(folder, {}, documents, {})


def pictures(folder: Path, rng: random.Random) -> Made:
    how = rng.choice(("jsonl", "csv", "txt", "json", "classes", "alone"))
    rows = some_rows(rng, rng.randrange(1, 8))
    documents: dict[Path, list[Document]] = {}
    needs: dict[Path, list[Document]] = {}
    lines: list[tuple[str, str]] = []
    for number, row in enumerate(rows):
        name = f"{rng.choice(NAMES)}/{number}{rng.choice(NAMES)}.{rng.choice(('png', 'PNG', 'jpg'))}"
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(row.color))
        document = row.document
        if how == "alone":
            document = (f"[{row.color}]",)
        elif how == "classes":
            document = (f"[{row.color}]", path.parent.name)
        elif how in ("txt", "json"):
            text = row.text if how == "txt" else json.dumps({"caption": row.text})
            path.with_suffix(f".{how}").write_bytes(text.encode(rng.choice(("utf-8", "utf-8-sig"))))
            needs[path.with_suffix(f".{how}")] = [document]
        needs[path] = [document]
        lines.append((name, row.text))
    if how == "jsonl":
        text = "\n".join(json.dumps({"file_name": name, "text": text, **unused(rng)}) for name, text in lines)
        (folder / "metadata.jsonl").write_bytes(encoded(text, rng))
    elif how == "csv":
        out = io.StringIO()
        csv.writer(out).writerows([("file_name", "text"), *lines])
        (folder / "metadata.csv").write_bytes(encoded(out.getvalue(), rng))
    everything = [document for found in dict.fromkeys(map(tuple, needs.values())) for document in found]
    if how in ("jsonl", "csv"):
        documents[folder / f"metadata.{how}"] = everything
    else:
        documents[folder] = everything
    return Made(folder, {"class_names": how == "classes"}, documents, needs)


KINDS: tuple[Callable[[Path, random.Random], Made], ...] = (json_files, tables, columnar, archives, pictures)


def damage(made: Made, rng: random.Random) -> set[Path]:
    """Damage a file of a source, or take it away. Returns the files whose documents may be gone."""
    files = sorted({*made.documents, *made.needs} - {made.path})
    path = rng.choice(files)
    data = path.read_bytes()
    kind = rng.randrange(7)
    if kind == 0:
        path.write_bytes(data[: rng.randrange(len(data) + 1)])
    elif kind == 1 and data:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 5, 50))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(changed))
    elif kind == 2 and data:
        start = rng.randrange(len(data))
        path.write_bytes(
            data[:start] + rng.randbytes(rng.randrange(1, 40)) + data[start + rng.randrange(40) :]
        )
    elif kind == 3:
        path.write_bytes(
            rng.choice(
                (b"", b"<html>404</html>", b"\0" * 600, b"{", b"[", b"[{", b'"', b"\xff\xfe", b"PK\x03\x04")
            )
        )
    elif kind == 4:
        path.unlink()
    elif kind == 5:
        path.unlink()
        path.mkdir()
    else:
        path.unlink()
        path.symlink_to(rng.choice(("nowhere", "/etc/passwd", path.name)))
    return {path}


def read(made: Made, streaming: bool) -> tuple[str, Counter[Document], Counter[str], int]:
    """How reading ends, the documents, the reasons of rows that are left out, and the number of rows."""
    settings: dict[str, Any] = {"order": "image_first", "validation_share": 0.0, "streaming": streaming}
    config = PrepareConfig(str(made.path), "out", model="model", **settings, **made.options)
    found: Counter[Document] = Counter()
    reasons: Counter[str] = Counter()
    count = 0
    try:
        [reading] = readings_of(config).values()
        rows: Any = reading.rows
        if rows is None:
            columns = columns_of(config, reading.plan, reading.source)
            rows = streamed_rows(reading.source, columns, reading.account, lambda *_: None)
        rng = np.random.default_rng(0)
        make = partial(documents_of, shape=reading.plan.shape, rng=rng, folder=folder_of(config, reading))
        for row in rows:
            count += 1
            try:
                documents = make(reading.plan.row(row), order=config.order)
                marked = [tuple(map(_in_words, document)) for document in documents]
                for document in marked:
                    found[tuple(segment for segment in document if segment)] += 1
                reasons["empty row"] += not documents
            except Unusable as error:
                _one_line(error)
                reasons[error.reason] += 1
        for file, why in reading.account.unread:
            _one_line(f"{file}: {why}")
        assert reading.account.rows == count, "rows are not all counted"
        return f"read, {len(reading.account.unread)} not", found, +reasons, count
    except (ValueError, FileNotFoundError) as error:
        _one_line(error)
        return f"refused: {error}", Counter(), Counter(), 0


def _in_words(segment: Any) -> str:
    if isinstance(segment, RawImage):
        red, green, blue = open_image(segment).getpixel((3, 3))  # type: ignore[misc]
        return f"[{(red << 16) + (green << 8) + blue}]"
    return "" if isinstance(segment, Mark) else segment


def _one_line(message: Any) -> None:
    assert not any(word in str(message) for word in FORBIDDEN), f"not one clear line: {str(message)!r}"


def check(work: Path, seed: int) -> str:
    """Make a source, perhaps damage it, and read it twice. Returns how that ended, to be counted."""
    rng = random.Random(seed)
    folder = work / "source"
    shutil.rmtree(work, ignore_errors=True)
    folder.mkdir(parents=True)
    made = rng.choice(KINDS)(folder, rng)
    damaged = damage(made, rng) if rng.random() < 0.5 else set()
    datasets.config.HF_DATASETS_CACHE = work / "cache"
    ends = [read(made, streaming) for streaming in (False, True)]
    assert ends[0] == ends[1], f"stored and streamed differ: {ends}"
    end, found, reasons, rows = ends[0]
    expected = Counter(document for documents in made.documents.values() for document in documents)
    if not damaged:
        assert end == "read, 0 not" and not reasons and found == expected, (
            end,
            reasons,
            expected - found,
            found - expected,
        )
        return "undamaged: all documents"
    if end.startswith("refused"):
        return "damaged: refused in one line"
    touched = [
        document for path in damaged for document in (made.documents.get(path, []) + made.needs.get(path, []))
    ]
    missing = expected - Counter(touched) - found
    assert not missing, f"documents of other files are gone: {missing}"
    assert rows >= sum(reasons.values())
    return (
        "damaged: the rest was read, and what is missing counted"
        if expected - found
        else "damaged: all documents"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", type=int, default=5000, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first source (default: %(default)s)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    ends: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        for seed in range(args.seed, args.seed + args.sources):
            try:
                ends[check(Path(name) / "work", seed)] += 1
            except Exception as error:  # a fault of the reading, or a broken promise
                failures.append(f"--seed {seed} --sources 1: {type(error).__name__}: {str(error)[:300]}")
    result = {
        "command": f"python {SCRIPT} --sources {args.sources} --seed {args.seed}",
        "sources": args.sources,
        "ends": dict(sorted(ends.items())),
        "failures": failures,
    }
    print(json.dumps(result, indent=2, ensure_ascii=False))
    if args.out:
        write_figures(args.out, result, timed=False)
    if failures:
        raise SystemExit(f"{len(failures)} sources failed")


if __name__ == "__main__":
    main()
