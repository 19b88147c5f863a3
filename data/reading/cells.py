"""One cell of a data set -> the images, or the text, that it holds."""

import base64
import binascii
import io
import os
import unicodedata
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from datasets import config as datasets_config
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image, UnidentifiedImageError

from ...tokenizers.pixels import load_image, open_pixels
from .content import base64_start, sniff

STORED_AS = ("bytes", "data", "base64", "path", "url", "image_url", "image")
"""Fields of an object that hold an image: of ``datasets``, OpenAI's, Anthropic's and the chat templates'."""


class Unusable(ValueError):
    """Input that cannot be used. ``reason`` is one of few, to be counted; ``detail`` says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class RawImage(NamedTuple):
    """An image of a data set as it is stored: bytes, a file, or already decoded."""

    data: bytes | None
    path: str | None
    image: Image.Image | None = None


def raw_images(value: Any, folder: Path | None = None) -> list[RawImage | None]:
    """The images of one cell: an image or a list of them; None for an empty place (OBELICS).

    An image is bytes (also as a list of numbers, or in base64), the name or file:// address of a file, a
    data: address, an object with one of the fields ``STORED_AS``, or a PIL image.

    Args:
        folder: Where relative file names begin, and which no file name leaves (but for the caches of
            ``datasets``, where it unpacks archives). Symbolic links in the folder are its owner's, and
            followed.

    Raises:
        Unusable: The value is not an image, or a file outside the folder.
    """
    if value is None or (isinstance(value, str) and not value):
        return [None]
    if isinstance(value, list):
        if value and all(type(item) in (int, float, Decimal) for item in value):
            return [_of_numbers(value)]
        return [image for item in value for image in raw_images(item, folder)]
    if isinstance(value, Image.Image):
        return [RawImage(None, None, value)]
    if isinstance(value, bytes):
        return [RawImage(value, None)]
    if isinstance(value, str | Path):
        return [_of_string(str(value), folder)]
    if isinstance(value, Mapping) and any(name in value for name in STORED_AS):
        for name in STORED_AS:
            if value.get(name) not in (None, ""):
                image = raw_images(value[name], folder)
                path = value.get("path")
                if name == "bytes" and isinstance(path, str) and isinstance(image[0], RawImage):
                    return [image[0]._replace(path=path)]
                return image
        return [None]
    raise Unusable("not an image", repr(value)[:200])


def open_image(raw: RawImage) -> Image.Image:
    """Decode to upright RGB.

    Raises:
        Unusable: The file is missing ("image not found", with a hint at a file of nearly the same name), or
            cannot be read ("unreadable image").
    """
    try:
        if raw.image is not None:
            return load_image(raw.image)
        if raw.data is None:
            return load_image(raw.path or "")
    except FileNotFoundError:
        raise Unusable("image not found", f"{raw.path}{_near_miss(Path(raw.path or ''))}") from None
    except (ValueError, OSError) as error:  # also names that are too long, and folders without permission
        raise Unusable("unreadable image", str(error)[:300]) from None
    try:
        image = open_pixels(io.BytesIO(raw.data))
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over
        known = not isinstance(error, UnidentifiedImageError) and str(error)
        reason = str(error).splitlines()[0] if known else "unknown format"
        name = raw.path or "an image"
        raise Unusable("unreadable image", f"{name} cannot be read as an image: {reason}") from None
    try:
        return load_image(image, close=True)
    except ValueError as error:
        raise Unusable("unreadable image", str(error)) from None


def text_of(value: Any) -> str | None:
    """A text as it is written; a number or a date as its characters. None stays None.

    Raises:
        Unusable: The value is not a text.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal | date | time):
        return None if value != value else str(value)  # NaN is how pandas writes what is missing
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise Unusable("text is not UTF-8", f"at byte {error.start}") from None
    raise Unusable("not a text", repr(value)[:200])


def _of_numbers(values: list[Any]) -> RawImage:
    """The bytes of a file, as a list of numbers."""
    if all(type(value) is int and 0 <= value < 256 for value in values):
        data = bytes(values)
        if sniff(data) == "images":
            return RawImage(data, None)
    raise Unusable(
        "lists of numbers instead of an image",
        "pixels are not read: store the bytes of an image file (PNG, JPEG, ...), or file names",
    )


def _of_string(value: str, folder: Path | None) -> RawImage:
    scheme = value[:8].lower()
    if scheme.startswith(("http://", "https://")):
        raise Unusable("image is a web address", f"{value[:200]} (download first, as img2dataset does)")
    if scheme.startswith("data:"):
        head, comma, body = value.partition(",")
        if not comma:
            raise Unusable("unreadable image", f"data: address without data: {value[:40]!r}")
        if head.lower().endswith(";base64"):
            return RawImage(_decoded(unquote(body) if "%" in body else body), None)
        return RawImage(unquote_to_bytes(body), None)
    if scheme.startswith("file://"):
        name = value[len("file://") :].removeprefix("localhost")
        return RawImage(None, _inside(name if os.path.exists(name) else unquote(name), folder))
    if sniff(base64_start(value)) == "images":
        return RawImage(_decoded(value), None)
    return RawImage(None, _inside(value, folder))


def _decoded(text: str) -> bytes:
    text = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable("unreadable image", f"invalid base64: {error}") from None


def _inside(path: str, folder: Path | None) -> str:
    if folder is None:
        return path
    found = os.path.normpath(folder.absolute() / path)
    if "\\" in path and not os.path.lexists(found):
        found = os.path.normpath(folder.absolute() / path.replace("\\", "/"))
    for allowed in (folder.absolute(), datasets_config.HF_DATASETS_CACHE, HF_HUB_CACHE):
        if Path(found).is_relative_to(os.path.normpath(allowed)):
            return found
    raise Unusable("image file outside the data folder", path[:300])


def _near_miss(path: Path) -> str:
    """A hint at a file, or a folder on the way to it, of nearly the same name."""
    while not path.parent.is_dir() and path != path.parent:
        path = path.parent
    try:
        names = _names(path.parent, path.parent.stat().st_mtime_ns).get(_folded(path.name), [])
    except OSError:
        return ""
    if not names or path.name in names:
        return ""
    composed, name = unicodedata.normalize("NFC", path.name), names[0]
    if any(unicodedata.normalize("NFC", other) == composed for other in names):
        return f" (there is {name!r}, which looks the same: its letters are in another Unicode form)"
    cased = any(other.casefold() == path.name.casefold() for other in names)
    return f" (there is {name!r}, with another {'case' if cased else 'ending'})"


@lru_cache(maxsize=8)
def _names(folder: Path, changed: int) -> dict[str, list[str]]:
    """Names in a folder by their letters, without case, Unicode form and ending."""
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        names.setdefault(_folded(name), []).append(name)
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", Path(name).stem).casefold()
