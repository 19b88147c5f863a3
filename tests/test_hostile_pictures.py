"""Pictures that a stranger made: no program starts, no traceback, and a bounded amount of memory."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from earlyfusion.cli.prompts import is_image
from earlyfusion.data.images import read_images
from earlyfusion.data.reading.cells import RawImage, Unusable, open_image
from earlyfusion.eval.items import images_from_folder
from earlyfusion.eval.report.gallery import load_gallery
from earlyfusion.tokenizers import pixels
from earlyfusion.tokenizers.pixels import load_image, pages

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, color: int = 2, depth: int = 8) -> bytes:
    """A PNG of zeros, made line by line, with more chunks before its pixels."""
    packed = zlib.compressobj(1)
    line = bytes(1 + width * {0: 1, 2: 3, 6: 4}[color] * depth // 8)
    data = b"".join(packed.compress(line) for _ in range(height)) + packed.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


def declared(width: int, height: int) -> bytes:
    """A PNG whose header says that it is larger than it is."""
    small = png(8, 8)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return small[:8] + header + small[8 + len(header) :]


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch) -> Path:
    """A program gs that leaves a mark; the mark."""
    mark, folder = tmp_path / "it ran", tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\necho ran > '{mark}'\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    return mark


def test_postscript_starts_no_program(tmp_path: Path, ghostscript: Path, monkeypatch) -> None:
    Image.init()
    with pytest.raises(Exception):  # noqa: B017 - the trap works
        Image.open(io.BytesIO(POSTSCRIPT)).load()
    assert ghostscript.exists()
    ghostscript.unlink()
    folder = tmp_path / "pictures"
    folder.mkdir()
    file = folder / "a.png"
    file.write_bytes(POSTSCRIPT)
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n')
    with pytest.raises(ValueError, match=r"a\.png"):
        load_image(file)
    with pytest.raises(ValueError, match="EPS"):
        load_image(Image.open(file))
    for raw in (
        RawImage(POSTSCRIPT, None),
        RawImage(None, str(file)),
        RawImage(None, None, Image.open(file)),
    ):
        with pytest.raises(Unusable):
            open_image(raw)
    with pytest.raises(ValueError, match="no image"):
        read_images(folder, factor=8)
    with pytest.raises(ValueError, match="none of the 1 images"):
        images_from_folder(folder)
    (folder / "gallery.json").write_text('{"x": {"png": "a.png"}}')
    with pytest.raises(ValueError, match=r"a\.png"):
        load_gallery(folder)
    (folder / "words").write_bytes(POSTSCRIPT)
    assert not is_image(str(folder / "words"))
    assert pages(file.rename(folder / "a.tif")) in ([0], [0, 1])
    assert not ghostscript.exists()


def test_a_gallery_names_no_file_elsewhere(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    folder = tmp_path / "gallery"
    folder.mkdir()
    (folder / "gallery.json").write_text('{"x": {"png": "../outside.png"}}')
    with pytest.raises(FileNotFoundError):
        load_gallery(folder)


BIG = zlib.compress(bytes(200 << 20), 9)  # 200 MB in 200 kB
BOMBS = {
    "zTXt": png(8, 8, chunk(b"zTXt", b"a\0\0" + BIG)),
    "iTXt": png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + BIG)),
    "iCCP": png(8, 8, chunk(b"iCCP", b"a\0\0" + BIG)),
    "many zTXt": png(
        8, 8, *[chunk(b"zTXt", b"a%d\0\0" % n + zlib.compress(bytes(1 << 20))) for n in range(99)]
    ),
    "EXIF of 20 MB": png(8, 8, chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(20 << 20))),
    "9,000 x 9,000": declared(9000, 9000),
    "4 billion": declared(2**31 - 1, 2**31 - 1),
}

READ = """
import resource, sys, time
from pathlib import Path
from earlyfusion.tokenizers.pixels import load_image
from earlyfusion.data.reading.cells import RawImage, open_image
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) >> 10
before = peak()
ways = [load_image, lambda file: open_image(RawImage(Path(file).read_bytes(), None))]
for read in ways[: int(sys.argv[1])]:
    for file in sys.argv[2:]:
        try:
            print("read", read(file).size)
        except ValueError as error:
            print("refused", str(error)[:200])
            assert len(str(error).splitlines()) == 1
