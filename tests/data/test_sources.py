"""Data sets of many kinds."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset

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
