"""Data sets as rows with random access: everything is kept, and stored once."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from earlyfusion.data.reading import stored
from earlyfusion.data.reading.readers import PLACE
from earlyfusion.data.reading.sources import load_saved, open_source
from earlyfusion.data.reading.stored import (
    Account,
    files_key,
    named_files_key,
    stored_rows,
    streamed_rows,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stored.datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "earlyfusion"


def test_a_part_of_several_is_chosen(tmp_path: Path, image_folder: Path):
    saved = Dataset.load_from_disk(str(image_folder))
    parts: Any = {"train": saved, "validation": saved.select(range(5))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    assert len(load_saved(tmp_path / "both")) == 48
    assert len(load_saved(tmp_path / "both", "validation")) == 5
    with pytest.raises(ValueError, match="train, validation.*'test'"):
        load_saved(tmp_path / "both", "test")
    with pytest.raises(FileNotFoundError, match="nowhere not found"):
        load_saved(tmp_path / "nowhere")


def test_stored_and_streamed_rows_are_those_of_the_files(tmp_path: Path):
    rows = [
        {"n": 1, "bytes": b"\0\xff", "list": [{"bytes": b"1", "path": None}, None], "text": 'a\0"'},
        {"n": 2, "bytes": None, "list": [], "text": "\u2028"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "1.parquet")
    (tmp_path / "2.jsonl").write_text('{"n": 1.50, "text": {"a": [1, "x"]}, "late": NaN}\n{"n": "x"}\n')
    source = open_source(tmp_path)
    expected = [*rows, {"n": Decimal("1.50"), "text": {"a": [1, "x"]}}, {"n": "x"}]
    columns = ["n", "bytes", "list", "text"]
    stored, account = stored_rows(source, columns)
    places = ["1.parquet, row 1", "1.parquet, row 2", "2.jsonl, row 1", "2.jsonl, row 2"]
    for row, place in zip(expected, places, strict=True):
        row[PLACE] = place
    assert list(stored) == expected and list(streamed_rows(source, columns, Account())) == expected
    assert list(stored.select([3, 0])) == [expected[3], expected[0]]
    assert list(stored.values("n")) == [1, 2, Decimal("1.50"), "x"]
    assert account.rows == 4 and account.columns["text"] == 3 and account.columns["late"] == 1


def test_dates_are_texts(tmp_path: Path):
    pq.write_table(pa.table({"text": [date(2026, 11, 28)]}), tmp_path / "1.parquet")
    assert list(stored_rows(open_source(tmp_path), ["text"])[0].values("text")) == ["2026-11-28"]


def test_a_column_that_comes_late_is_noticed(tmp_path: Path):
    lines = ['{"text": "a"}'] * 200 + ['{"text": "a", "image": "a.png"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path)
    assert source.columns == ("text",)
    for _ in range(2):  # the second time from the cache
        account = stored_rows(source, ["text"])[1]
        assert account.late_rows() == [{"text": "a", "image": "a.png"}]


def test_the_same_files_are_stored_once(tmp_path: Path, cache: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"text": "a"}\n{broken\n')
    told: list[str] = []
    for _ in range(2):
        stored_rows(open_source(folder), ["text"], lambda file, why: told.append(Path(file).name))
    assert told == ["rows.jsonl:2"] * 2 and len(list(cache.glob("*.arrow"))) == 1
    (folder / "rows.jsonl").write_text('{"text": "bc"}\n')
    assert list(stored_rows(open_source(folder), ["text"])[0].values("text")) == ["bc"]
    assert not list(cache.glob("*.tmp"))


def test_what_stops_the_storing_leaves_nothing_behind(tmp_path: Path, cache: Path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{broken\n')
    with pytest.raises(ValueError, match="rows.jsonl:2 cannot be read"):
        stored_rows(open_source(tmp_path / "rows.jsonl"), ["text"])
    assert not list(cache.iterdir())
    cache.rmdir()
    cache.write_text("a file")
    with pytest.raises(ValueError, match="HF_HOME"):
        stored_rows(open_source(tmp_path / "rows.jsonl"), ["text"], lambda *_: None)


def test_a_line_that_cannot_be_read_is_named_once(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{broken\n')
    source = open_source(tmp_path)
    for read in (
        lambda: stored_rows(source, ["text"]),
        lambda: [*streamed_rows(source, ["text"], Account())],
    ):
        with pytest.raises(ValueError, match="rows.jsonl:2 cannot be read: ") as caught:
            read()
        assert str(caught.value).count("rows.jsonl") == 1


def test_files_that_rows_name_belong_to_the_data(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png", "text": "a"}\n{"image": "b.png", "text": "b"}\n')
    (tmp_path / "a.png").write_bytes(b"1")
    source = open_source(tmp_path / "rows.jsonl")
    keys = set()
    for change in (lambda: None, lambda: (tmp_path / "b.png").write_bytes(b"1"), (tmp_path / "a.png").unlink):
        change()
        for rows in (None, stored_rows(source, ["image", "text"])[0]):
            keys.add((rows is None, named_files_key(source, rows, tmp_path)))
    assert len(keys) == 6
    assert files_key(source) == files_key(open_source(tmp_path / "rows.jsonl"))