print("MB", peak() - before, peak())
"""


def megabytes(*files: Path, ways: int = 2) -> tuple[list[str], int, int]:
    """What reading them says, by how much it grows a process that is small, and its peak."""
    run = subprocess.run(
        [sys.executable, "-c", READ, str(ways), *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, sys.path[:1] + [os.environ.get("PYTHONPATH", "")])),
        },
    )
    assert run.returncode == 0, run.stderr[-2000:]
    *lines, last = run.stdout.splitlines()
    _, grown, peak = last.split()
    return lines, int(grown), int(peak)


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    files = []
    for name, data in BOMBS.items():
        files.append(tmp_path / f"{name}.png")
        files[-1].write_bytes(data)
    icon = io.BytesIO()
    Image.new("RGB", (16, 16)).save(icon, "ICO")
    inside = declared(9000, 9000)
    data = bytearray(icon.getvalue()[:22])
    data[14:18] = struct.pack("<I", len(inside))
    files.append(tmp_path / "icon.png")
    files[-1].write_bytes(bytes(data) + inside)
    frames = [Image.new("P", (9, 9), n % 7) for n in range(500)]
    for ending in ("gif", "webp", "tif"):
        files.append(tmp_path / f"frames.{ending}")
        frames[0].save(files[-1], save_all=True, append_images=frames[1:])
    lines, grown, _ = megabytes(*files)
    for name in ("9,000 x 9,000", "4 billion"):
        assert lines[list(BOMBS).index(name)].startswith("refused")
    assert lines[len(files) - 3 : len(files)] == ["read (9, 9)"] * 3
    assert grown < 450, lines


def test_the_largest_picture_takes_a_gigabyte(tmp_path: Path) -> None:
    """A transparent picture that lies on its side needs the most of those that are not compressed oddly."""
    exif = Image.Exif()
    exif[0x0112] = 6
    size = (9000, pixels.PIXELS // 9000)
    (tmp_path / "a.png").write_bytes(png(*size, chunk(b"eXIf", exif.tobytes()[6:]), color=6))
    lines, _, peak = megabytes(tmp_path / "a.png", ways=1)
    assert lines == [f"read ({size[1]}, {size[0]})"]
    assert peak < 1024, peak


def test_a_tiff_of_too_many_pages(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pixels, "PAGES", 20)
    frames = [Image.new("L", (2, 2))] * 30
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    Image.new("L", (2, 2)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="more than 20 pages"):
        pages(tmp_path / "a.tif")
    found = images_from_folder(tmp_path)
    assert len(found.items) == 2 and "pages" in found.skipped[0]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:20])
    assert pages(tmp_path / "a.tif") == list(range(20))


OPENED = {
    "data/render/openmoji.py": "what cairo drew",
    "eval/metrics/ceilings.py": "what Pillow wrote",
    "playground/limits.py": "with formats",
    "playground/recipes.py": "in the text of a program",
    "tokenizers/pixels.py": "open_pixels",
    "train/demo/corpus_files.py": "what the corpus drew",
}


def test_files_are_opened_in_one_place() -> None:
    root = Path(pixels.__file__).parents[1]
    folders = ("cli", "data", "eval", "fusion_lm", "playground", "storage", "tokenizers", "train")
    files = [file for folder in folders for file in (root / folder).rglob("*.py")]
    found = {str(f.relative_to(root)) for f in files if re.search(r"Image\.open\(", f.read_text("utf-8"))}
    assert found == set(OPENED)
