"""Data sets of many kinds."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset
from PIL import Image as PilImage

from earlyfusion.data.sources import load_source


def test_a_part_of_several_is_chosen(tmp_path: Path, image_folder: Path):
    saved = Dataset.load_from_disk(str(image_folder))
    parts: Any = {"train": saved, "validation": saved.select(range(5))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    assert len(load_source(tmp_path / "both")) == 48
    assert len(load_source(tmp_path / "both", "validation")) == 5


def test_sources_that_are_missing_or_unknown(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere not found"):
        load_source(tmp_path / "nowhere")
    (tmp_path / "notes.md").write_text("no data")
    with pytest.raises(ValueError, match="notes.md.*'.md'"):
        load_source(tmp_path / "notes.md")


def test_names_of_images_are_no_names_of_parts(tmp_path: Path, photo: PilImage.Image):
    """`datasets` alone would read the one image whose name says dev, or test."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = ["apple.png", "house-dev-2.png", "cat_test.png", "train-station.png"]
    for name in names:
        photo.save(folder / name)
    lines = [json.dumps({"file_name": name, "text": name}) for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    dataset = load_source(folder)
    assert sorted(dataset["text"]) == sorted(names)
    for part in ("train", "test"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        photo.save(tmp_path / "parts" / part / "one.png")
    photo.save(tmp_path / "parts/test/two.png")
    assert [len(load_source(tmp_path / "parts", part)) for part in ("train", "test")] == [1, 2]
