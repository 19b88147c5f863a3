"""Ink on paper: a mask of where the ink is -> an image, in plain black, light on dark, or in colour."""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_DARK, _LIGHT = (15, 85), (165, 245)
"""Luminances of 255; ink and paper are drawn from different ones, so that at least 80 lie between them."""


def plain(ink: Image.Image) -> Image.Image:
    """Black on white.

    Args:
        ink: Mode L, 255 where the ink is full.

    Returns:
        RGB, as of the other functions.
    """
    return ink.point(lambda value: 255 - value).convert("RGB")


def inverted(ink: Image.Image, rng: random.Random) -> Image.Image:
    """Light grey to white on dark grey to black."""
    paper, light = rng.choice((0, rng.randint(0, 70))), rng.choice((255, rng.randint(185, 255)))
    return ink.point([round(paper + (light - paper) * value / 255) for value in range(256)]).convert("RGB")


def coloured(ink: Image.Image, rng: random.Random) -> Image.Image:
    """Coloured on a coloured paper: flat, a gradient, stripes, a noise, or shapes as of a picture."""
    bands = (_DARK, _LIGHT) if rng.random() < 0.5 else (_LIGHT, _DARK)
    numbers = np.random.default_rng(rng.getrandbits(64))
    draw = rng.choice((_flat, _gradient, _gradient, _stripes, _noise, _picture, _picture))
    paper = draw(ink.size, lambda: _colour(rng, bands[0]), rng, numbers)  # (H, W, 3)
    alpha = np.asarray(ink, dtype=np.float32)[..., None] / 255
    image = paper + alpha * (_colour(rng, bands[1]) - paper)
    image = image + numbers.normal(0, rng.uniform(0, 8), image.shape).astype(np.float32)
    return Image.fromarray(image.clip(0, 255).round().astype(np.uint8))


Size = tuple[int, int]
"""(width, height), as Pillow has it."""
_Draw = Callable[[], np.ndarray]
"""Gives a colour (3,) that suits the paper."""


def _colour(rng: random.Random, luminances: tuple[int, int]) -> np.ndarray:
    """A colour of any hue whose luminance lies in the given bounds."""
    colour = np.array([rng.uniform(0, 255) for _ in range(3)], dtype=np.float32)
    wanted, luma = rng.uniform(*luminances), float(colour @ _LUMA)
    if luma > wanted:
        return colour * (wanted / luma)
    return colour + (255 - colour) * ((wanted - luma) / max(255 - luma, 1e-3))


def _mixed(share: np.ndarray, colour: _Draw) -> np.ndarray:
    """From one colour to another, by a share (H, W) in [0, 1]: no luminance leaves the span of the two."""
    first = colour()
    return first + share[..., None].astype(np.float32) * (colour() - first)


def _flat(size: Size, colour: _Draw, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(colour(), (size[1], size[0], 3))


def _gradient(size: Size, colour: _Draw, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    return _mixed(_ramp(size, rng), colour)


def _stripes(size: Size, colour: _Draw, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    period = rng.uniform(6, 40) / max(size)
    return _mixed(0.5 + 0.5 * np.sin(2 * np.pi * _ramp(size, rng) / period), colour)


def _noise(size: Size, colour: _Draw, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    """Clouds: a small random image, enlarged."""
    cell = rng.choice((2, 4, 8, 16))
    small = numbers.integers(0, 256, (size[1] // cell + 2, size[0] // cell + 2), dtype=np.uint8)
    clouds = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    return _mixed(np.asarray(clouds) / 255, colour)


def _picture(size: Size, colour: _Draw, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    """Overlapping ellipses, blurred a little."""
    picture = Image.new("RGB", size, tuple(colour().astype(int).tolist()))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(4, 14)):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        w, h = (rng.uniform(0.05, 0.4) * max(size) for _ in range(2))
        draw.ellipse((x - w, y - h, x + w, y + h), fill=tuple(colour().astype(int).tolist()))
    blur = ImageFilter.GaussianBlur(rng.uniform(0, 3))
    return np.asarray(picture.filter(blur), dtype=np.float32)


def _ramp(size: tuple[int, int], rng: random.Random) -> np.ndarray:
    """(H, W), from 0 to 1 in a direction drawn by ``rng``."""
    angle = rng.uniform(0, 2 * np.pi)
    x = np.arange(size[0], dtype=np.float32) * np.float32(np.cos(angle))
    y = np.arange(size[1], dtype=np.float32) * np.float32(np.sin(angle))
    ramp = x + y[:, None]
    return (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
