"""Documents -> windows: nothing lost, borders kept, the same twice, and clear errors."""

import dataclasses
import io
import json
import tarfile
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage

from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.data.reading.sources import load_saved
from earlyfusion.tokenizers.documents import DocumentTokenizer, split


def silent(*_: Any) -> None:
    """No progress bar."""


def documents_of(folder: Path, part: str = "train") -> list[list[int]]:
    """The documents in the windows of a prepared folder."""
    found = []
    pad = DocumentTokenizer.load(folder / "tokenizer").vocab.pad
    for row in datasets.load_from_disk(str(folder / part)):
        assert isinstance(row, dict)
        tokens, numbers = np.array(row["tokens"]), np.array(row["documents"])
        assert (np.diff(numbers) >= 0).all()
        for number in np.unique(numbers):
            document = tokens[numbers == number].tolist()
            if document[0] != pad:
                assert pad not in document
                found.append(document)
    return found


def write(rows: dict[str, list], features: Features, folder: Path) -> str:
    Dataset.from_dict(rows, features).save_to_disk(str(folder))
    return str(folder)


def config(documents: str | Path, folders: tuple[Path, Path], out: Path, **changes: Any) -> PrepareConfig:
    settings = {"context_length": 64, "validation_share": 0.0, "max_grid": 16, **changes}
    return PrepareConfig(str(documents), str(out), str(folders[0]), str(folders[1]), **settings)


def test_the_documents_are_those_that_the_document_tokenizer_makes(prepared: Path, documents: Path):
    tokenizer = DocumentTokenizer.load(prepared / "tokenizer")
    expected = []
    for row in load_saved(documents):
        assert isinstance(row, dict)
        pairs = zip(row["images"], row["texts"], strict=True)
        segments = [segment for pair in pairs for segment in pair if segment is not None]
        expected.append(tokenizer.encode(segments).tokens.tolist())
    found = documents_of(prepared) + documents_of(prepared, "validation")
    assert sorted(found) == sorted(expected)


def test_the_record_says_what_is_there(tmp_path: Path, documents: Path, tokenizer_folders):
    record = prepare(config(str(documents), tokenizer_folders, tmp_path / "out"), silent)
    counts = record["train"]
    stored = datasets.load_from_disk(str(tmp_path / "out/train"))
    vocab = DocumentTokenizer.load(tmp_path / "out/tokenizer").vocab
    tokens = torch.tensor(stored["tokens"][:])
    modality = vocab.modality(tokens[tokens != vocab.pad])
    assert (counts["rows"], counts["documents"], counts["pieces"]) == (90, 90, 90)
    assert counts["segments"]["image"] == counts["images"] == 120
    assert counts["windows"] == len(tokens)
    assert list(counts["tokens"].values()) == torch.bincount(modality, minlength=3).tolist()
    assert counts["fill"] == pytest.approx(len(modality) / tokens.numel())
    assert record["vocab_size"] == vocab.size
    assert not (tmp_path / "out/validation").exists()


def test_a_second_time_nothing_is_done(tmp_path: Path, documents: Path, tokenizer_folders, capsys):
    first = config(str(documents), tokenizer_folders, tmp_path / "out", validation_share=0.1)
    record = prepare(first, silent)
    time = (tmp_path / "out/train").stat().st_mtime_ns
    capsys.readouterr()
    assert prepare(first, silent) == record
    assert "already prepared" in capsys.readouterr().out
    assert (tmp_path / "out/train").stat().st_mtime_ns == time
    other = config(str(documents), tokenizer_folders, tmp_path / "out")
    with pytest.raises(ValueError, match="validation_share 0.1, not 0.0.*--overwrite"):
        prepare(other, silent)
    assert (tmp_path / "out/train").stat().st_mtime_ns == time
    nowhere = dataclasses.replace(other, image_tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):  # nothing is moved for a run that cannot begin
        prepare(nowhere, silent, overwrite=True)
    assert (tmp_path / "out/train").stat().st_mtime_ns == time
    again = prepare(other, silent, overwrite=True)
    assert again["key"] != record["key"] and not (tmp_path / "out/validation").exists()
    aside = dataclasses.replace(first, out=str(tmp_path / "out.before-1"))
    assert prepare(aside, silent) == record and "already prepared" in capsys.readouterr().out


def test_a_record_of_an_earlier_version_lacks_settings(tmp_path: Path, documents: Path, tokenizer_folders):
    settings = config(str(documents), tokenizer_folders, tmp_path / "out")
    prepare(settings, silent)
    path = tmp_path / "out/prepare.json"
    record = json.loads(path.read_text())
    del record["config"]["ignore"], record["config"]["order"]
    path.write_text(json.dumps({**record, "key": "of an earlier version"}))
    assert prepare(settings, silent)["config"]["order"] == settings.order
    with pytest.raises(ValueError, match="ignore .*'id'"):
        prepare(dataclasses.replace(settings, ignore=("id",)), silent)


