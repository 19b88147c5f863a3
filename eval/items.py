"""What the measurements are fed: images with the text they show, from the built-in suite or from a folder."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..tokenizers.pixels import load_image
from .split import demo_words
from .words import SIZES, STRIP_HEIGHT, Font, TypeSample, held_out_fonts, random_strings

Progress = Callable[[str, int, int], None]
"""What a measurement calls as it goes: what is being done, how many are done, and of how many."""

METADATA = "metadata.jsonl"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings by which a folder without ``metadata.jsonl`` is searched for images."""
RANDOM_SHARE = 0.4
"""Random strings in the built-in suite: on words alone, a reader's language prior repairs what was lost."""


@dataclass(frozen=True)
class Item:
    """An image and what stands in it."""

    image: Image.Image
    """Upright RGB."""
    text: str | None = None
    size: float | None = None
    """Size of the type in px per em, where it is known."""
    kind: str | None = None
    """A name to group by: the built-in suite has "word" and "random"."""
    name: str = ""
    """File name, or the font it was rendered with."""


class Word(NamedTuple):
    """A text to write."""

    text: str
    kind: str | None = None


class Folder(NamedTuple):
    """The readable images of a folder."""

    items: list[Item]
    skipped: list[str]
    """One line for each image that cannot be read: its file name and why."""


def word_suite(
    seed: int = 0,
    *,
    held_out: Sequence[str] | None = None,
    fonts: Sequence[Font] | None = None,
    sizes: Sequence[int] = SIZES,
    heights: Sequence[int] = (STRIP_HEIGHT,),
    random_share: float = RANDOM_SHARE,
) -> list[Item]:
    """The built-in suite: held-out words and random strings, rendered, in an order drawn by `seed`.

    `held_out` are the words (default: those of the demo, see `split`); as many random strings join them as
    make `random_share` of the whole. Each text is rendered once, in a font (default: the held-out ones), a
    size (px per em on a strip 16 px high, in proportion on higher ones) and a height drawn by `seed`.

    Raises ImportError when the extra `demo` is missing.
    """
    if not 0 <= random_share < 1:
        raise ValueError(f"random_share is {random_share}, expected at least 0 and less than 1")
    words = list(demo_words().held_out if held_out is None else held_out)
    fonts = held_out_fonts() if fonts is None else fonts
    rng = random.Random(f"word suite {seed}")  # not the numbers that the split was drawn with
    count = round(len(words) * random_share / (1 - random_share))
    strings = random_strings(count, rng, frozenset(words))
    texts = [(text, "word") for text in words] + [(text, "random") for text in strings]
    rng.shuffle(texts)
    items = []
    for text, kind in texts:
        height = rng.choice(heights)
        size = rng.choice(sizes) * height // STRIP_HEIGHT
        sample = TypeSample(text, kind, rng.choice(fonts), size, height)
        name = sample.font.family
        items.append(Item(sample.render(), text, float(size), kind, name))
    return items


def images_from_folder(folder: str | Path, *, limit: int | None = None) -> Folder:
    """The images of an imagefolder: those that its ``metadata.jsonl`` names, else all image files below it.

    Each line of ``metadata.jsonl`` is an object with "file_name", and where they are known "text", "size" (px
    per em) and "kind". An image that is missing or cannot be read is skipped and told in `skipped`; `limit`
    takes the first so many.

    Raises FileNotFoundError when there is no such folder or no image in it, and ValueError, naming the line,
    for metadata that is not as above, and when no image at all can be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: a folder with images is expected there")
    metadata = folder / METADATA
    if metadata.exists():
        rows = [_image_row(where, row) for where, row in read_jsonl(metadata)]
    else:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        rows = [_ImageRow(str(path.relative_to(folder))) for path in files]
    if not rows:
        raise FileNotFoundError(f"{folder} has no images: expected {', '.join(SUFFIXES)} or a {METADATA}")
    items, skipped = [], []
    for row in rows[:limit]:
        try:
            image = load_image(folder / row.file_name)
        except (OSError, ValueError) as error:
            skipped.append(f"{row.file_name}: {error}")
            continue
        items.append(Item(image, row.text, row.size, row.kind, row.file_name))
    if not items:
        raise ValueError(f"none of the {len(skipped)} images in {folder} can be read; {skipped[0]}")
    return Folder(items, skipped)


def words_from_file(path: str | Path, *, limit: int | None = None) -> list[Word]:
    """The texts of a JSON lines file: objects with "text" and perhaps "kind".

    Raises FileNotFoundError when there is no such file, ValueError, naming the line, for anything else.
    """
    words = []
    for where, row in read_jsonl(path):
        text = _field(where, row, "text", str, required=True)
        if not text.strip():
            raise ValueError(f'{where}: "text" is empty, expected something to write')
        words.append(Word(text, _field(where, row, "kind", str)))
    if not words:
        raise ValueError(f'{path} has no lines: expected objects with "text"')
    return words[:limit]


def read_jsonl(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place ("FILE, line 3", for error messages) and its object; blank lines are passed over.

    Raises FileNotFoundError when there is no such file, and ValueError, naming the line, for anything else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} not found: a JSON lines file is expected there")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would split at U+2028 too
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as JSON lines: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f'{where} is not a JSON object such as {{"text": "word"}}')
        yield where, row


def ink_box(image: Image.Image, contrast: int = 48) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of what differs from the background by `contrast` of 255, None if nothing.

    The background is the median of the image's outermost pixels.
    """
    grey = np.asarray(image.convert("L"), dtype=np.int16)  # (H, W)
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    rows, columns = np.nonzero(np.abs(grey - np.median(edge)) >= contrast)
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


class _ImageRow(NamedTuple):
    """A line of the metadata."""

    file_name: str
    text: str | None = None
    size: float | None = None
    kind: str | None = None


def _image_row(where: str, row: dict[str, Any]) -> _ImageRow:
    name = _field(where, row, "file_name", str, required=True)
    size = _field(where, row, "size", (int, float))
    if size is not None and not 0 < size < float("inf"):
        raise ValueError(f'{where}: "size" is {size}, expected a positive number of pixels')
    return _ImageRow(name, _field(where, row, "text", str), size, _field(where, row, "kind", str))


def _field(
    where: str, row: dict[str, Any], name: str, kind: type | tuple[type, ...], *, required: bool = False
) -> Any:
    value = row.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = "a string" if kind is str else "a number"
        raise ValueError(f'{where}: "{name}" is {json.dumps(value)}, expected {expected}')
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f'{where}: "{name}" holds half of a surrogate pair, which is no character')
    return value
