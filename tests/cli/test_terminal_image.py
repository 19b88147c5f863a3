"""Images in a terminal: each way of showing one is read back."""

import base64
import io
import os
import re
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from earlyfusion.cli import terminal_image
from earlyfusion.cli.terminal_image import SIDE, half_blocks, iterm, kitty, protocol, sixel, viewer


@pytest.fixture
def picture() -> Image.Image:
    """24 x 17, few colors, no two corners alike; the multiples of 51 are exact in sixel's percents."""
    image = Image.new("RGB", (24, 17), (255, 255, 255))
    image.paste((204, 51, 0), (2, 1, 11, 12))
    image.paste((0, 102, 255), (9, 8, 24, 17))
    return image


def large(image: Image.Image) -> np.ndarray:
    """The pixels that a terminal draws."""
    scale = SIDE // max(image.size)
    return np.asarray(image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST))


@pytest.mark.parametrize(
    ("environ", "attributes", "expected"),
    [
        ({"KITTY_WINDOW_ID": "1"}, "", kitty),
        ({"TERM_PROGRAM": "ghostty"}, "", kitty),
        ({"TERM_PROGRAM": "WezTerm"}, "", iterm),
        ({"TERM": "foot"}, "62;4;22", sixel),
        ({"TERM": "xterm-256color"}, "64;1;2;6", None),
        ({"KITTY_WINDOW_ID": "1", "TERM": "tmux-256color"}, "", None),
        ({"KITTY_WINDOW_ID": "1", "TMUX": "/tmp/x"}, "1;2;4", sixel),
        ({}, "4", None),  # the first number is not an attribute
    ],
)
def test_the_protocol_of_a_terminal(environ, attributes, expected):
    assert protocol(environ, lambda: attributes) is expected


def test_images_are_shown_on_terminals_and_where_asked(monkeypatch):
    for name in ("KITTY_WINDOW_ID", "TERM_PROGRAM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert viewer() is None and viewer(False) is None and viewer(True) is half_blocks
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert viewer(True) is None
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(terminal_image, "_attributes", lambda: "")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert viewer() is half_blocks and viewer(False) is None
    monkeypatch.setenv("TERM_PROGRAM", "iTerm.app")
    assert viewer() is iterm
    monkeypatch.delenv("TERM_PROGRAM")
    monkeypatch.setenv("TERM", "dumb")
    assert viewer() is None


def test_kitty_and_iterm_get_the_picture_as_a_file(picture):
    noise = Image.effect_noise((128, 128), 90).convert("RGB")  # more than one part of 4096 letters
    for image in (picture, noise):
        parts = re.findall(r"\x1b_G(?:a=T,f=100,)?m=([01]);([^\x1b]*)\x1b\\", kitty(image))
        assert [more for more, _ in parts] == ["1"] * (len(parts) - 1) + ["0"]
        shown = re.fullmatch(r"\x1b]1337;File=inline=1;size=(\d+):(.*)\a\n", iterm(image))
        assert shown is not None
        for data in ("".join(part for _, part in parts), shown[2]):
            with Image.open(io.BytesIO(base64.b64decode(data))) as again:
                assert np.array_equal(np.asarray(again), large(image))


def test_sixel(picture):
    """By its definition: a letter is six pixels of a column, "$" returns, "-" goes down six rows."""
    shown = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)((?:#\d+;2;\d+;\d+;\d+)*)(.*)\x1b\\\n', sixel(picture))
    assert shown is not None
    palette = {
        int(c): [round(2.55 * int(v)) for v in rgb]
        for c, *rgb in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", shown[3])
    }
    pixels = np.zeros((int(shown[2]) + 6, int(shown[1]), 3), np.uint8)
    for band, line in enumerate(shown[4].split("-")):
        for color, letters in re.findall(r"#(\d+)([^#$]*)", line):
            plain = re.sub(r"!(\d+)(.)", lambda run: run[2] * int(run[1]), letters)
            for column, letter in enumerate(plain):
                for row in range(6):
                    if (ord(letter) - 63) >> row & 1:
                        pixels[6 * band + row, column] = palette[int(color)]
    assert np.array_equal(pixels[: int(shown[2])], large(picture))


def test_half_blocks(picture, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    monkeypatch.setenv("COLUMNS", "80")
    image = picture.crop((0, 0, 24, 16))
    rows = []
    for line in half_blocks(image).splitlines():
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▀+)\x1b\[0m", line)
        columns = [list(map(int, colors)) for *colors, blocks in cells for _ in blocks]
        rows += [[c[:3] for c in columns], [c[3:] for c in columns]]
    assert np.array_equal(np.asarray(rows), np.asarray(image))
    wide = half_blocks(Image.new("RGB", (800, 100)))
    assert max(line.count("▀") for line in wide.splitlines()) == 80 and wide.count("\n") == 5


def test_a_terminal_is_asked_what_it_can_do(monkeypatch):
    pty = pytest.importorskip("pty", reason="a system with pseudo-terminals")
    ours, theirs = pty.openpty()
    try:
        monkeypatch.setattr(sys, "stdin", os.fdopen(theirs, "r", closefd=False))
        monkeypatch.setattr(sys, "stdout", os.fdopen(theirs, "w", closefd=False))
        monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp())

        def answer() -> None:
            assert os.read(ours, 3) == b"\x1b[c"
            os.write(ours, b"\x1b[?62;4;22c")

        terminal = threading.Thread(target=answer)
        terminal.start()
        assert terminal_image._attributes() == "62;4;22"
        terminal.join()
    finally:
        os.close(ours)
        os.close(theirs)
