"""Images of a data set: read, fitted, grouped by size, with their boxes."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage
from PIL import ImageDraw
from torch import Tensor

from earlyfusion.data.images import read_images, text_boxes
from earlyfusion.tokenizers.pixels import to_tensor


def test_cached_images_are_those_on_the_disk(image_folder: Path):
    cached, read = (read_images(image_folder, factor=8, cache_mb=mb) for mb in (64, 0))
    assert cached.cache is not None
    assert read.cache is None
    for group in cached.groups.values():
        assert torch.equal(cached.load(group), read.load(group))
        assert torch.equal(cached.load(group[[2, 0]]), cached.load(group)[[2, 0]])


def test_lists_of_images_with_gaps_and_images_that_cannot_be_read(photo: PilImage.Image):
    stored = io.BytesIO()
    photo.save(stored, "PNG")
    good, broken = {"bytes": stored.getvalue(), "path": None}, {"bytes": b"no image", "path": None}
    rows = [[good, None, good], [None], [], [broken, good]]
    dataset = Dataset.from_dict({"images": rows}, Features(images=List(Image(decode=False))))
    with pytest.warns(UserWarning, match="skipped 1 "):
        images = read_images(dataset, factor=8)
    assert len(images) == 3
    assert [len(images.skipped), images.skipped[0][:6]] == [1, "row 3:"]
    expected = to_tensor(photo)
    assert torch.equal(images.load(np.array([0]))[0], expected)


def test_large_images_are_scaled_down(photo: PilImage.Image):
    dataset = Dataset.from_dict({"image": [photo, photo]}, Features(image=Image()))
    assert list(read_images(dataset, factor=8, max_side=24).groups) == [(16, 24)]


OBJECTS = {"bbox": List(List(Value("float32"))), "text": List(Value("string"))}


def marked(size: tuple[int, int], boxes: list[tuple[int, int, int, int]]) -> PilImage.Image:
    """White, with black bars where the boxes (x, y, width, height) are."""
    image = PilImage.new("RGB", size, "white")
    for x, y, width, height in boxes:
        ImageDraw.Draw(image).rectangle((x, y, x + width - 1, y + height - 1), fill="black")
    return image


def boxed(*rows: tuple[tuple[int, int], list[tuple[int, int, int, int]]]) -> Dataset:
    """A data set whose images show their boxes, after Hugging Face's imagefolder."""
    objects = [{"bbox": [list(box) for box in boxes], "text": ["x"] * len(boxes)} for _, boxes in rows]
    images = [marked(size, boxes) for size, boxes in rows]
    return Dataset.from_dict({"image": images, "objects": objects}, Features(image=Image(), objects=OBJECTS))


