import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from earlyfusion.data.render.lexicon import kept_for_measuring
from earlyfusion.data.render.openmoji import render_drawing
from earlyfusion.data.render.split import demo_concepts, demo_words
from earlyfusion.data.render.typeset import KINDS, PAGES
from earlyfusion.data.render.words import SIZES
from earlyfusion.eval.items import (
    TextRegion,
    Word,
    images_from_folder,
    ink_box,
    ocr_suite,
    openmoji_suite,
    scans,
    word_suite,
    words_from_file,
)


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
    assert skipped[0].startswith("broken.png: ") and "cannot be read" in skipped[0]
    assert skipped[1].startswith("missing.png: ") and "not found" in skipped[1]
    assert len(images_from_folder(folder, limit=1).items) == 1


def test_without_metadata_all_image_files_count(folder: Path):
    (folder / "notes.txt").write_text("no image")
    items, skipped = images_from_folder(folder)
    assert [item.name for item in items] == ["a.png", "deep/b.jpg"]
    assert len(skipped) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ('["a.png"]', "line 2 is not a JSON object"),
        ('{"text": "x"}', 'line 2: "file_name" is null, expected a string'),
        ('{"file_name": "a.png", "text": 3}', 'line 2: "text" is 3, expected a string'),
        ('{"file_name": "a.png", "size": "12"}', 'line 2: "size" is "12", expected a number'),
        ('{"file_name": "a.png", "size": -1}', 'line 2: "size" is -1, expected a positive'),
        ('{"file_name": "a.png", "text": "\\ud800"}', 'line 2: "text" holds half of a surrogate'),
    ],
)
def test_malformed_metadata_is_one_clear_line(folder: Path, line: str, message: str):
    write_lines(folder / "metadata.jsonl", {"file_name": "a.png"}, line)
    with pytest.raises(ValueError, match=message) as caught:
        images_from_folder(folder)
    assert "\n" not in str(caught.value)


def test_folders_without_usable_images(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        images_from_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="has no images"):
        images_from_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="none of the 1 images"):
        images_from_folder(tmp_path)


