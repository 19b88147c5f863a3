"""Cells: the ways that data sets store an image, or a text."""

import base64
import io
import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from earlyfusion.data.reading.cells import RawImage, Unusable, open_image, raw_images, text_of


@pytest.fixture
def stored(photo: Image.Image) -> bytes:
    file = io.BytesIO()
    photo.save(file, "PNG")
    return file.getvalue()


def ways(stored: bytes, folder: Path) -> dict[str, Any]:
    """The image in all forms that are read; its file is in the folder."""
    (folder / "sub").mkdir()
    (folder / "sub/a b.png").write_bytes(stored)
    text = base64.b64encode(stored).decode()
    wrapped = base64.encodebytes(stored).decode()
    with_path = {"bytes": stored, "path": "sub/a b.png", "width": 48, "height": 32}
    return {
        "bytes": stored,
        "a list of bytes": list(stored),
        "base64": text,
        "base64 with line breaks": wrapped,
        "base64 for addresses": base64.urlsafe_b64encode(stored).decode().rstrip("="),
        "data": f"data:image/png;base64,{text}",
        "a name": "sub/a b.png",
        "a name from Windows": "sub\\a b.png",
        "an absolute name": str(folder / "sub/a b.png"),
        "a file address": f"file://{folder}/sub/a b.png",
        "a quoted file address": (folder / "sub/a b.png").as_uri(),
        "datasets": {"bytes": stored, "path": None},
        "with more fields": with_path,
        "JSON": json.loads(json.dumps({"bytes": text, "path": "a.png"})),
        "only its path": {"bytes": None, "path": "sub/a b.png"},
        "OpenAI": {"url": f"data:image/png;base64,{text}", "detail": "low"},
        "Anthropic": {"type": "base64", "media_type": "image/png", "data": text},
        "a PIL image": Image.open(io.BytesIO(stored)),
    }


def test_every_way_to_store_an_image(stored: bytes, photo: Image.Image, tmp_path: Path):
    for name, value in ways(stored, tmp_path).items():
        for cell in (value, [value]):
            [raw] = raw_images(cell, tmp_path)
            assert raw is not None and open_image(raw).tobytes() == photo.tobytes(), name


def test_places_without_an_image():
    cells = (None, "", {"bytes": None, "path": None}, {"bytes": None, "path": ""})
    assert [raw_images(cell) for cell in cells] == [[None]] * 4
    assert raw_images([None, b"x"]) == [None, RawImage(b"x", None)]
    assert raw_images([]) == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("https://example.com/a.png", "image is a web address"),
        ({"url": "http://example.com/a.png"}, "image is a web address"),
        ([[[255, 0, 0], [0, 0, 0]]], "lists of numbers instead of an image"),
        ([0.5, 0.25], "lists of numbers instead of an image"),
        ([Decimal("0.5")], "lists of numbers instead of an image"),
        (7, "not an image"),
        ({"width": 3}, "not an image"),
        ("../a.png", "image file outside the data folder"),
        ("..\\..\\a.png", "image file outside the data folder"),
        ("/etc/passwd", "image file outside the data folder"),
        ("file:///etc/passwd", "image file outside the data folder"),
        ({"url": "../a.png"}, "image file outside the data folder"),
        ("data:image/png;base64,???", "unreadable image"),
        ("data:image/png", "unreadable image"),
    ],
)
def test_cells_that_are_not_images(value: Any, reason: str, tmp_path: Path):
    with pytest.raises(Unusable) as caught:
        raw_images(value, tmp_path)
    assert caught.value.reason == reason and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("there", "named", "hint"),
    [
        ("IMG_1.PNG", "img_1.png", "another case"),
        ("a.jpg", "a.png", "another ending"),
        (unicodedata.normalize("NFD", "é.png"), unicodedata.normalize("NFC", "é.png"), "Unicode form"),
        ("Images/a.png", "images/a.png", "another case"),
        ("b.png", "a.png", ""),
    ],
)
def test_a_missing_file_and_one_of_nearly_its_name(there: str, named: str, hint: str, tmp_path: Path):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    [raw] = raw_images(named, tmp_path)
    assert raw is not None
    with pytest.raises(Unusable) as caught:
        open_image(raw)
    assert caught.value.reason == "image not found" and hint in caught.value.detail
    assert ("there is" in caught.value.detail) == bool(hint)


@pytest.mark.parametrize("value", [b"", b"<html>", "x" * 5000, "a\0.png", "."])
def test_images_that_cannot_be_opened(value: Any, tmp_path: Path):
    [raw] = raw_images(value, tmp_path)
    assert raw is not None
    with pytest.raises(Unusable) as caught:
        open_image(raw)
    assert caught.value.reason in ("unreadable image", "image not found")


def test_texts_are_as_written():
    texts = ["7", "true", "[1, 2]", '{"count": 3}', "null", "3.50", '"quoted"', " a\r\n", "<image>", ""]
    assert [text_of(text) for text in texts] == texts
    numbers = json.loads("[3.50, 7, true, null, 1e5, 12345678901234567890]", parse_float=Decimal)
    assert [text_of(number) for number in numbers] == [
        "3.50",
        "7",
        "true",
        None,
        "1E+5",
        "12345678901234567890",
    ]
    assert text_of("ü".encode()) == "ü"
    for value in ({}, [], b"\xff", object()):
        with pytest.raises(Unusable):
            text_of(value)