def seen(image: Tensor) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is dark in (3, H, W): edges where it is half dark."""
    darkness = (1 - image.mean(0)) / 2
    x, y = darkness.amax(0), darkness.amax(1)
    (left, right), (top, bottom) = (
        ((float(places.min()), float(places.max() + 1)))
        for places in ((x > 0.5).nonzero(), (y > 0.5).nonzero())
    )
    return left, top, right, bottom


@pytest.mark.parametrize("cache_mb", [64, 0])
@pytest.mark.parametrize("policy", ["resize", "pad"])
@pytest.mark.parametrize("max_side", [None, 32])
def test_boxes_are_where_the_text_is(policy: Any, max_side: int | None, cache_mb: int):
    """Sides that do not divide are bent by `resize`; `pad` keeps the place; both may be scaled down."""
    box = (13, 9, 21, 14)
    dataset = boxed(((60, 42), [box]), ((64, 32), []), ((60, 42), [(30, 20, 12, 18)]))
    images = read_images(dataset, factor=8, policy=policy, max_side=max_side, cache_mb=cache_mb)
    found = 0
    for group in images.groups.values():
        batch = images.batch(group)
        for number, *corners in batch.boxes.tolist():
            found += 1
            assert corners == pytest.approx(seen(batch.images[int(number)]), abs=1)
    assert found == 2
    if policy == "pad" and max_side is None:  # to the pixel
        (boxes,) = (images.batch(group).boxes for size, group in images.groups.items() if size == (48, 64))
        assert boxes.tolist() == [[0, 13, 9, 34, 23], [1, 30, 20, 42, 38]]


def test_boxes_that_are_none():
    assert text_boxes(None, (10, 10), (10, 10)).shape == (0, 4)
    assert text_boxes({"bbox": [], "text": []}, (10, 10), (10, 10)).shape == (0, 4)
    assert text_boxes({"bbox": [[1, 2, 3, 4]]}, (10, 20), (20, 10)).tolist() == [[2, 1, 8, 3]]


@pytest.mark.parametrize(
    "objects",
    [
        {"bbox": [[1, 2, 3]]},
        {"bbox": [[1, 2, 3, 4], [1, 2]]},
        {"bbox": [[1, 2, 3, 4, 5, 6, 7, 8]]},
        {"bbox": [1, 2, 3, 4]},
        {"bbox": [[1, 2, -3, 4]]},
        {"bbox": [[1, 2, None, 4]]},
        {"bbox": [[1, 2, float("inf"), 4]]},
        {"bbox": "here"},
        {"bbox": 7},
        [{"bbox": [1, 2, 3, 4]}],
        "here",
    ],
)
def test_objects_that_are_no_boxes(objects: Any):
    with pytest.raises(ValueError, match="objects.*bbox.*x, y, width, height") as caught:
        text_boxes(objects, (10, 10), (10, 10))
    assert "\n" not in str(caught.value)


def test_a_row_with_bad_objects_is_named(photo: PilImage.Image):
    objects = [{"bbox": [[1.0, 2.0, 3.0, 4.0]]}, {"bbox": [[1.0, 2.0]]}]
    features = Features(image=Image(), objects={"bbox": List(List(Value("float32")))})
    dataset = Dataset.from_dict({"image": [photo, photo], "objects": objects}, features)
    with pytest.raises(ValueError, match="row 1: objects"):
        read_images(dataset, factor=8)


def test_boxes_of_an_imagefolder(tmp_path: Path):
    """As Hugging Face's imagefolder has them: metadata.jsonl with the column objects."""
    marked((40, 24), [(8, 4, 10, 6)]).save(tmp_path / "a.png")
    PilImage.new("RGB", (40, 24), "white").save(tmp_path / "b.png")
    lines = [
        {"file_name": "a.png", "objects": {"bbox": [[8, 4, 10, 6]], "text": ["word"]}},
        {"file_name": "b.png", "objects": {"bbox": [], "text": []}},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    images = read_images(tmp_path, factor=8)
    batch = images.batch(images.groups[24, 40])
    assert len(batch.boxes) == 1
    assert tuple(batch.boxes[0, 1:].tolist()) == seen(batch.images[int(batch.boxes[0, 0])])


def test_sources_of_many_kinds(tmp_path: Path, image_folder: Path, photo: PilImage.Image):
    saved = Dataset.load_from_disk(str(image_folder)).select(range(3))
    saved.to_parquet(str(tmp_path / "images.parquet"))
    assert len(read_images(tmp_path / "images.parquet", factor=8)) == 3
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        photo.save(folder / f"{number}.png")
    assert len(read_images(folder, factor=8)) == 2
    photo.save(folder / "more.png")
    assert len(read_images(folder, factor=8)) == 3  # not what `datasets` remembers of the folder
    lines = tmp_path / "images.jsonl"
    lines.write_text('{"image": "photos/0.png"}\n{"image": "photos/1.png"}\n')
    assert len(read_images(lines, factor=8)) == 2


def test_columns_and_images_that_cannot_be_used(image_folder: Path):
    with pytest.raises(ValueError, match="'picture'.*found image"):
        read_images(image_folder, factor=8, column="picture")
    with pytest.raises(ValueError, match="no image.*'image'"):
        read_images(Dataset.from_dict({"image": [b"x"]}), factor=8)