@pytest.mark.parametrize("order", ["image_first", "text_first", "both", "coin"])
def test_orders_of_pairs(order: Any, tmp_path: Path, tokenizer_folders, photo: PilImage.Image):
    rows = {"image": [photo] * 20, "text": ["A red apple."] * 20}
    source = write(rows, Features(image=Image(), text=Value("string")), tmp_path / "pairs")
    prepare(config(source, tokenizer_folders, tmp_path / "out", order=order), silent)
    vocab = DocumentTokenizer.load(tmp_path / "out/tokenizer").vocab
    image_first = [d[1] == vocab.layout("image").begin for d in documents_of(tmp_path / "out")]
    assert len(image_first) == (40 if order == "both" else 20)
    expected = {"image_first": {1.0}, "text_first": {0.0}, "both": {0.5}}
    share = sum(image_first) / len(image_first)
    assert share in expected[order] if order != "coin" else 0.1 < share < 0.9


def test_long_documents_are_split_between_segments(tmp_path: Path, tokenizer_folders, photo: PilImage.Image):
    small = photo.resize((16, 16))  # 4 codes, 8 tokens
    large = photo.resize((120, 120))  # 225 codes: more than a window
    rows = {
        "images": [[small, None, small, None, small], [None], [large, None]],
        "texts": [
            [None, "the cat sees two birds; " * 4, None, "one small house, " * 4, None],
            ["red apple " * 60],
            [None, "large"],
        ],
    }
    source = write(rows, Features(images=List(Image()), texts=List(Value("string"))), tmp_path / "long")
    with pytest.warns(UserWarning, match=": 1 files, rows"):
        counts = prepare(config(source, tokenizer_folders, tmp_path / "out", max_side=None), silent)["train"]
    tokenizer = DocumentTokenizer.load(tmp_path / "out/tokenizer")
    documents = documents_of(tmp_path / "out")
    assert counts["split"] == 3
    assert counts["dropped"] == {"image larger than a window": 1}
    assert all(document[0] == tokenizer.vocab.bos for document in documents)
    assert sum(document[-1] == tokenizer.vocab.eos for document in documents) == 3
    parts = [part for document in documents for part in split(torch.tensor(document), tokenizer.vocab)]
    assert sum(part.kind == "image" for part in parts) == 3
    texts = "".join(tokenizer.text.decode(part[1].tolist()) for part in parts if part.kind == "text")
    assert len(texts) == len(
        "the cat sees two birds; " * 4 + "one small house, " * 4 + "red apple " * 60 + "large"
    )
    dropped = config(source, tokenizer_folders, tmp_path / "drop", max_side=None, long_documents="drop")
    with pytest.raises(ValueError, match="train.*longer than a window"):
        prepare(dropped, silent)


def test_texts_alone_and_images_that_cannot_be_read(tmp_path: Path, tokenizer_folders, photo: PilImage.Image):
    source = write(
        {"text": ["The cat sees two birds.", "", None]}, Features(text=Value("string")), tmp_path / "t"
    )
    counts = prepare(config(source, tokenizer_folders, tmp_path / "texts"), silent)["train"]
    assert (counts["rows"], counts["documents"], counts["tokens"]["image"]) == (3, 1, 0)

    stored = io.BytesIO()
    photo.save(stored, "PNG")
    rows = [{"bytes": stored.getvalue(), "path": None}, {"bytes": b"broken", "path": None}]
    features = Features(image=Image(decode=False), text=Value("string"))
    source = write({"image": rows, "text": ["good", "bad"]}, features, tmp_path / "pairs")
    with pytest.warns(UserWarning, match=": 1 files, rows"):
        counts = prepare(config(source, tokenizer_folders, tmp_path / "pairs-out"), silent)["train"]
    assert counts["pieces"] == 1
    assert counts["left_out"] == {"unreadable image": 1}


