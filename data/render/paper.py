"""Ink on paper: turns a mask of ink into an image, in plain black, light on dark, or in color."""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_DARK, _LIGHT = (15, 85), (165, 245)
"""Luminances of 255. Ink and paper are drawn from different ranges, so that they differ by at least 80."""


def plain(ink: Image.Image) -> Image.Image:
    """Black on white.

    Args:
        ink: Mode L, 255 for full ink.

    Returns:
        RGB, like the other functions.
    """
    return ink.point(lambda value: 255 - value).convert("RGB")


def inverted(ink: Image.Image, rng: random.Random) -> Image.Image:
    """Light gray to white on dark gray to black."""
    paper, light = rng.choice((0, rng.randint(0, 70))), rng.choice((255, rng.randint(185, 255)))
    return ink.point([round(paper + (light - paper) * value / 255) for value in range(256)]).convert("RGB")


def colored(ink: Image.Image, rng: random.Random) -> Image.Image:
    """Color on colored paper: flat, a gradient, stripes, noise, or overlapping shapes like a picture's."""
    bands = (_DARK, _LIGHT) if rng.random() < 0.5 else (_LIGHT, _DARK)
    numbers = np.random.default_rng(rng.getrandbits(64))
    draw = rng.choice((_flat, _gradient, _gradient, _stripes, _noise, _picture, _picture))
    paper = draw(ink.size, lambda: _color(rng, bands[0]), rng, numbers)  # (H, W, 3)
    alpha = np.asarray(ink, dtype=np.float32)[..., None] / 255
    image = paper + alpha * (_color(rng, bands[1]) - paper)
    image = image + numbers.normal(0, rng.uniform(0, 8), image.shape).astype(np.float32)
    return Image.fromarray(image.clip(0, 255).round().astype(np.uint8))


Size = tuple[int, int]
"""(width, height), as in Pillow."""
_Draw = Callable[[], np.ndarray]
"""Draws a color (3,) for the paper."""


def _color(rng: random.Random, luminances: tuple[int, int]) -> np.ndarray:
    """A color of any hue with a luminance within the bounds."""
    color = np.array([rng.uniform(0, 255) for _ in range(3)], dtype=np.float32)
    wanted, luma = rng.uniform(*luminances), float(color @ _LUMA)
    if luma > wanted:
        return color * (wanted / luma)
    return color + (255 - color) * ((wanted - luma) / max(255 - luma, 1e-3))


def _mixed(share: np.ndarray, color: _Draw) -> np.ndarray:
    """A blend of two colors, by a fraction (H, W) in [0, 1]; luminances stay between those of the two."""
    first = color()
    return first + share[..., None].astype(np.float32) * (color() - first)


def _flat(size: Size, color: _Draw, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(color(), (size[1], size[0], 3))


def _gradient(size: Size, color: _Draw, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    return _mixed(_ramp(size, rng), color)


def _stripes(size: Size, color: _Draw, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    period = rng.uniform(6, 40) / max(size)
    return _mixed(0.5 + 0.5 * np.sin(2 * np.pi * _ramp(size, rng) / period), color)


def _noise(size: Size, color: _Draw, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    """Clouds: an enlarged small random image."""
    cell = rng.choice((2, 4, 8, 16))
    small = numbers.integers(0, 256, (size[1] // cell + 2, size[0] // cell + 2), dtype=np.uint8)
    clouds = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    return _mixed(np.asarray(clouds) / 255, color)


def _picture(size: Size, color: _Draw, rng: random.Random, numbers: np.random.Generator) -> np.ndarray:
    """Overlapping ellipses, slightly blurred."""
    picture = Image.new("RGB", size, tuple(color().astype(int).tolist()))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(4, 14)):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        w, h = (rng.uniform(0.05, 0.4) * max(size) for _ in range(2))
        draw.ellipse((x - w, y - h, x + w, y + h), fill=tuple(color().astype(int).tolist()))
    blur = ImageFilter.GaussianBlur(rng.uniform(0, 3))
    return np.asarray(picture.filter(blur), dtype=np.float32)


def _ramp(size: tuple[int, int], rng: random.Random) -> np.ndarray:
    """(H, W), from 0 to 1 in a direction drawn by ``rng``."""
    angle = rng.uniform(0, 2 * np.pi)
    x = np.arange(size[0], dtype=np.float32) * np.float32(np.cos(angle))
    y = np.arange(size[1], dtype=np.float32) * np.float32(np.sin(angle))
    ramp = x + y[:, None]
    return (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