def test_words_from_file(tmp_path: Path):
    path = tmp_path / "words.jsonl"
    path.write_bytes('\ufeff{"text": "apple"}\r\n\r\n{"text": "a\u2028b", "kind": "odd"}\r\n'.encode())
    assert words_from_file(path) == [Word("apple"), Word("a\u2028b", "odd")]
    assert words_from_file(path, limit=1) == [Word("apple")]
    path.write_bytes(b'{"text": "a"}\n{"text": " "}')
    with pytest.raises(ValueError, match='line 2: "text" is empty'):
        words_from_file(path)
    path.write_bytes(b"\n")
    with pytest.raises(ValueError, match="has no lines"):
        words_from_file(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be read as JSON lines"):
        words_from_file(path)
    with pytest.raises(FileNotFoundError, match="not found"):
        words_from_file(tmp_path / "none.jsonl")


def test_ink_box_is_where_the_image_differs_from_its_background():
    image = Image.new("RGB", (40, 20), "white")
    assert ink_box(image) is None
    ImageDraw.Draw(image).rectangle((5, 3, 11, 15), fill="black")
    assert ink_box(image) == (5, 3, 12, 16)
    assert ink_box(image.point(lambda v: 255 - v)) == (5, 3, 12, 16)


def test_word_suite_is_reproducible_and_has_its_share_of_random_strings():
    words = ["apple", "river", "stone", "cloud", "table", "music"]
    items = word_suite(3, held_out=words)
    assert [(i.text, i.name, i.size) for i in items] == [
        (i.text, i.name, i.size) for i in word_suite(3, held_out=words)
    ]
    assert sorted(str(i.text) for i in items if i.kind == "word") == sorted(words)
    random = [str(i.text) for i in items if i.kind == "random"]
    assert len(random) == 4
    assert not any(word in text for word in words for text in random)
    assert all(i.image.mode == "RGB" and i.image.height == 16 and not i.image.width % 8 for i in items)
    assert {i.name.rsplit(" ", 1)[0] for i in items} <= {"Lato", "Caladea"}
    assert [i.text for i in word_suite(4, held_out=words)] != [i.text for i in items]


def test_word_suite_on_higher_strips_scales_the_type():
    items = word_suite(0, held_out=["apple"] * 10, heights=(32,), random_share=0)
    assert {i.image.height for i in items} == {32}
    assert {i.size for i in items} <= {2.0 * size for size in SIZES}


def test_the_default_suite_has_at_least_500_held_out_words():
    items = word_suite(0)
    assert sum(i.kind == "word" for i in items) >= 500
    assert 0.3 <= sum(i.kind == "random" for i in items) / len(items) <= 0.5


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
        ("[]", 'line 2: "objects" is \\[\\], expected an object'),
        ('{"bbox": [[0, 0, 4, 4]]}', 'line 2: "objects" is expected to hold the lists "bbox" and "text"'),
        ('{"bbox": [[0, 0, 4, 4]], "text": []}', "of the same length"),
        ('{"bbox": [[0, 0, 4]], "text": ["x"]}', "line 2: a bbox is \\[0, 0, 4\\], expected"),
        ('{"bbox": [[0, 0, 4, "4"]], "text": ["x"]}', "line 2: a bbox is"),
        ('{"bbox": [[0, 0, 0, 4]], "text": ["x"]}', "line 2: a bbox is"),
        ('{"bbox": [[-1, 0, 4, 4]], "text": ["x"]}', "line 2: a bbox is"),
        ('{"bbox": [[0, 0, NaN, 4]], "text": ["x"]}', "line 2: a bbox is"),
        ('{"bbox": [[0, 0, 4, 4]], "text": [3]}', 'line 2: "text" is 3, expected a string'),
        ('{"bbox": [[40, 0, 9, 4]], "text": ["x"]}', "line 2: the box of 'x' ends at 49, 4, outside"),
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


# the OCR-like suite


def test_ocr_suite_covers_all_kinds_and_is_reproducible():
    items = ocr_suite(0, per_kind=4)
    again = ocr_suite(0, ["line", "word"], per_kind=4)
    assert Counter(item.kind for item in items) == {k: 1 if k in PAGES else 4 for k in KINDS}
    by_kind = {kind: [i for i in items if i.kind == kind] for kind in ("line", "word")}
    for item, other in zip(by_kind["line"] + by_kind["word"], again, strict=True):
        assert item.boxes == other.boxes and item.image.tobytes() == other.image.tobytes()
    assert ocr_suite(1, ["word"], 4)[0].boxes != by_kind["word"][0].boxes
    assert all(item.boxes and item.text for item in items)
    assert {item.name for item in items} <= {"Lato", "Caladea"}
    assert all(not side % 16 for item in items for side in item.image.size)


def test_ocr_suite_fills_tokbenchs_bins_with_words():
    counts: Counter[float] = Counter()
    for item in ocr_suite(0, ["word", "random", "line"], per_kind=20):
        for box in item.boxes:
            size = (box.right - box.left) / len(box.text) / max(item.image.size)
            counts[next((low for low in (0.04, 0.03, 0.02) if size >= low), 0.0)] += 1
    assert min(counts[low] for low in (0.02, 0.03, 0.04)) >= 8
    assert counts[0.0] <= 6  # too small to count


def test_ocr_suite_is_of_held_out_words_and_strings_kept_for_measuring():
    held_out = set(demo_words().held_out)
    for item in ocr_suite(0, ["word", "random"], per_kind=20):
        text = str(item.text)
        assert text.lower() in held_out if item.kind == "word" else kept_for_measuring(text)


def test_ocr_suite_refuses_what_it_does_not_have():
    with pytest.raises(ValueError, match="kinds has 'poem', expected some of word"):
        ocr_suite(0, ["word", "poem"])
    with pytest.raises(ValueError, match="per_kind is 0"):
        ocr_suite(0, per_kind=0)


# the other suites


def test_openmoji_suite_is_of_held_out_concepts_and_is_reproducible():
    split = demo_concepts()
    drawings = {drawing for concept in split.held_out for drawing in concept.drawings}
    items = openmoji_suite(0, 10**6)
    assert len(items) == len(drawings) >= 30
    assert Counter(item.name for item in items).keys() == {concept.name for concept in split.held_out}
    measured = {item.image.tobytes() for item in items}
    assert measured == {render_drawing(drawing, 64).tobytes() for drawing in drawings}
    trained = {drawing for concept in split.train for drawing in concept.drawings}
    assert not measured & {render_drawing(drawing, 64).tobytes() for drawing in trained}
    for item in items:
        assert (item.image.size, item.image.mode, item.kind) == ((64, 64), "RGB", "picture")
        assert item.image.getpixel((0, 0)) == (255, 255, 255)
        assert item.text is None and not item.boxes
    few = openmoji_suite(0, 7)
    assert [item.name for item in few] == [item.name for item in items[:7]]
    assert [item.name for item in openmoji_suite(1, 7)] != [item.name for item in few]
    assert openmoji_suite(0, 1, size=32)[0].image.size == (32, 32)


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs the extra `scans`")
def test_scans_have_a_box_around_each_word():
    (item,) = scans()
    assert item.kind == "scan" and len(item.boxes) == len(str(item.text).split()) == 47
    grey = np.asarray(item.image.convert("L"), dtype=float)
    for box in item.boxes:
        inside = grey[round(box.top) : round(box.bottom), round(box.left) : round(box.right)]
        assert np.percentile(inside, 90) - inside.min() > 50, box  # ink on paper
        assert 0.2 < (box.right - box.left) / len(box.text) / (box.bottom - box.top) < 1.5, box


def test_a_missing_package_of_scans_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="earlyfusion\\[scans\\]"):
        scans()
