"""Images at the edges: files and PIL images of any kind <-> float tensors (3, H, W) in [-1, 1]."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile
from torch import Tensor

from .image_config import Policy, Preprocessing

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes of the files in a folder that are read as images."""
FORMATS = "AVIF BMP DIB GIF ICNS ICO JPEG JPEG2000 MPO PCX PNG PPM QOI SGI SUN TGA TIFF WEBP XBM XPM".split()
"""Pillow's readers that are used. Others run programs (EPS: Ghostscript) or read what is not pixels."""
PIXELS = 72 * 10**6
"""Most pixels of an image: A3 scanned at 600 dpi has 70 million. Larger ones are refused by the size in their
header, before anything is decoded, so that a small file of a stranger cannot fill the memory."""
HEAVY = {"JPEG2000": 3, "AVIF": 2, "WEBP": 2}
"""Format -> how many times the memory of the others its decoder needs; divides its limit of pixels."""
PAGES = 10_000
"""Most pages of a TIFF."""

_BAND = 2**20
"""Pixels that are converted at once, where a conversion needs several times their memory."""

_SUBFILE_TYPE = 254
"""TIFF's tag whose lowest bit marks a smaller version of another page."""
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # "I" is what Pillow makes of a 16-bit PGM


def load_image(image: str | Path | Image.Image, page: int = 0, close: bool = False) -> Image.Image:
    """Read an image file, or convert a PIL image of any mode, to an upright 8-bit RGB image.

    EXIF rotation is applied, transparency is put on white, 16 bits are scaled to 8. CMYK, palette, gray and
    bilevel images are converted; of an animation, only the first frame is read. A PIL image is not modified.

    Args:
        image: The file or image.
        page: Index of the page of a TIFF, see ``pages``.
        close: Close a PIL image as soon as possible, which frees its memory.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is not an image, is broken or truncated, has more than ``PIXELS`` pixels, or
            holds floating-point values.
    """
    with _strict():
        if isinstance(image, Image.Image):
            return _read(image, "the image", close)
        path = Path(image)
        if not path.exists():
            raise FileNotFoundError(f"{path} not found: expected an image")
        if not path.is_file():
            raise ValueError(f"{path} is not a file: expected an image")
        try:
            opened = open_pixels(path)
        except _BOMBS:
            raise ValueError(f"{path} has more than {PIXELS:,} pixels: scale it down first") from None
        except Exception as error:  # Pillow's readers raise errors of many kinds
            raise ValueError(f"{path} cannot be read as an image: {_first_line(error)}") from None
        with opened:
            try:
                if page:
                    opened.seek(page)
            except Exception as error:
                raise ValueError(f"{path} cannot be read as an image: {_first_line(error)}") from None
            return _read(opened, str(path), close=True)


