import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from earlyfusion.eval.items import Item, TextRegion, Word, images_from_folder, scaled, words_from_file


@pytest.fixture
def folder(tmp_path: Path, photo: Image.Image) -> Path:
    photo.save(tmp_path / "a.png")
    (tmp_path / "deep").mkdir()
    photo.convert("L").save(tmp_path / "deep" / "b.jpg")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    return tmp_path


def write_lines(path: Path, *rows: object) -> None:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")


def test_metadata_says_which_images_and_what_they_show(folder: Path):
    write_lines(
        folder / "metadata.jsonl",
        {"file_name": "deep/b.jpg", "text": "grün", "size": 12, "kind": "word"},
        "",
        {"file_name": "broken.png", "text": "x"},
        {"file_name": "missing.png"},
        {"file_name": "a.png", "anything": ["else"]},
    )
    items, skipped = images_from_folder(folder)
    assert [(i.name, i.text, i.size, i.kind) for i in items] == [
        ("deep/b.jpg", "grün", 12, "word"),
        ("a.png", None, None, None),
    ]
    assert all(item.image.mode == "RGB" for item in items)
    assert len(skipped) == 2
    assert skipped[0].startswith("broken.png: ")
    assert skipped[1].startswith("missing.png: ")
    assert len(images_from_folder(folder, limit=1).items) == 1


def test_without_metadata_all_image_files_count(folder: Path):
    (folder / "notes.txt").write_text("no image")
    items, skipped = images_from_folder(folder)
    assert [item.name for item in items] == ["a.png", "deep/b.jpg"]
    assert len(skipped) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ('["a.png"]', "line 2"),
        ('{"text": "x"}', 'line 2.*"file_name".*null'),
        ('{"file_name": "a.png", "text": 3}', 'line 2.*"text".*3'),
        ('{"file_name": "a.png", "size": "12"}', 'line 2.*"size".*"12"'),
        ('{"file_name": "a.png", "size": -1}', 'line 2.*"size".*-1'),
        ('{"file_name": "a.png", "text": "\\ud800"}', 'line 2.*"text"'),
    ],
)
def test_malformed_metadata_is_one_clear_line(folder: Path, line: str, message: str):
    write_lines(folder / "metadata.jsonl", {"file_name": "a.png"}, line)
    with pytest.raises(ValueError, match=message) as caught:
        images_from_folder(folder)
    assert "\n" not in str(caught.value)


def test_folders_without_usable_images(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="none"):
        images_from_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="metadata.jsonl"):
        images_from_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"1 images.*a\.png"):
        images_from_folder(tmp_path)


def test_words_from_file(tmp_path: Path):
    path = tmp_path / "words.jsonl"
    path.write_bytes('\ufeff{"text": "apple"}\r\n\r\n{"text": "a\u2028b", "kind": "odd"}\r\n'.encode())
    assert words_from_file(path) == [Word("apple"), Word("a\u2028b", "odd")]
    assert words_from_file(path, limit=1) == [Word("apple")]
    path.write_bytes(b'{"text": "a"}\n{"text": " "}')
    with pytest.raises(ValueError, match='line 2.*"text"'):
        words_from_file(path)
    path.write_bytes(b"\n")
    with pytest.raises(ValueError, match="words.jsonl"):
        words_from_file(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="words.jsonl"):
        words_from_file(path)
    with pytest.raises(FileNotFoundError, match="none.jsonl"):
        words_from_file(tmp_path / "none.jsonl")


