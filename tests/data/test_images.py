"""The loader's order and its resumption; images in buckets; windows from the disk."""

import io
import json
import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage
from PIL import ImageDraw
from torch import Tensor

from earlyfusion.data.images import ImageData, read_images, text_boxes
from earlyfusion.data.loader import Batches, shuffled_batches
from earlyfusion.data.sources import load_source
from earlyfusion.data.windows import TokenData, Windows
from earlyfusion.tokenizers.pixels import to_tensor

GROUPS = [np.arange(0, 10), np.arange(10, 17)]


def batches(**options) -> Batches:
    return Batches(lambda epoch: shuffled_batches(GROUPS, [4, 3], 7, epoch), lambda x: x.tolist(), **options)


def test_each_epoch_has_every_sample_once_in_another_order():
    loader = batches()
    first, second = list(loader), list(loader)
    assert len(first) == len(loader) == 6
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(17))
    assert first != second
    assert all(max(b) < 10 or min(b) >= 10 for b in first)  # no batch mixes the groups
    assert list(batches()) == first  # the seed decides


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 6, 8])
def test_a_stopped_run_goes_on_with_the_next_samples(stop: int, workers: int):
    straight = batches()
    expected = [*straight, *straight, *straight]
    loader, seen = batches(num_workers=workers), []
    while len(seen) < stop:
        for batch in loader:
            seen.append(batch)
            if len(seen) == stop:
                break
    state = json.loads(json.dumps(loader.state_dict()))  # plain values
    again = batches()
    again.load_state_dict(state)
    iter(again)  # Lightning makes an iterator and drops it
    while len(seen) < len(expected):
        seen += list(again)
    assert seen == expected


def test_ranks_share_the_batches_and_the_state_fits_other_numbers_of_ranks():
    whole = list(batches())
    ranks = [list(batches(rank=rank, world_size=2)) for rank in range(2)]
    assert [b for pair in zip(*ranks, strict=True) for b in pair] == whole
    loader = batches(rank=1, world_size=2)
    steps = iter(loader)
    next(steps)
    next(steps)
    alone = batches()
    alone.load_state_dict(loader.state_dict())
    assert list(alone) == whole[4:]


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
    with pytest.warns(UserWarning, match="skipped 1 images"):
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


def test_boxes_follow_their_images_into_the_batches():
    """Every batch numbers its own images, however they are shuffled; images without boxes are among them."""
    rows: list[Any] = [((32, 16), [(i % 20, i % 9, 5, 4), (20, 10, 3, 3)][: i % 3]) for i in range(24)]
    data = ImageData(boxed(*rows), factor=8, batch_pixels=32 * 16 * 5, validation_share=0.2)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.train_dataloader(), data.val_dataloader()):
        for batch in loader:
            assert batch.boxes.dtype == torch.float32 and batch.boxes.shape[1] == 5
            expected = torch.ones(batch.images.shape[0], 16, 32)
            for number, left, top, right, bottom in batch.boxes.int().tolist():
                expected[number, top:bottom, left:right] = -1
            assert torch.equal(batch.images.mean(1), expected)


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
    expected = r"objects is .*, expected \{\"bbox\": \[\[x, y, width, height\], \.\.\.\]"
    with pytest.raises(ValueError, match=expected) as caught:
        text_boxes(objects, (10, 10), (10, 10))
    assert "\n" not in str(caught.value)


def test_a_row_with_bad_objects_is_named(photo: PilImage.Image):
    objects = [{"bbox": [[1.0, 2.0, 3.0, 4.0]]}, {"bbox": [[1.0, 2.0]]}]
    features = Features(image=Image(), objects={"bbox": List(List(Value("float32")))})
    dataset = Dataset.from_dict({"image": [photo, photo], "objects": objects}, features)
    with pytest.raises(ValueError, match="^the data set, row 1: objects is"):
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


def test_a_part_of_several_is_chosen(tmp_path: Path, image_folder: Path):
    saved = Dataset.load_from_disk(str(image_folder))
    parts: Any = {"train": saved, "validation": saved.select(range(5))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    assert len(load_source(tmp_path / "both")) == 48
    assert len(load_source(tmp_path / "both", "validation")) == 5


def test_clear_errors(tmp_path: Path, image_folder: Path):
    with pytest.raises(FileNotFoundError, match="nowhere not found: a data set is expected"):
        load_source(tmp_path / "nowhere")
    (tmp_path / "notes.md").write_text("no data")
    with pytest.raises(ValueError, match="cannot be read as a data set: unknown ending '.md'"):
        load_source(tmp_path / "notes.md")
    with pytest.raises(ValueError, match="expected the column 'picture', found image"):
        read_images(image_folder, factor=8, column="picture")
    with pytest.raises(ValueError, match="no image in the column 'image' can be read"):
        read_images(Dataset.from_dict({"image": [b"x"]}), factor=8)


def test_sample_images_are_drawn_by_the_seed(image_folder: Path):
    data = ImageData(str(image_folder), batch_pixels=1024)
    data.setup("fit")
    first, again, other = (list(data.sample_images(10, seed)) for seed in (0, 0, 1))
    assert sum(len(batch) for batch in first) == 10
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert [b.sum() for b in first] != [b.sum() for b in other]
    assert sum(len(batch) for batch in data.sample_images(1000)) == 47  # one is held out


def test_windows_are_read_without_a_copy_in_any_order(prepared: Path):
    windows = Windows(prepared / "train")
    stored = Dataset.load_from_disk(str(prepared / "train"))
    chosen = np.array(random.Random(0).sample(range(windows.length), 5))
    batch = windows.load(chosen)
    assert batch["tokens"].dtype == torch.int64
    assert batch["tokens"].tolist() == [stored[int(i)]["tokens"] for i in chosen]
    assert batch["documents"].tolist() == [stored[int(i)]["documents"] for i in chosen]
    assert not windows._chunks[0][0].flags.owndata


def test_windows_of_a_file_with_many_chunks(tmp_path: Path, prepared: Path):
    stored = Dataset.load_from_disk(str(prepared / "train"))
    joined = datasets.concatenate_datasets([stored, stored.select(range(2, 5))])
    joined.save_to_disk(str(tmp_path / "joined"), num_shards=3)
    windows = Windows(tmp_path / "joined")
    numbers = np.array([windows.length - 1, 0, stored.num_rows])
    assert windows.load(numbers)["tokens"].tolist() == [joined[int(i)]["tokens"] for i in numbers]


def test_token_data_limit(prepared: Path):
    def windows(limit: int | None) -> set[int]:
        data = TokenData(str(prepared), batch_size=4, limit=limit)
        data.setup()
        return {int(i) for batch in data.train_dataloader() for i in batch["windows"]}

    assert windows(4) == set(range(4)) and len(windows(None)) > 8
    with pytest.raises(ValueError, match="limit must be positive, got 0"):
        TokenData(str(prepared), limit=0)
