"""Texts and images of a command line."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from earlyfusion.cli.prompts import inline_image, is_image


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


@pytest.mark.parametrize(
    ("environment", "begins", "ends"),
    [
        ({"KITTY_WINDOW_ID": "1"}, "\x1b_Ga=T,f=100,m=1;", "\x1b\\"),
        ({"TERM_PROGRAM": "iTerm.app"}, "\x1b]1337;File=inline=1;size=", "\a"),
        ({"TERM_PROGRAM": "xterm"}, "", ""),
    ],
)
def test_images_in_terminals(monkeypatch, environment, begins, ends):
    noise = Image.effect_noise((128, 128), 90).convert("RGB")
    for name in ("KITTY_WINDOW_ID", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert inline_image(noise) == ""  # no terminal
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = inline_image(noise)
    assert shown.startswith(begins) and shown.endswith(ends) and bool(shown) is bool(begins)
    if "KITTY_WINDOW_ID" in environment:
        data = "".join(part.split(";", 1)[1] for part in shown.split("\x1b\\")[:-1])
        with Image.open(io.BytesIO(base64.b64decode(data))) as again:
            assert again.tobytes() == noise.tobytes()
