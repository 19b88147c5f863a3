"""The images of a training: batches of one size, windows around texts."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage
from PIL import ImageDraw

from earlyfusion.train.image.data import ImageData


def test_images_come_in_batches_of_one_size_by_pixels(image_folder: Path):
    data = ImageData(str(image_folder), batch_pixels=16 * 16 * 8, validation_share=0.25)
    data.setup("fit")
    shapes = [tuple(batch.images.shape) for batch in data.train_dataloader()]
    assert {shape[2:] for shape in shapes} == {(16, 16), (16, 24), (16, 40)}
    for count, channels, height, width in shapes:
        assert channels == 3
        assert count <= max(1, 16 * 16 * 8 // (height * width))
    held_out = sum(len(batch.images) for batch in data.val_dataloader())
    assert held_out == 12
    assert sum(shape[0] for shape in shapes) == 48 - held_out
    batch = next(iter(data.train_dataloader()))
    assert batch.images.dtype == torch.float32
    assert -1 <= float(batch.images.min()) < float(batch.images.max()) <= 1
    assert batch.boxes.shape == (0, 5)  # no column objects


def test_boxes_follow_their_images_into_the_batches():
    """Every batch numbers its own images, however they are shuffled; images without boxes are among them."""
    boxes = [[(i % 20, i % 9, 5, 4), (20, 10, 3, 3)][: i % 3] for i in range(24)]
    images = [PilImage.new("RGB", (32, 16), "white") for _ in boxes]
    for image, corners in zip(images, boxes):
        for x, y, width, height in corners:
            ImageDraw.Draw(image).rectangle((x, y, x + width - 1, y + height - 1), fill="black")
    features = Features(image=Image(), objects={"bbox": List(List(Value("float32")))})
    objects = [{"bbox": [list(map(float, box)) for box in corners]} for corners in boxes]
    dataset = Dataset.from_dict({"image": images, "objects": objects}, features)
    data = ImageData(dataset, factor=8, batch_pixels=32 * 16 * 5, validation_share=0.2)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.train_dataloader(), data.val_dataloader()):
        for batch in loader:
            assert batch.boxes.dtype == torch.float32 and batch.boxes.shape[1] == 5
            expected = torch.ones(batch.images.shape[0], 16, 32)
            for number, left, top, right, bottom in batch.boxes.int().tolist():
                expected[number, top:bottom, left:right] = -1
            assert torch.equal(batch.images.mean(1), expected)


def test_sample_images_are_drawn_by_the_seed(image_folder: Path):
    data = ImageData(str(image_folder), batch_pixels=1024)
    data.setup("fit")
    first, again, other = (list(data.sample_images(10, seed)) for seed in (0, 0, 1))
    assert sum(len(batch) for batch in first) == 10
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert [b.sum() for b in first] != [b.sum() for b in other]
    assert sum(len(batch) for batch in data.sample_images(1000)) == 47  # one is held out


def test_batches_of_windows_follow_the_seed(tmp_path: Path) -> None:
    images = [PilImage.linear_gradient("L").resize((64, 48)).convert("RGB") for _ in range(8)]
    objects = [{"bbox": [[float(4 * i), 20.0, 12.0, 8.0]]} for i in range(8)]
    features = Features(image=Image(), objects={"bbox": List(List(Value("float32")))})
    dataset = Dataset.from_dict({"image": images, "objects": objects}, features)

    def batches(seed: int) -> list:
        data = ImageData(dataset, dataset, factor=8, crop=(16, 32), batch_pixels=16 * 32 * 3, seed=seed)
        data.setup("fit")
        assert data.positions == 8 * 2 * 4
        assert all(batch.images.shape[2:] == (48, 64) for batch in data.val_dataloader())  # whole
        assert {batch.shape[2:] for batch in data.sample_images(5)} == {(16, 32)}
        return list(data.train_dataloader())

    first, again, other = batches(0), batches(0), batches(1)
    assert [len(batch.images) for batch in first] == [3, 3, 2] or len(first) == 3
    for batch, same in zip(first, again, strict=True):
        assert batch.images.shape[1:] == (3, 16, 32) and len(batch.boxes) == len(batch.images)
        assert torch.equal(batch.images, same.images) and torch.equal(batch.boxes, same.boxes)
    assert not all(torch.equal(a.boxes, b.boxes) for a, b in zip(first, other, strict=True))
    for crop in ((12, 32), (0, 8)):
        with pytest.raises(ValueError, match="crop.*multiples of 8"):
            ImageData(dataset, factor=8, crop=crop)
