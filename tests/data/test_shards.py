"""Shards: the same to the byte however they are made, and nothing lost with what cannot be read."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage

from earlyfusion.cli.main import main
from earlyfusion.data import prepare as prepare_module
from earlyfusion.data.prepare import SHARDS, prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.data.shards import make_shard
from earlyfusion.tokenizers.documents import DocumentTokenizer, split

ENDLESS = 120


def silent(*_: Any) -> None:
    """No progress bar."""


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder, with its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "prepare.json"
    }


def config(documents: Path | str, folders: tuple[Path, Path], out: Path, **changes: Any) -> PrepareConfig:
    settings = {
        "context_length": 64,
        "validation_share": 0.2,
        "max_grid": 16,
        "shard_rows": 16,
        **changes,
    }
    return PrepareConfig(str(documents), str(out), str(folders[0]), str(folders[1]), **settings)


@pytest.fixture
def whole(tmp_path: Path, documents: Path, tokenizer_folders: tuple[Path, Path]) -> dict[str, str]:
    """The files of a run without a stop."""
    prepare(config(documents, tokenizer_folders, tmp_path / "whole"), silent)
    return files(tmp_path / "whole")


def test_a_part_is_a_data_set_of_shards(tmp_path: Path, whole: dict[str, str]):
    assert sum(name.startswith("train/data-") for name in whole) == 5  # 72 rows
    assert sum(name.startswith("validation/data-") for name in whole) == 2
    record = json.loads((tmp_path / "whole/prepare.json").read_text())
    stored = datasets.load_from_disk(str(tmp_path / "whole/train"))
    assert len(stored) == record["train"]["windows"]
    assert set(stored.column_names) == {"tokens", "documents"}
    assert not (tmp_path / "whole" / SHARDS).exists()
    assert (tmp_path / "whole/rejected.jsonl").read_text() == ""


def test_a_run_that_was_stopped_goes_on(
    tmp_path: Path, documents: Path, tokenizer_folders, whole: dict[str, str], monkeypatch
):
    """Stopped before each shard in turn, and while the folder is put together."""
    settings = config(documents, tokenizer_folders, tmp_path / "out")
    made = []

    def stopping(*args: Any) -> Any:
        block = args[4]
        if made and made[-1] != block.stem:
            made.append("stop")
            raise KeyboardInterrupt
        made.append(block.stem)
        return make_shard(*args)

    monkeypatch.setattr(prepare_module, "make_shard", stopping)
    stops = 0
    for _ in range(20):
        made.clear()
        try:
            prepare(settings, silent)
        except KeyboardInterrupt:
            stops += 1
            assert not (tmp_path / "out/prepare.json").exists()
            continue
        break
    assert stops == 6
    assert files(tmp_path / "out") == whole
    (tmp_path / "out/prepare.json").unlink()
    monkeypatch.setattr(prepare_module, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, silent)
    monkeypatch.undo()
    prepare(settings, silent)
    assert files(tmp_path / "out") == whole


@pytest.mark.parametrize("jobs", [2, 3])
def test_processes_make_the_same_shards(
    tmp_path: Path, documents: Path, tokenizer_folders, whole: dict[str, str], jobs: int, start
):
    prepare(config(documents, tokenizer_folders, tmp_path / "out"), silent, jobs=jobs)
    assert files(tmp_path / "out") == whole


def kill_a_worker(out: Path, find: Callable[[], list[int]], killed: list[int]) -> None:
    """Wait for the first shard, then kill one of the processes that are found."""
    began = time.monotonic()
    while not list(out.glob(".shards/*/*.json")) and time.monotonic() < began + ENDLESS:
        time.sleep(0.001)
    for process in find()[:1]:
        os.kill(process, signal.SIGKILL)
        killed.append(process)


def test_a_worker_that_is_killed_is_told(tmp_path: Path, documents: Path, tokenizer_folders, start):
    """The command says what happened, and goes on when run again."""
    settings = {"validation_share": 0.0, "shard_rows": 1}
    prepare(config(documents, tokenizer_folders, tmp_path / "whole", **settings), silent)
    others = {process.pid for process in multiprocessing.active_children()}

    def workers() -> list[int]:
        found = [process.pid for process in multiprocessing.active_children()]
        return [pid for pid in found if pid is not None and pid not in others]

    killed: list[int] = []
    thread = threading.Thread(target=kill_a_worker, args=(tmp_path / "out", workers, killed))
    thread.start()
    again = config(documents, tokenizer_folders, tmp_path / "out", **settings)
    with pytest.raises(ValueError, match="process died"):
        prepare(again, silent, jobs=2)
    thread.join()
    assert len(killed) == 1
    assert 1 <= len(list((tmp_path / "out").glob(".shards/*/*.json"))) < 90
    prepare(again, silent)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_ray_replaces_a_worker_that_is_killed(tmp_path: Path, documents: Path, tokenizer_folders):
    """A local worker's death is an error; Ray's is none."""
    ray = pytest.importorskip("ray")
    settings = {"validation_share": 0.0, "shard_rows": 30}
    prepare(config(documents, tokenizer_folders, tmp_path / "whole", **settings), silent)

    def workers() -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if b"MapWorker" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:  # it ended meanwhile
                continue
        return found

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    killed: list[int] = []
    thread = threading.Thread(target=kill_a_worker, args=(tmp_path / "out", workers, killed))
    thread.start()
    try:
        prepare(config(documents, tokenizer_folders, tmp_path / "out", **settings), silent, engine="ray")
    finally:
        thread.join()
        ray.shutdown()
    assert len(killed) == 1
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_sigkill_and_again(tmp_path: Path, documents: Path, tokenizer_folders, whole: dict[str, str], start):
    """The command is killed once its first shard is there; its own workers end with it."""
    settings = {
        "documents": str(documents),
        "out": str(tmp_path / "out"),
        "text_tokenizer": str(tokenizer_folders[0]),
        "image_tokenizer": str(tokenizer_folders[1]),
        "context_length": 64,
        "validation_share": 0.2,
        "max_grid": 16,
        "shard_rows": 16,
    }
    (tmp_path / "prepare.yaml").write_text(yaml.safe_dump(settings))
    command = ["prepare", "--config", str(tmp_path / "prepare.yaml")]
    code = "from earlyfusion.cli.main import main; main([*command, '--jobs', '2'])"
    run = start(code, command=command)
    began = time.monotonic()
    while not list((tmp_path / "out").glob(".shards/*/*.json")) and time.monotonic() < began + ENDLESS:
        time.sleep(0.005)
    run.kill()
    run.join()
    assert not (tmp_path / "out/prepare.json").exists()
    assert main(command) == 0
    assert files(tmp_path / "out") == whole


def test_streaming_reads_every_row_once(tmp_path: Path, tokenizer_folders, photo: PilImage.Image, start):
    folder = tmp_path / "parquet"
    folder.mkdir()
    features = Features(image=Image(), text=Value("string"))
    for shard in range(3):
        rows = {"image": [photo] * 10, "text": [f"number {shard * 10 + n}" for n in range(10)]}
        Dataset.from_dict(rows, features).to_parquet(folder / f"{shard}.parquet")
    settings = config(folder, tokenizer_folders, tmp_path / "out", streaming=True, shard_rows=8)
    record = prepare(settings, silent)
    assert (record["train"]["rows"], record["validation"]["rows"]) == (24, 6)
    first = files(tmp_path / "out")
    texts = []
    tokenizer = DocumentTokenizer.load(tmp_path / "out/tokenizer")
    for part in ("train", "validation"):
        for row in datasets.load_from_disk(str(tmp_path / "out" / part)):
            assert isinstance(row, dict)
            tokens, numbers = torch.tensor(row["tokens"]), torch.tensor(row["documents"])
            for number in numbers.unique():
                document = tokens[numbers == number]
                if document[0] != tokenizer.vocab.pad:
                    texts += [
                        tokenizer.text.decode(p[1].tolist())
                        for p in split(document, tokenizer.vocab)
                        if p.kind == "text"
                    ]
    assert sorted(texts) == sorted(f"number {n}" for n in range(30))
    settings = config(folder, tokenizer_folders, tmp_path / "again", streaming=True, shard_rows=8)
    prepare(settings, silent, jobs=2)
    assert files(tmp_path / "again") == first
    with pytest.raises(ValueError, match="streaming.*ray"):
        pytest.importorskip("ray")
        prepare(config(folder, tokenizer_folders, tmp_path / "ray", streaming=True), silent, engine="ray")


def test_what_cannot_be_used_is_counted_with_its_reason(
    tmp_path: Path, tokenizer_folders, photo: PilImage.Image
):
    folder = tmp_path / "data"
    folder.mkdir()
    photo.save(folder / "good.png")
    photo.save(tmp_path / "outside.png")
    (folder / "broken.png").write_bytes((folder / "good.png").read_bytes()[:60])
    rows: list[dict[str, Any]] = [
        {"id": "a", "image": "good.png", "text": "good"},
        {"id": "b", "image": "broken.png", "text": "broken"},
        {"id": "c", "image": "none.png", "text": "not there"},
        {"id": "d", "image": "../outside.png", "text": "outside"},
        {"id": "e", "image": str(tmp_path / "outside.png"), "text": "outside"},
        {"id": "a", "image": "good.png", "text": "again"},
        {"id": "f", "image": None, "text": ""},
        {"id": "g", "image": "good.png", "text": "also good"},
    ]
    lines = [json.dumps(row) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join([*lines[:4], '{"id": "broken', "[1]", *lines[4:]]))
    settings = {"validation_share": 0.0, "id_column": "id", "order": "image_first"}
    out, fail = tmp_path / "out", tmp_path / "fail"
    with pytest.warns(UserWarning, match="8 files, rows.*rejected.jsonl"):
        record = prepare(config(folder / "rows.jsonl", tokenizer_folders, out, **settings), silent)
    assert record["train"]["left_out"] == {
        "unreadable image": 1,
        "image not found": 1,
        "image file outside the data folder": 2,
        "duplicate id": 1,
        "empty row": 1,
    }
    assert (record["train"]["rows"], record["train"]["used"], record["train"]["images"]) == (8, 2, 2)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [entry["row"] for entry in rejected if "row" in entry] == [3, 4, 5, 6, 1, 2]
    assert [Path(entry["file"]).name for entry in rejected if "file" in entry] == [
        "rows.jsonl:5",
        "rows.jsonl:6",
    ]
    with pytest.raises(ValueError, match="rows.jsonl:5 cannot be read"):
        prepare(config(folder / "rows.jsonl", tokenizer_folders, fail, bad_input="fail", **settings), silent)
    (folder / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="row 3 of train.*outside"):
        prepare(config(folder / "rows.jsonl", tokenizer_folders, fail, bad_input="fail", **settings), silent)


def test_a_shard_of_the_data_that_cannot_be_read(tmp_path: Path, tokenizer_folders, photo: PilImage.Image):
    """Of parquet, tar and arrow files the good ones count."""
    features = Features(image=Image(), text=Value("string"))
    dataset = Dataset.from_dict({"image": [photo] * 4, "text": list("abcd")}, features)
    (tmp_path / "parquet").mkdir()
    for number in range(3):
        dataset.to_parquet(tmp_path / f"parquet/{number}.parquet")
    broken = tmp_path / "parquet/1.parquet"
    broken.write_bytes(broken.read_bytes()[:-40])
    dataset.save_to_disk(str(tmp_path / "arrow"), num_shards=2)
    broken = sorted((tmp_path / "arrow").glob("*.arrow"))[0]
    broken.write_bytes(b"nothing")
    for source, rows in ((tmp_path / "parquet", 8), (tmp_path / "arrow", 2)):
        settings = {"validation_share": 0.0}
        with pytest.raises(ValueError, match="cannot be read"):
            prepare(config(source, tokenizer_folders, tmp_path / "fail", bad_input="fail"), silent)
        with pytest.warns(UserWarning, match=": 1 files, rows"):
            record = prepare(
                config(source, tokenizer_folders, tmp_path / f"{source.name}-out", **settings), silent
            )
        assert record["train"]["documents"] == rows


def test_nothing_can_be_written(tmp_path: Path, documents: Path, tokenizer_folders, monkeypatch):
    """A full disk costs no shard."""
    settings = config(documents, tokenizer_folders, tmp_path / "out")
    calls = []

    def full(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise OSError(28, "No space left on device", str(tmp_path / "out"))
        return make_shard(*args)

    monkeypatch.setattr(prepare_module, "make_shard", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(settings, silent)
    assert len(list((tmp_path / "out").glob(".shards/*/*.json"))) == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file"):
        prepare(config(documents, tokenizer_folders, tmp_path / "file"), silent)


def test_sizes(tmp_path: Path, tokenizer_folders, photo: PilImage.Image):
    """A budget of positions keeps the proportions; tiles keep the pixels."""
    page = photo.resize((160, 96))
    source = tmp_path / "pages"
    Dataset.from_dict({"images": [[page]]}, Features(images=List(Image()))).save_to_disk(str(source))

    def grids(**changes: Any) -> list[tuple[int, ...]]:
        out = tmp_path / "-".join(map(str, changes.values()))
        settings = {
            "validation_share": 0.0,
            "context_length": 512,
            "max_grid": 32,
            "max_side": None,
            **changes,
        }
        prepare(config(source, tokenizer_folders, out, **settings), silent)
        vocab = DocumentTokenizer.load(out / "tokenizer").vocab
        [row] = list(datasets.load_from_disk(str(out / "train")))
        assert isinstance(row, dict)
        tokens = torch.tensor(row["tokens"])
        tokens = tokens[torch.tensor(row["documents"]) == 0]
        return [tuple(part[1].shape) for part in split(tokens, vocab)]

    assert grids(max_positions=300) == [(12, 20)]
    assert grids(max_positions=60) == [(6, 10)]
    assert grids(max_positions=60, policy="pad") == [(6, 10)]
    assert grids(large_images="tile", max_side=64) == [(6, 7), (6, 7), (6, 7), (6, 7), (6, 7), (6, 7)]
    assert grids(large_images="scale", max_side=64) == [(5, 8)]


def test_a_data_set_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer_folders):
    """There is no network here: what is asked of `datasets` is looked at, and what it gives is read."""
    asked = []

    def load_dataset(path: str, **options: Any) -> Any:
        asked.append((path, options))
        rows = Dataset.from_dict({"text": ["a red apple", "a small house"]})
        return datasets.DatasetDict({"train": rows})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    settings = config("hf://datasets/owner/name", tokenizer_folders, tmp_path / "out", validation_share=0.0)
    assert prepare(settings, silent)["train"]["documents"] == 2
    assert asked == [("owner/name", {"streaming": False})]


def test_a_streamed_validation_set_beside_a_stored_training_set(
    tmp_path: Path, documents: Path, tokenizer_folders
):
    rows = Dataset.from_dict({"text": [f"number {n}" for n in range(5)]})
    rows.to_json(tmp_path / "validation.jsonl")
    validation = str(tmp_path / "validation.jsonl")
    settings = {"streaming": True, "validation": validation, "validation_share": 0.0}
    record = prepare(config(documents, tokenizer_folders, tmp_path / "out", **settings), silent)
    assert (record["train"]["documents"], record["validation"]["documents"]) == (90, 5)
