"""Other codecs at the same number of bits: the image scaled down, as JPEG and as WebP.

These codecs are not tuned for text; they show how much of a score the bit rate alone explains. Each takes an
image and a budget in bits (the cost of its codes) and returns the picture within the budget that has the
least mean squared error.

What counts:

- "downscale": the raw pixels of a smaller image, 24 bits each, 8 if the image is gray. Lanczos down, bicubic
  up.
- "jpeg": the entropy-coded bytes of a baseline JPEG (4:2:0, the standard Huffman tables), scaled down first
  if that is better. Headers and tables are free: a decoder that knows them needs the quality, the scale
  and the size, as the tokenizer's decoder knows its codebook and the grid.
- "webp": the same with lossy WebP, less the 30 bytes of container and fixed frame header.

If even the smallest file exceeds the budget, the picture has a single color, the mean, and costs nothing.
"""

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, features

SCALES = (1.0, 0.71, 0.5, 0.35, 0.25, 0.18, 0.125)
"""Factors by which sides are scaled before JPEG or WebP."""
BEST_QUALITY = 95
WEBP_HEADER = 10
"""Bytes of a VP8 frame's tag, start code and size."""


class Ceiling(NamedTuple):
    """A picture of the size of the original, and its cost."""

    image: Image.Image
    bits: int
    """Bits actually spent, at most the budget."""
    fits: bool
    """False if nothing fits into the budget; the picture then has a single color."""


def downscale(image: Image.Image, bits: int) -> Ceiling:
    """``image`` (RGB) from a smaller image that costs at most ``bits``."""
    gray = is_gray(image)
    pixel_bits = 8 if gray else 24
    pixels = bits // pixel_bits
    if pixels < 1:
        return _one_color(image)
    width, height = _shape(image.size, pixels)
    small = (image.convert("L") if gray else image).resize((width, height), Image.Resampling.LANCZOS)
    return Ceiling(_enlarged(small, image.size), pixel_bits * width * height, True)


def jpeg(image: Image.Image, bits: int) -> Ceiling:
    """The JPEG nearest to ``image`` (RGB) in at most ``bits``."""
    return _search(image, bits, _jpeg)


def webp(image: Image.Image, bits: int) -> Ceiling:
    """The WebP nearest to ``image`` (RGB) in at most ``bits``."""
    return _search(image, bits, _webp)


def ceilings() -> dict[str, Callable[[Image.Image, int], Ceiling]]:
    """The ceilings that this Pillow supports, by name."""
    found = {"downscale": downscale, "jpeg": jpeg}
    return {**found, "webp": webp} if features.check("webp") else found


def is_gray(image: Image.Image) -> bool:
    """Whether red, green and blue are equal in every pixel of ``image`` (RGB)."""
    pixels = np.asarray(image)  # (H, W, 3)
    return bool((pixels == pixels[..., :1]).all())


Encoder = Callable[[Image.Image, int], tuple[int, bytes]]
"""(image, quality 1..95) -> (bits that count, the file)."""


def _search(image: Image.Image, bits: int, encode: Encoder) -> Ceiling:
    """The best by squared error of all scales, each at the highest quality that fits.

    A scale that loses more by resizing alone than another with its codec is not encoded: a WebP of a scanned
    page takes a second.
    """
    source = image.convert("L") if is_gray(image) else image
    best, least = None, math.inf
    for scale in SCALES:
        width, height = (max(1, round(side * scale)) for side in image.size)
        small = source
        if (width, height) != image.size:
            small = source.resize((width, height), Image.Resampling.LANCZOS)
            if best is not None and squared_error(_enlarged(small, image.size), image) > least:
                continue
        found = _best_quality(small, bits, encode)
        if found is None:
            continue
        spent, file, quality = found
        with Image.open(io.BytesIO(file)) as decoded:
            restored = _enlarged(decoded, image.size)
        error = squared_error(restored, image)
        if error < least:
            best, least = Ceiling(restored, spent, True), error
        if quality == BEST_QUALITY:
            break  # smaller scales lose pixels and gain nothing
    return best or _one_color(image)


def squared_error(a: Image.Image, b: Image.Image) -> float:
    """Mean squared difference of two images of a size, in bands of rows: exact, without copies of a page."""
    first, second, total = np.asarray(a), np.asarray(b), 0
    for top in range(0, len(first), 64):
        rows = slice(top, top + 64)
        difference = first[rows].astype(np.int32) - second[rows]
        total += int(np.square(difference).sum(dtype=np.int64))
    return total / first.size


def _best_quality(image: Image.Image, bits: int, encode: Encoder) -> tuple[int, bytes, int] | None:
    """(bits, file, quality) of the highest quality that fits; None if none fits.

    The logarithm of the bits is almost linear in the quality: three guesses by that line, then bisection.
    """
    spent, file = encode(image, 1)
    if spent > bits:
        return None
    found, above, slope, tries = (spent, file, 1), BEST_QUALITY + 1, 0.03, 0
    while above - found[2] > 1:
        quality = (found[2] + above) // 2
        if tries < 3 and found[0] > 0:
            guess = found[2] + math.log(bits / found[0]) / slope
            quality = min(max(round(guess), found[2] + 1), above - 1)
        spent, file = encode(image, quality)
        slope = max(0.005, math.log(max(spent, 1) / max(found[0], 1)) / (quality - found[2]))
        tries += 1
        if spent <= bits:
            found = (spent, file, quality)
        else:
            above = quality
    return found


def _jpeg(image: Image.Image, quality: int) -> tuple[int, bytes]:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0" if image.mode == "RGB" else -1)
    data = file.getvalue()
    return 8 * (len(data) - _scan_start(data) - 2), data  # less the end-of-image marker


def _scan_start(data: bytes) -> int:
    """Where the entropy-coded bytes of a baseline JPEG begin: after the start-of-scan segment."""
    place = 2
    while True:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        place += 2 + length
        if marker == 0xDA:
            return place


def _webp(image: Image.Image, quality: int) -> tuple[int, bytes]:
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", quality=quality, method=4)
    data = file.getvalue()
    assert data[12:16] == b"VP8 ", "a lossy WebP without metadata is a single VP8 chunk"
    return 8 * (int.from_bytes(data[16:20], "little") - WEBP_HEADER), data


def _shape(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """Sides in about the proportion of ``size`` with at most ``pixels`` pixels, none longer than its own."""
    width, height = size
    if width * height <= pixels:
        return size
    rows = math.sqrt(pixels * height / width)
    most = min(pixels, height)
    counts = {min(max(1, math.floor(rows)), most), min(math.ceil(rows), most)}
    shapes = [(min(pixels // n, width), n) for n in sorted(counts)]
    return min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1] * height / width)))


def _enlarged(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return image.convert("RGB")


def _one_color(image: Image.Image) -> Ceiling:
    mean = np.asarray(image).reshape(-1, 3).mean(0).round().astype(int)
    return Ceiling(Image.new("RGB", image.size, tuple(mean.tolist())), 0, False)
