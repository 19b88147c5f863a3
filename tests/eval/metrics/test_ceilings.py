import io
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from earlyfusion.eval.metrics import ceilings
from earlyfusion.eval.metrics.ceilings import downscale, is_gray, jpeg


def word(width: int = 128, height: int = 32, color="black") -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text(
        (4, height // 2), "Saturn", fill=color, font=ImageFont.load_default(20), anchor="lm"
    )
    return image


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.square(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean()
    return -10 * np.log10(error / 255**2)


@pytest.mark.parametrize("color", ["black", "red"])
@pytest.mark.parametrize("name", list(ceilings.ceilings()))
def test_no_more_bits_than_given_and_more_bits_are_no_worse(name, color):
    image, make = word(color=color), ceilings.ceilings()[name]
    quality = []
    for bits in (40, 200, 640, 2560, 10_000):
        made = make(image, bits)
        assert made.image.size == image.size and made.image.mode == "RGB"
        assert made.bits <= bits and (made.fits or made.bits == 0)
        if made.fits and bits <= 2560:
            assert made.bits > bits / 2  # the budget is used
        quality.append(psnr(made.image, image))
    assert quality[-1] > quality[2] > 10
    assert all(b > a - 0.5 for a, b in zip(quality, quality[1:]))


def test_downscaling_counts_8_bits_of_a_grey_pixel_and_24_of_another():
    assert is_gray(word()) and not is_gray(word(color="red"))
    gray, red = (downscale(image, 640) for image in (word(), word(color="red")))
    assert gray.bits == 640  # 20 x 4
    assert 24 * 20 <= red.bits <= 640 and red.bits % 24 == 0
    whole = downscale(word(16, 16), 16 * 16 * 24)
    assert whole.image.tobytes() == word(16, 16).tobytes() and whole.bits == 16 * 16 * 8


def test_small_shapes_keep_the_proportion_and_the_budget():
    rng = random.Random(0)
    for _ in range(500):
        size, pixels = (rng.randint(1, 300), rng.randint(1, 300)), rng.randint(1, 5000)
        width, height = ceilings._shape(size, pixels)
        assert 1 <= width <= size[0] and 1 <= height <= size[1] and width * height <= pixels
    assert ceilings._shape((128, 32), 100) == (20, 5)


def test_the_entropy_coded_bytes_of_a_jpeg_are_those_behind_its_headers():
    bits, data = ceilings._jpeg(word(), 50)
    start = data.index(b"\xff\xda")
    start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    assert bits == 8 * len(data[start:-2]) and data[-2:] == b"\xff\xd9"
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.size == (128, 32)


def test_the_best_jpeg_is_scaled_down_where_bits_are_few():
    image = word(256, 64)
    low, high = jpeg(image, 400), jpeg(image, 40_000)
    assert low.fits and psnr(high.image, image) > 35
    full_size = [ceilings._jpeg(image.convert("L"), quality)[0] for quality in (1, 2, 5)]
    assert min(full_size) > 400  # not even the worst quality would have fitted


def test_without_bits_the_picture_is_the_mean_color():
    image = word(color="red")
    for make in ceilings.ceilings().values():
        made = make(image, 5)
        assert (made.bits, made.fits) == (0, False)
        assert len(made.image.getcolors() or ()) == 1
        assert np.abs(np.asarray(made.image)[0, 0] - np.asarray(image).reshape(-1, 3).mean(0)).max() <= 0.5


@pytest.mark.parametrize("bits", [500, 3_000, 20_000, 10**6])
def test_the_quality_found_is_the_highest_that_fits(bits):
    noise = np.random.default_rng(0).integers(0, 60, (64, 160, 3), np.uint8)
    image = Image.fromarray(np.asarray(word(160, 64)) - noise)
    for encode in (ceilings._jpeg, ceilings._webp):
        sizes = {quality: encode(image, quality)[0] for quality in range(1, ceilings.BEST_QUALITY + 1)}
        fitting = [quality for quality, spent in sizes.items() if spent <= bits]
        found = ceilings._best_quality(image, bits, encode)
        assert (found and found[2]) == (max(fitting) if fitting else None)


def test_squared_error_of_a_page_in_bands():
    a, b = (np.random.default_rng(i).integers(0, 256, (150, 20, 3), np.uint8) for i in (0, 1))
    found = ceilings.squared_error(Image.fromarray(a), Image.fromarray(b))
    assert found == np.square(a.astype(float) - b).mean()
