import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from earlyfusion.eval.items import Word, images_from_folder, ink_box, word_suite, words_from_file
from earlyfusion.eval.words import SIZES


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
