"""What the measurements are fed: images with the text they show, from the built-in suite or from a folder."""

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..data.render.lexicon import held_out_lexicon
from ..data.render.openmoji import render_drawing
from ..data.render.split import demo_concepts, demo_words
from ..data.render.typeset import KINDS, STRIPS, Page, TextRegion, typeset
from ..data.render.words import SIZES, STRIP_HEIGHT, Font, TypeSample, held_out_fonts, random_strings
from ..tokenizers.pixels import load_image

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
    """A name to group by: the built-in suites have "word", "random" and so on."""
    name: str = ""
    """File name, or the font it was rendered with."""
    boxes: tuple[TextRegion, ...] = ()
    """Where which text stands. An item with boxes is read box by box, one with a text alone as a whole."""


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


# Each kind's images in turn: (H, W) and type sizes. A character's width over the longer side falls into each
# of TokBench's bins [.02, .03), [.03, .04) and [.04, 1), with words on images 256 px wide. Sizes are few, so
# that images of one size are encoded together.
_STRIP, _WIDE, _LONG, _PAGE, _LARGE_PAGE = (32, 128), (32, 256), (32, 512), (256, 256), (512, 512)
_WORDS = ((_STRIP, (12, 28)), (_WIDE, (10, 11)), (_STRIP, (12, 28)), (_WIDE, (15, 17)), (_WIDE, (21, 26)))
_PAGES = ((_PAGE, (10, 14)), (_LARGE_PAGE, (14, 26)), (_PAGE, (14, 20)))
_STYLED = ((_STRIP, (12, 24)), (_WIDE, (14, 24)), (_PAGE, (12, 20)))
OCR_SUITE: dict[str, tuple[tuple[tuple[int, int], tuple[int, int]], ...]] = {
    "word": _WORDS,
    "random": _WORDS,
    "line": ((_LONG, (14, 24)), (_WIDE, (11, 14)), (_WIDE, (15, 19))),
    "page": _PAGES,
    "receipt": _PAGES,
    "table": _PAGES,
    "colour": _STYLED,
    "inverted": _STYLED,
    "rotated": _STYLED,
}


