"""Texts and images of a command line."""

from pathlib import Path

import pytest
from PIL import Image

from earlyfusion.cli.prompts import are_joined, is_image, read_prompts, read_segments


def test_segments_that_are_images(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo.save("photo", "PNG")
    Path("notes").write_text("text")
    assert is_image("photo") and is_image("missing.png") and is_image("a photo.JPG")
    assert (
        not is_image("notes")
        and not is_image("A red apple:")
        and not is_image(".")
        and not is_image("x" * 5000)
    )
    assert not is_image("nul\0") and not is_image("")


def test_a_missing_image_is_told_with_the_nearest(photo_file, monkeypatch):
    monkeypatch.chdir(photo_file.parent)
    with pytest.raises(FileNotFoundError, match=r"foto.png.*photo\.png\?"):
        read_segments(["What is this?", "foto.png"])


def test_texts_that_look_like_several_prompts():
    assert are_joined(["A red apple:", "A green pear:"])
    assert not are_joined(["A red apple:", " A green pear:"]) and not are_joined(["A red apple:"])
    assert not are_joined(["A red apple:", "photo.png", "is red"]) and not are_joined(["", ""])


def test_a_file_of_prompts(photo_file, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text(f"\ufeffA red apple:\n\n{photo_file}\n  The\n", encoding="utf-8")
    apple, [photo], the = read_prompts(str(file))
    assert apple == ["A red apple:"] and the == ["  The"]
    assert isinstance(photo, Image.Image) and photo.size == (48, 32)
    file.write_text("\n \n")
    with pytest.raises(ValueError, match="prompts.txt"):
        read_prompts(str(file))
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="prompts.txt"):
        read_prompts(str(file))
