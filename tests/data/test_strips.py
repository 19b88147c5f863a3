"""Strips around text boxes: each shows its text, whole and in the middle."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage
from PIL import ImageDraw

from earlyfusion.data.strips import Strips

Page = Callable[[list[str]], tuple[PilImage.Image, dict[str, list]]]
FEATURES = Features(
    image=Image(), objects={"bbox": List(List(Value("float32"))), "text": List(Value("string"))}
)


def test_strips_hold_their_texts(page: Page) -> None:
    image, objects = page(["abc", "deb", "cede"])
    strips = Strips.around([(image, objects)])
    seen = []
    for width, group in strips.groups.items():
        batch = strips.load(group)
        assert batch.strips.shape == (len(group), 1, 32, width) and width % 32 == 0
        assert batch.strips.min() < -0.9 and batch.strips.max() == 1
        for strip, text in zip(batch.strips[:, 0], batch.texts, strict=True):
            seen.append(text)
            left, top, wide, tall = objects["bbox"][objects["text"].index(text)]
            rows, columns = (strip < 0).nonzero(as_tuple=True)
            # in the middle, whole, with a margin on both sides
            assert float(columns.min()) >= 3 and float(columns.max()) < width - 3
            assert float(columns.min() + columns.max()) / 2 == pytest.approx(width / 2, abs=2.5)
            assert float(rows.min() + rows.max()) / 2 == pytest.approx(16, abs=2.5)
            pixels = np.asarray(image.convert("L"))
            pixels = pixels[int(top) - 1 : int(top + tall) + 1, int(left) - 1 : int(left + wide) + 1]
            assert int((strip < 0).sum()) == int((pixels < 127.5).sum())
    assert sorted(seen) == ["abc", "cede", "deb"]
    assert len(Strips.around([(image, objects)], longest=32).groups) <= 1


def test_strips_at_the_edge_of_an_image_repeat_it() -> None:
    image = PilImage.new("L", (20, 12), 90)
    ImageDraw.Draw(image).rectangle((0, 0, 19, 3), fill=10)
    strips = Strips.around([(image, {"bbox": [[0, 0, 20, 12]], "text": ["a"]})])
    batch = strips.load(strips.groups[32])
    strip = ((batch.strips[0, 0] + 1) * 127.5).round()
    assert strip.unique().tolist() == [10, 90]
    assert (strip[:14] == 10).all() and (strip[14:] == 90).all()


def test_images_without_texts_give_no_strips(page: Page) -> None:
    image, objects = page(["abc", "deb"])
    without: list[Any] = [None, {}, {"bbox": [], "text": []}, {"bbox": objects["bbox"]}]
    assert not Strips.around([(image, some) for some in without]).groups
    half = {"bbox": objects["bbox"], "text": ["abc", ""]}  # a box whose text is not known
    assert [len(group) for group in Strips.around([(image, half)]).groups.values()] == [1]


def write(folder: Path, rows: dict[str, list], features: Features = FEATURES) -> Path:
    Dataset.from_dict(rows, features).save_to_disk(str(folder))
    return folder


def test_data_sets_that_do_not_fit(tmp_path: Path, page: Page) -> None:
    image, objects = page(["abc", "deb"])
    plain = write(tmp_path / "plain", {"image": [image]}, Features(image=Image()))
    with pytest.raises(ValueError, match="plain.*'objects'"):
        Strips.read(str(plain), "train", 256)
    empty = write(tmp_path / "empty", {"image": [image], "objects": [{"bbox": [], "text": []}]})
    with pytest.raises(ValueError, match="empty.*256 px"):
        Strips.read(str(empty), "train", 256)
    good = write(tmp_path / "good", {"image": [image], "objects": [objects]})
    with pytest.raises(ValueError, match="good.*16 px"):
        Strips.read(str(good), "train", 16)
    short = {"bbox": objects["bbox"], "text": ["abc"]}
    odd = write(tmp_path / "odd", {"image": [image, image], "objects": [objects, short]})
    with pytest.raises(ValueError, match="odd, row 1: objects.*1 texts.*2 boxes"):
        Strips.read(str(odd), "train", 256)
    bad = write(tmp_path / "bad", {"image": [image], "objects": [{"bbox": [[1.0, 2.0]], "text": ["a"]}]})
    with pytest.raises(ValueError, match="bad, row 0: objects is "):
        Strips.read(str(bad), "train", 256)
    with pytest.raises(FileNotFoundError, match="nowhere not found"):
        Strips.read(str(tmp_path / "nowhere"), "train", 256)


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path, page: Page) -> None:
    image, objects = page(["abc", "deb"])
    stored = io.BytesIO()
    image.save(stored, "PNG")
    cells = [{"bytes": b"no image", "path": None}, {"bytes": stored.getvalue(), "path": None}]
    features = Features(image=Image(decode=False), objects=FEATURES["objects"])
    folder = write(tmp_path / "some", {"image": cells, "objects": [objects] * 2}, features)
    with pytest.warns(UserWarning, match="skipped 1 .*; row 0: "):
        strips = Strips.read(str(folder), "train", 256)
    assert sum(map(len, strips.groups.values())) == 2
