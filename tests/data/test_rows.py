"""Rows of each shape -> the segments of documents."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from earlyfusion.data.rows import documents_of
from earlyfusion.data.shapes import shape_of
from earlyfusion.data.sources import RawImage, Unusable


def test_mmc4(photo: PilImage.Image, tmp_path: Path):
    row = {
        "text_list": ["One.", "Two.", "Three."],
        "image_info": [
            {"image_name": "a.jpg", "matched_text_index": 1},
            {"image_name": "b.jpg", "matched_text_index": 2},
            {"image_name": "c.jpg", "matched_text_index": 1},
        ],
    }
    rng = np.random.default_rng(0)

    def read(order: Any) -> list[list[str]]:
        found = documents_of(row, "placed", order, rng, tmp_path)
        return [
            [Path(s.path or "").name if isinstance(s, RawImage) else str(s) for s in one] for one in found
        ]

    first = ["One.", "a.jpg", "c.jpg", " Two.", "b.jpg", " Three."]
    last = ["One.", " Two.", "a.jpg", "c.jpg", " Three.", "b.jpg"]
    assert read("image_first") == [first]
    assert read("text_first") == [last]
    assert read("both") == [first, last]
    coins = [read("coin") for _ in range(40)]
    assert 5 < coins.count([first]) < 35 and coins.count([first]) + coins.count([last]) == 40
    row["image_info"][0]["matched_text_index"] = 3
    with pytest.raises(Unusable, match="matched_text_index"):
        read("coin")


def test_shapes_by_columns():
    assert shape_of(["image", "text", "id"], "x") == "pairs"
    assert shape_of(["images", "texts", "text"], "x") == "parallel"
    assert shape_of(["image"], "x") == "images"
    assert shape_of(["text_list", "image_info", "text"], "x") == "placed"
    with pytest.raises(ValueError, match="x .*number.*`columns`"):
        shape_of(["number"], "x")