def test_documents_as_the_field_stores_them(tmp_path: Path, tokenizer_folders, photo: PilImage.Image):
    """An imagefolder with captions, a webdataset, and JSON lines that name image files."""
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    folder.mkdir()
    shards.mkdir()
    captions = ["A red apple.", "A small house."]
    lines = [json.dumps({"file_name": f"{n}.jpg", "text": text}) for n, text in enumerate(captions)]
    with tarfile.open(shards / "0.tar", "w") as tar:
        for number, text in enumerate(captions):
            photo.save(folder / f"{number}.jpg")
            (tmp_path / "caption").write_text(text)
            tar.add(folder / f"{number}.jpg", f"{number}.jpg")
            tar.add(tmp_path / "caption", f"{number}.txt")
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    rows = [{"images": [f"folder/{n}.jpg", None], "texts": [None, text]} for n, text in enumerate(captions)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    webdataset = {"columns": {"image": "jpg", "text": "txt"}}
    found = []
    for source, options in ((folder, {}), (shards, webdataset), (tmp_path / "rows.jsonl", {})):
        out = tmp_path / f"out-{source.name}"
        settings = config(str(source), tokenizer_folders, out, order="image_first", **options)
        assert prepare(settings, silent)["train"]["images"] == 2
        found.append(sorted(documents_of(out)))
    assert found[0] == found[1] == found[2]


def test_a_fixed_grid_is_not_written(tmp_path: Path, tokenizer_folders, documents: Path):
    prepare(config(str(documents), tokenizer_folders, tmp_path / "out", fixed_grid=(2, 3)), silent)
    vocab = DocumentTokenizer.load(tmp_path / "out/tokenizer").vocab
    layout = vocab.layout("image")
    assert (layout.numbers, layout.shape) == (None, (2, 3))
    for document in documents_of(tmp_path / "out"):
        for part in split(torch.tensor(document), vocab):
            assert part.kind == "text" or tuple(part.values.shape) == (2, 3)


def test_clear_errors(tmp_path: Path, tokenizer_folders, documents: Path):
    with pytest.raises(FileNotFoundError, match="nowhere not found"):
        prepare(config(str(tmp_path / "nowhere"), tokenizer_folders, tmp_path / "out"), silent)
    source = write({"number": [1]}, Features(number=Value("int64")), tmp_path / "numbers")
    with pytest.raises(ValueError, match="columns.*number"):
        prepare(config(source, tokenizer_folders, tmp_path / "out"), silent)
    with pytest.raises(ValueError, match="'caption'"):
        columns = {"text": "caption"}
        prepare(config(str(documents), tokenizer_folders, tmp_path / "out", columns=columns), silent)
    with pytest.raises(ValueError, match="order.*'random'.*image_first"):
        config(str(documents), tokenizer_folders, tmp_path / "out", order="random")
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob(".out*"))


def test_pictures_that_are_added_later_are_prepared(tmp_path: Path, tokenizer_folders, photo: PilImage.Image):
    """The rows stay the same, and the files that they name change."""
    lines = [json.dumps({"image": f"{n}.png", "text": f"number {n}"}) for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    photo.save(tmp_path / "0.png")
    used = []
    for streaming in (False, True):
        settings = config(
            tmp_path / "rows.jsonl",
            tokenizer_folders,
            tmp_path / f"{streaming}",
            streaming=streaming,
            validation_share=0.0,
        )
        for number in (1, 2):
            with warnings.catch_warnings(action="ignore"):
                used.append(prepare(settings, silent)["train"]["used"])
            photo.save(tmp_path / f"{number}.png")
        (tmp_path / "1.png").unlink()
        (tmp_path / "2.png").unlink()
    assert used == [1, 2, 1, 2]


def test_rows_that_are_all_refused_are_listed(tmp_path: Path, tokenizer_folders):
    (tmp_path / "rows.jsonl").write_text('{"image": "none.png", "text": "a"}\n{"image": null, "text": "b"}\n')
    settings = config(tmp_path / "rows.jsonl", tokenizer_folders, tmp_path / "out", validation_share=0.0)
    with pytest.raises(
        ValueError, match="1 x image not found.*rows.jsonl, row 1: .*none.png.*rejected.jsonl"
    ):
        prepare(settings, silent)
    rejected = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert sorted(entry["place"] for entry in rejected) == ["rows.jsonl, row 1", "rows.jsonl, row 2"]


def test_everything_that_was_read_is_accounted_for(tmp_path: Path, tokenizer_folders, capsys):
    rows = [{"id": n, "text": f"number {n}", "alt": "a b c d"} for n in range(200)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").write_text("\n".join([*map(json.dumps, rows), "{broken"]))
    (tmp_path / "data/README.md").write_text("about")
    source = tmp_path / "data"
    with pytest.raises(ValueError, match=r"alt looks like text.*ignore: \[alt\]"):
        prepare(config(source, tokenizer_folders, tmp_path / "out"), silent)
    with pytest.warns(UserWarning, match=": 1 files, rows"):
        record = prepare(config(source, tokenizer_folders, tmp_path / "out", ignore=("alt",)), silent)
    found = record["sources"]["train"]
    assert (found["rows"], found["columns"], found["unused"]) == (200, {"text": "text"}, ["id"])
    assert [Path(name).name for name, _ in found["unread"]] == ["README.md", "rows.jsonl:201"]
    assert sum(record[part]["used"] for part in ("train", "validation") if part in record) == 200
    told = capsys.readouterr().out
    for words in (
        "1 file, 200 rows as texts",
        "not used  id",
        "ignored   alt",
        "README.md",
        "rows.jsonl:201",
    ):
        assert words in told, words
    late = {"text": "a", "caption": "a caption that comes late"}
    (source / "rows.jsonl").write_text(
        "\n".join(map(json.dumps, [*({"text": "a"} for _ in range(200)), late]))
    )
    with pytest.raises(ValueError, match="caption"):
        prepare(config(source, tokenizer_folders, tmp_path / "late"), silent)
    streamed = config(source, tokenizer_folders, tmp_path / "streamed", streaming=True)
    with pytest.warns(UserWarning, match="caption.*after the first rows"):
        assert prepare(streamed, silent)["train"]["used"] == 201