def test_objects_of_the_metadata_become_boxes(folder: Path):
    objects = {"bbox": [[1, 2, 10, 5.5], [20, 3, 8, 8], [0, 0, 4, 4]], "text": ["one", "two", None]}
    write_lines(
        folder / "metadata.jsonl",
        {"file_name": "a.png", "size": 7, "objects": {**objects, "category": [0, 0, 1]}},
        {"file_name": "deep/b.jpg", "objects": {"bbox": [], "text": []}},
    )
    items, _ = images_from_folder(folder)
    assert items[0].boxes == (
        TextRegion("one", 1, 2, 11, 7.5, 7),
        TextRegion("two", 20, 3, 28, 11, 7),
    )
    assert items[0].text is None and items[1].boxes == ()


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("[]", r'line 2.*"objects".*\[\]'),
        ('{"bbox": [[0, 0, 4, 4]]}', 'line 2.*"objects".*"bbox".*"text"'),
        ('{"bbox": [[0, 0, 4, 4]], "text": []}', 'line 2.*"objects".*"bbox".*"text"'),
        ('{"bbox": [[0, 0, 4]], "text": ["x"]}', r"line 2.*bbox.*\[0, 0, 4\]"),
        ('{"bbox": [[0, 0, 4, "4"]], "text": ["x"]}', "line 2.*bbox"),
        ('{"bbox": [[0, 0, 0, 4]], "text": ["x"]}', "line 2.*bbox"),
        ('{"bbox": [[-1, 0, 4, 4]], "text": ["x"]}', "line 2.*bbox"),
        ('{"bbox": [[0, 0, NaN, 4]], "text": ["x"]}', "line 2.*bbox"),
        ('{"bbox": [[0, 0, 4, 4]], "text": [3]}', 'line 2.*"text".*3'),
        ('{"bbox": [[40, 0, 9, 4]], "text": ["x"]}', "line 2.*'x'.*49, 4.*48 x 32"),
    ],
)
def test_malformed_boxes_are_one_clear_line(folder: Path, objects: str, message: str):
    line = f'{{"file_name": "a.png", "objects": {objects}}}'
    write_lines(folder / "metadata.jsonl", {"file_name": "deep/b.jpg"}, line)
    with pytest.raises(ValueError, match=message) as caught:
        images_from_folder(folder)
    assert "\n" not in str(caught.value)


def test_odd_images_are_read_and_broken_ones_skipped_with_a_reason(tmp_path: Path, photo: Image.Image):
    photo.convert("P").save(tmp_path / "palette.png")
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg")
    photo.convert("LA").save(tmp_path / "la.png")
    photo.convert("1").save(tmp_path / "bilevel.tif")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "sixteen.png")
    photo.save(tmp_path / "animated.gif", save_all=True, append_images=[photo.rotate(90)])
    photo.resize((1, 1)).save(tmp_path / "one.png")
    photo.resize((5000, 1)).save(tmp_path / "long.png")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    photo.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-300])
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    bomb = Image.new("1", (14_000, 13_000))
    bomb.save(tmp_path / "bomb.png")
    items, skipped = images_from_folder(tmp_path)
    sizes = {item.name: item.image.size for item in items}
    assert {"palette.png", "cmyk.jpg", "la.png", "bilevel.tif", "sixteen.png", "animated.gif"} <= set(sizes)
    assert sizes["one.png"] == (1, 1) and sizes["long.png"] == (5000, 1)
    assert all(item.image.mode == "RGB" for item in items)
    sixteen = next(item.image for item in items if item.name == "sixteen.png")
    assert sixteen.getpixel((0, 0)) == (round(40_000 / 257),) * 3
    reasons = dict(line.split(": ", 1) for line in skipped)
    assert set(reasons) == {"text.png", "empty.png", "cut.png", "float.tif", "bomb.png"}
    assert "pixels" in reasons["bomb.png"] and "floating-point" in reasons["float.tif"]
    assert len(items) + len(skipped) == 13


def test_images_are_scaled_to_a_height_that_the_model_knows() -> None:
    for height, chosen in ((10, 16), (18, 16), (21, 24), (300, 24)):
        item = scaled(Item(Image.new("RGB", (3 * height, height)), "x", size=height / 2), (16, 24))
        assert item.image.size == (3 * chosen, chosen) and item.size == pytest.approx(chosen / 2)


def test_every_page_of_a_tiff_is_an_image(tmp_path: Path, photo: Image.Image):
    second = photo.rotate(90, expand=True)
    photo.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    items, skipped = images_from_folder(tmp_path)
    assert [(item.name, item.image.size) for item in items] == [
        ("two.tif", photo.size),
        ("two.tif, page 2", second.size),
    ]
    assert skipped == []
    write_lines(tmp_path / "metadata.jsonl", {"file_name": "two.tif", "text": "first"})
    items, skipped = images_from_folder(tmp_path)
    assert [(item.name, item.text) for item in items] == [("two.tif", "first")]
    assert len(skipped) == 1 and skipped[0].startswith("two.tif: ") and "1 more page" in skipped[0]
    (tmp_path / "metadata.jsonl").unlink()
    data = (tmp_path / "two.tif").read_bytes()
    (tmp_path / "two.tif").write_bytes(data[: len(data) - 40])  # the last page's pixels or directory are cut
    items, skipped = images_from_folder(tmp_path)
    assert [item.name for item in items] == ["two.tif"] and len(skipped) == 1