def open_pixels(file: Path | BinaryIO) -> Image.Image:
    """``Image.open`` with ``FORMATS``. The pixels are not decoded yet."""
    Image.init()
    with _strict():
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@contextmanager
def _strict() -> Iterator[None]:
    """Pillow warns of large images, which are an error here, and of damaged EXIF data, which are not."""
    with warnings.catch_warnings(action="ignore"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def image_endings() -> frozenset[str]:
    """Endings of the image files that Pillow can read, with ``FORMATS``."""
    found = Image.registered_extensions().items()
    return frozenset(ending for ending, name in found if name in FORMATS)


def pages(path: str | Path) -> list[int]:
    """Indices of the pages of a TIFF, without its thumbnails; [0] for other files.

    Raises:
        ValueError: It has more than ``PAGES``.
    """
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return [0]
    found = [0]
    last = 0
    with _strict():
        try:
            with open_pixels(Path(path)) as opened:
                for last in count(1):
                    if last > PAGES:
                        break
                    opened.seek(last)
                    if not opened.tag_v2.get(_SUBFILE_TYPE, 0) & 1:  # type: ignore[attr-defined]
                        found.append(last)
        except EOFError:  # after the last page
            pass
        except Exception:  # a broken page ends the list: Pillow cannot find those after it
            found.append(found[-1] + 1)  # reading it says what is wrong
    if last > PAGES:
        raise ValueError(f"{path} has more than {PAGES:,} pages: split it")
    return found


def to_tensor(image: Image.Image, preprocessing: Preprocessing = "meta") -> Tensor:
    """RGB image -> float32 (3, H, W) in [-1, 1]. ``preprocessing``: see ``image_config.Preprocessing``.

    Raises:
        ValueError: The image has another mode.
    """
    if image.mode != "RGB":
        raise ValueError(f"the image has mode {image.mode}, expected RGB: load_image converts it")
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")
    if preprocessing == "meta":
        pixels /= 127.5
    else:
        pixels *= 0.0078
    pixels -= 1
    return torch.from_numpy(pixels)


def to_pil(pixels: Tensor) -> Image.Image:
    """Tensor (3, H, W) in [-1, 1] -> RGB image; other values are clamped. The inverse of ``to_tensor``.

    Raises:
        ValueError: The shape is another one.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"pixels have shape {tuple(pixels.shape)}, expected (3, H, W)")
    pixels = ((pixels.detach().float() + 1) * 127.5).clamp(0, 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().contiguous().numpy())


def fit(
    image: Image.Image,
    factor: int,
    policy: Policy,
    max_side: int | None = None,
    max_positions: int | None = None,
) -> Image.Image:
    """Make the sides of ``image`` multiples of ``factor``, as image tokenizers require.

    Args:
        image: An RGB image; one that already fits is returned unchanged.
        factor: Pixels per position along each side.
        policy: "resize" scales each side to its nearest multiple, which distorts the image a little; "pad"
            adds white on the right and at the bottom.
        max_side: Scale larger images down to this longest side in pixels.
        max_positions: Scale larger images down to this many squares of ``factor`` x ``factor`` pixels.

    Raises:
        ValueError: The policy is unknown, or a limit is below one square.
    """
    if policy not in ("resize", "pad"):
        raise ValueError(f"policy is {policy!r}, expected 'resize' or 'pad'")
    if max_side is not None and max_side < factor:
        raise ValueError(f"max_side is {max_side}, expected at least {factor} pixels, the side of one code")
    if max_positions is not None and max_positions < 1:
        raise ValueError(f"max_positions is {max_positions}, expected at least 1")
    scale = 1.0
    if max_side is not None:
        scale = min(1.0, max_side // factor * factor / max(image.size))
    room = math.inf if max_positions is None else max_positions
    scale = min(scale, factor * math.sqrt(room / math.prod(image.size)))
    if policy == "resize":
        columns, rows = (max(1, math.floor(side * scale / factor + 0.5)) for side in image.size)
        while rows * columns > room:
            if rows > 1 and rows * image.width >= columns * image.height:
                rows -= 1
            else:
                columns -= 1
        return _resize(image, columns * factor, rows * factor)
    while True:
        width, height = (max(1, round(side * scale)) for side in image.size)
        columns, rows = math.ceil(width / factor), math.ceil(height / factor)
        if rows * columns <= room:
            break
        scale *= 0.99
    image = _resize(image, width, height)
    width, height = columns * factor, rows * factor
    if (width, height) == image.size:
        return image
    padded = Image.new("RGB", (width, height), "white")
    padded.paste(image)
    return padded


def tiles(image: Image.Image, side: int) -> list[Image.Image]:
    """Cut ``image`` into the fewest equal rows and columns of at most ``side`` pixels, row by row."""
    rows, columns = (math.ceil(length / side) for length in (image.height, image.width))
    tops, lefts = (
        [round(number * length / count) for number in range(count + 1)]
        for count, length in ((rows, image.height), (columns, image.width))
    )
    return [
        image.crop((left, top, right, bottom))
        for top, bottom in pairwise(tops)
        for left, right in pairwise(lefts)
    ]


def cover(image: Image.Image, width: int, height: int, preprocessing: Preprocessing = "meta") -> Image.Image:
    """Scale ``image`` until it covers ``width`` x ``height`` pixels, and crop its center.

    For a square, the shorter edge is scaled to the side, as in Chameleon's training (arXiv:2405.09818,
    section 2.1). "meta" rounds the longer edge, "hf" truncates it.
    """
    scale = max(width / image.width, height / image.height)
    whole = round if preprocessing == "meta" else int
    scaled = _resize(image, max(width, whole(scale * image.width)), max(height, whole(scale * image.height)))
    left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
    return scaled.crop((left, top, left + width, top + height))


def contain(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale ``image`` to fit into ``width`` x ``height`` pixels, centered on white.

    Chameleon's prompts show images this way, so that nothing is cropped (arXiv:2405.09818, section 3.2).
    """
    scale = min(width / image.width, height / image.height)
    scaled = _resize(image, max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    padded = Image.new("RGB", (width, height), "white")
    padded.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
    return padded


def _read(image: Image.Image, name: str, close: bool) -> Image.Image:
    """Decode ``image`` and make it upright 8-bit RGB."""
    if isinstance(image, ImageFile.ImageFile) and image.format not in FORMATS:  # not opened by open_pixels
        raise ValueError(
            f"{name} cannot be read as an image: {image.format} is not one of {', '.join(FORMATS)}"
        )
    _check_size(image, name)
    if not all(image.size):
        raise ValueError(f"{name} has no pixels: its size is {image.width} x {image.height}")
    if image.mode == "F":
        raise ValueError(f"{name} holds floating-point values, whose range is unknown: save it with 8 bits")
    try:
        image.load()
    except _BOMBS:
        raise ValueError(f"{name} has more than {PIXELS:,} pixels: scale it down first") from None
    except Exception as error:
        raise ValueError(f"{name} cannot be read as an image: {_first_line(error)}") from None
    _check_size(image, name)  # an icon may hold a larger picture than its header says
    try:
        turn, rgb = _turn_of(image), _to_rgb(image)
    except Exception as error:
        raise ValueError(f"{name} cannot be read as an image: {_first_line(error)}") from None
    if close:
        image.close()
    if turn is None:
        return rgb
    rgb = rgb.transpose(turn)
    rgb.info.pop("exif", None)  # or it would be turned again the next time it is read
    return rgb


def _check_size(image: Image.Image, name: str) -> None:
    limit = PIXELS // HEAVY.get(image.format or "", 1)
    if math.prod(image.size) > limit:
        raise ValueError(
            f"{name} has {image.width:,} x {image.height:,} pixels, more than {limit:,}: scale it down first"
        )


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Values of the EXIF tag Orientation."""


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    """How its EXIF data say that an image is turned. Damaged data, and XMP, turn nothing, as in browsers.

    ``ImageOps.exif_transpose`` also writes the data again, and fails if other entries are damaged.
    """
    try:
        if "exif" in image.info:
            exif: Any = Image.Exif()
            exif.load(image.info["exif"])
        else:
            exif = getattr(image, "tag_v2", {})  # TIFF
        return _TURNS.get(exif.get(ExifTags.Base.Orientation))
    except Exception:  # Pillow's reader raises whatever its parsing meets
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode not in _SIXTEEN_BIT and not image.has_transparency_data:
        return image.convert("RGB")
    rgb = Image.new("RGB", image.size)
    height = max(1, _BAND // image.width)
    for top in range(0, image.height, height):
        band = image.crop((0, top, image.width, min(top + height, image.height)))
        rgb.paste(_band_to_rgb(band), (0, top))
    return rgb


def _band_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:  # Pillow's own conversion clips at 255
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.LANCZOS)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
