"""Inputs of measurements: images with their texts, and words to write, from folders and files.

``suites`` has the built-in ones.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..data.render.typeset import TextRegion
from ..tokenizers.pixels import IMAGE_SUFFIXES, load_image, pages

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Item:
    """An image and its text."""

    image: Image.Image
    """Upright RGB."""
    text: str | None = None
    size: float | None = None
    """Size of the type in px per em, if known."""
    kind: str | None = None
    """A name to group by, such as "word" or "random" in the built-in suites."""
    name: str = ""
    """File name, or the font of a rendered text."""
    boxes: tuple[TextRegion, ...] = ()
    """Texts with their places. An item with boxes is read box by box, an item with only a text as a whole."""


class Word(NamedTuple):
    """A text to write."""

    text: str
    kind: str | None = None


class Folder(NamedTuple):
    """The readable images of a folder."""

    items: list[Item]
    skipped: list[str]
    """One line for each unreadable image: its file name and the reason; and one for each TIFF of
    which only the first page is measured."""


def images_from_folder(folder: str | Path, *, limit: int | None = None) -> Folder:
    """Read an imagefolder: the images that ``metadata.jsonl`` names, or all image files below the folder.

    Each line of ``metadata.jsonl`` is an object with "file_name" and, if known, "text", "size" (px per em),
    "kind", and "objects": {"bbox": [[x, y, width, height], ...], "text": ["...", ...]}, the boxes of its
    texts in pixels (Hugging Face's imagefolder, COCO's order). Missing and unreadable images are skipped.
    Every page of a TIFF is an image, "a.tif, page 2"; of a TIFF with a text, only the first, which it shows.

    Args:
        folder: The imagefolder.
        limit: Read only the first N images.

    Raises:
        FileNotFoundError: The folder does not exist or contains no images.
        ValueError: The metadata is invalid (the message names the line), or no image can be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder of images not found: {folder}")
    metadata = folder / METADATA
    if metadata.exists():
        rows = [_image_row(where, row) for where, row in read_jsonl(metadata)]
    else:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        rows = [_ImageRow(str(path.relative_to(folder))) for path in files]
    if not rows:
        raise FileNotFoundError(
            f"{folder} contains no images: expected {', '.join(IMAGE_SUFFIXES)} or a {METADATA}"
        )
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
                    f"{row.where}: the box of {box.text!r} ends at ({box.right:g}, {box.bottom:g}), outside "
                    f"the image of {image.width} x {image.height} pixels"
                )
        items.append(Item(image, row.text, row.size, row.kind, row.file_name, row.boxes))
        try:
            more = pages(folder / row.file_name)[1:]
        except ValueError as error:
            skipped.append(f"{row.file_name}: {error}")
            continue
        if more and (row.text or row.boxes):
            skipped.append(
                f"{row.file_name}: its text belongs to page 1, {len(more)} more pages are left out"
            )
            continue
        for page in more:
            name = f"{row.file_name}, page {page + 1}"
            try:
                items.append(Item(load_image(folder / row.file_name, page), None, row.size, row.kind, name))
            except ValueError as error:
                skipped.append(f"{name}: {error}")
    if not items:
        raise ValueError(f"none of the {len(skipped)} images in {folder} can be read; {skipped[0]}")
    return Folder(items, skipped)


def scaled(item: Item, heights: Sequence[int]) -> Item:
    """Scale an item's image to the nearest of ``heights`` (px, by ratio); it is then read as a whole."""
    width, height = item.image.size
    chosen = min(heights, key=lambda one: abs(math.log(one / height)))
    image = item.image.resize((max(1, round(width * chosen / height)), chosen), Image.Resampling.LANCZOS)
    return replace(item, image=image, size=item.size and item.size * chosen / height, boxes=())


def words_from_file(path: str | Path, *, limit: int | None = None) -> list[Word]:
    """Read the texts of a JSON lines file: objects with "text" and optionally "kind".

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A line is invalid (the message names it), or the file has no lines.
    """
    words = []
    for where, row in read_jsonl(path):
        text = _field(where, row, "text", str, required=True)
        if not text.strip():
            raise ValueError(f'{where}: "text" is empty, expected a text to write')
        words.append(Word(text, _field(where, row, "kind", str)))
    if not words:
        raise ValueError(f'{path} is empty: expected lines such as {{"text": "word"}}')
    return words[:limit]


def read_jsonl(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line's place ("FILE, line 3", for error messages) and its object; skip blank lines.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A line is not a JSON object (the message names it).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"JSON lines file not found: {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also split at U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path} as JSON lines: {error}") from None
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
    """The "objects" of a line that have a text; other objects are skipped."""
    objects = _field(where, row, "objects", dict)
    if objects is None:
        return ()
    places, texts = objects.get("bbox"), objects.get("text")
    if not isinstance(places, list) or not isinstance(texts, list) or len(places) != len(texts):
        raise ValueError(f'{where}: "objects" needs the lists "bbox" and "text" of equal length')
    boxes = []
    for place, text in zip(places, texts):
        numbers = isinstance(place, list) and len(place) == 4 and all(map(_is_number, place))
        if not numbers or min(place[:2]) < 0 or min(place[2:]) <= 0:
            raise ValueError(
                f"{where}: invalid bbox {json.dumps(place)}, expected [x, y, width, height] in pixels with "
                "x, y >= 0 and width, height > 0"
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
        raise ValueError(f'{where}: "{name}" contains half of a surrogate pair (an incomplete character)')
    return value