def ocr_suite(
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    per_kind: int = 40,
    *,
    fonts: Sequence[Font] | None = None,
) -> list[Item]:
    """The built-in OCR-like suite: every kind of `typeset.KINDS`, in held-out fonts, of held-out words and
    random strings that no training image shows (see `lexicon`), all drawn by `seed`.

    There are `per_kind` images of each kind, and a quarter as many of those that hold dozens of texts (page,
    receipt, table). Images of a kind do not depend on which other kinds are asked for.

    Raises ValueError for an unknown kind, ImportError when the extra `demo` is missing.
    """
    kinds = KINDS if kinds is None else kinds
    for kind in kinds:
        if kind not in OCR_SUITE:
            raise ValueError(f"kinds has {kind!r}, expected some of {', '.join(OCR_SUITE)}")
    if per_kind < 1:
        raise ValueError(f"per_kind is {per_kind}, expected at least 1")
    lexicon, fonts = held_out_lexicon(), held_out_fonts() if fonts is None else fonts
    items = []
    for kind in dict.fromkeys(kinds):
        rng = random.Random(f"ocr suite {kind} {seed}")
        for i in range(per_kind if kind not in ("page", "receipt", "table") else -(-per_kind // 4)):
            size, type_sizes = OCR_SUITE[kind][i % len(OCR_SUITE[kind])]
            page = typeset(kind, rng, fonts=fonts, lexicon=lexicon, size=size, type_sizes=type_sizes)
            items.append(_item(page, kind))
    return items


def words64_suite(seed: int = 0, per_kind: int = 40) -> list[Item]:
    """What the preset words64 is for: `per_kind` held-out words and as many random strings, on strips of
    32 x 128 px each, in held-out fonts of 14 to 28 px.

    Raises ImportError when the extra `demo` is missing.
    """
    lexicon, fonts = held_out_lexicon(), held_out_fonts()
    items = []
    for kind in ("word", "random"):
        rng = random.Random(f"words64 suite {kind} {seed}")
        for _ in range(per_kind):
            page = typeset(kind, rng, fonts=fonts, lexicon=lexicon, size=_STRIP, type_sizes=(14, 28))
            items.append(_item(page, kind))
    return items


def openmoji_suite(seed: int = 0, per_kind: int = 40, *, size: int = 64) -> list[Item]:
    """OpenMoji's drawings of held-out concepts (see `split`) on white, `size` px a side: `per_kind` of them,
    or as many as there are, drawn by `seed`. No text stands in them.

    Raises ImportError when the extra `demo` is missing.
    """
    drawings = [
        (concept.name, stem)
        for concept in demo_concepts().held_out
        for stem in dict.fromkeys(concept.drawings)
    ]
    random.Random(f"openmoji suite {seed}").shuffle(drawings)
    return [Item(render_drawing(stem, size), kind="picture", name=name) for name, stem in drawings[:per_kind]]


def scans() -> list[Item]:
    """Photographed print with its transcript (see `scans`), a box for each word.

    Raises ImportError when the extra `scans` is missing.
    """
    from ..data.render.scans import scan_pages

    return [_item(page, "scan") for page in scan_pages()]


def _item(page: Page, kind: str) -> Item:
    size = page.boxes[0].size if kind in STRIPS else None
    return Item(page.image, page.text, size, kind, page.font, page.boxes)


def images_from_folder(folder: str | Path, *, limit: int | None = None) -> Folder:
    """The images of an imagefolder: those that its ``metadata.jsonl`` names, else all image files below it.

    Each line of ``metadata.jsonl`` is an object with "file_name", and where they are known "text", "size" (px
    per em), "kind", and "objects": {"bbox": [[x, y, width, height], ...], "text": ["...", ...]}, the boxes of
    its texts in pixels (Hugging Face's imagefolder, COCO's order).
    An image that is missing or cannot be read is skipped and told in `skipped`; `limit` takes the first so
    many.

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
        for box in row.boxes:
            if box.right > image.width or box.bottom > image.height:
                raise ValueError(
                    f"{row.where}: the box of {box.text!r} ends at {box.right:g}, {box.bottom:g}, outside of "
                    f"the image, which has {image.width} x {image.height} pixels"
                )
        items.append(Item(image, row.text, row.size, row.kind, row.file_name, row.boxes))
    if not items:
        raise ValueError(f"none of the {len(skipped)} images in {folder} can be read; {skipped[0]}")
    return Folder(items, skipped)


def scaled(item: Item, heights: Sequence[int]) -> Item:
    """The item, to be read as a whole, with its image scaled to that one of ``heights`` px which is nearest
    to its own by ratio."""
    width, height = item.image.size
    chosen = min(heights, key=lambda one: abs(math.log(one / height)))
    image = item.image.resize((max(1, round(width * chosen / height)), chosen), Image.Resampling.LANCZOS)
    return replace(item, image=image, size=item.size and item.size * chosen / height, boxes=())


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
    boxes: tuple[TextRegion, ...] = ()
    where: str = ""


def _image_row(where: str, row: dict[str, Any]) -> _ImageRow:
    name = _field(where, row, "file_name", str, required=True)
    size = _field(where, row, "size", (int, float))
    if size is not None and not 0 < size < float("inf"):
        raise ValueError(f'{where}: "size" is {size}, expected a positive number of pixels')
    text, kind = _field(where, row, "text", str), _field(where, row, "kind", str)
    return _ImageRow(name, text, size, kind, _boxes(where, row, size), where)


def _boxes(where: str, row: dict[str, Any], size: float | None) -> tuple[TextRegion, ...]:
    """The "objects" of a line. Those without a text of their own (of another kind than text) are left out."""
    objects = _field(where, row, "objects", dict)
    if objects is None:
        return ()
    places, texts = objects.get("bbox"), objects.get("text")
    if not isinstance(places, list) or not isinstance(texts, list) or len(places) != len(texts):
        raise ValueError(
            f'{where}: "objects" is expected to hold the lists "bbox" and "text" of the same length'
        )
    boxes = []
    for place, text in zip(places, texts):
        numbers = isinstance(place, list) and len(place) == 4 and all(map(_is_number, place))
        if not numbers or min(place[:2]) < 0 or min(place[2:]) <= 0:
            raise ValueError(
                f"{where}: a bbox is {json.dumps(place)}, expected [x, y, width, height] in pixels, the "
                "first two at least 0, the others above 0"
            )
        text = _field(where, {"text": text}, "text", str)
        if text is not None and text.strip():
            x, y, width, height = map(float, place)
            boxes.append(TextRegion(text, x, y, x + width, y + height, size))
    return tuple(boxes)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _field(
    where: str, row: dict[str, Any], name: str, kind: type | tuple[type, ...], *, required: bool = False
) -> Any:
    value = row.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = {str: "a string", dict: "an object"}.get(kind, "a number")  # type: ignore[arg-type]
        raise ValueError(f'{where}: "{name}" is {json.dumps(value)}, expected {expected}')
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f'{where}: "{name}" holds half of a surrogate pair, which is no character')
    return value
