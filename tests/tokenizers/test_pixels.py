import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from earlyfusion.tokenizers import pixels
from earlyfusion.tokenizers.pixels import fit, load_image, to_pil, to_tensor

GREYS = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
GREYS_8_BIT = np.round(GREYS / 257).astype(np.uint8)

# EXIF orientation -> how a camera stored the upright image
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def values(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(image: Image.Image, folder: Path, name: str, **options) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def test_tensor_round_trip_is_exact() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([ramp, ramp.T, 255 - ramp], axis=-1))
    pixels = to_tensor(image)
    assert pixels.shape == (3, 16, 16) and pixels.dtype == torch.float32 and pixels.is_contiguous()
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)
    assert pixels[0, 0, 1] < pixels[0, 1, 0]  # channels, rows, columns
    assert np.array_equal(values(to_pil(pixels)), values(image))
    assert np.array_equal(values(to_pil(pixels.double())), values(image))


def test_to_pil_clamps() -> None:
    pixels = torch.tensor([-9.0, 9.0, 0.0]).view(3, 1, 1).requires_grad_()
    assert values(to_pil(pixels)).tolist() == [[[0, 255, 128]]]


def test_shapes_and_modes_are_checked() -> None:
    for shape in ((1, 4, 4), (1, 3, 4, 4), (4, 4, 3)):
        with pytest.raises(ValueError, match=r"expected \(3, H, W\)"):
            to_pil(torch.zeros(shape))
    with pytest.raises(ValueError, match="mode L, expected RGB"):
        to_tensor(Image.new("L", (4, 4)))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_every_mode_becomes_rgb(photo: Image.Image, mode: str) -> None:
    source = Image.new(mode, photo.size) if mode in ("PA", "LAB") else photo.convert(mode)
    before = source.copy()
    image = load_image(source)
    assert image.mode == "RGB" and image.size == photo.size and image is not source
    assert source == before
    if mode not in ("PA", "LAB", "1", "L", "LA", "P"):
        assert np.abs(values(image).astype(int) - values(photo)).max() <= 8


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    path = saved(Image.fromarray(GREYS), tmp_path, name)
    assert np.array_equal(values(load_image(path)), np.repeat(GREYS_8_BIT[..., None], 3, axis=-1))


def test_big_endian_sixteen_bits() -> None:
    image = Image.frombytes("I;16B", (4, 4), GREYS.astype(">u2").tobytes())
    assert np.array_equal(values(load_image(image))[..., 0], GREYS_8_BIT)


@pytest.mark.parametrize(
    "mode, color, options, expected",
    [
        ("RGBA", (255, 0, 0, 0), {}, (255, 255, 255)),
        ("RGBA", (255, 0, 0, 128), {}, (255, 127, 127)),
        ("LA", (0, 0), {}, (255, 255, 255)),
        ("P", 3, {"transparency": 3}, (255, 255, 255)),
        ("P", 3, {"transparency": bytes([255, 255, 255, 0])}, (255, 255, 255)),
        ("RGB", (9, 9, 9), {"transparency": (9, 9, 9)}, (255, 255, 255)),
        ("L", 9, {"transparency": 9}, (255, 255, 255)),
        ("L", 9, {"transparency": 8}, (9, 9, 9)),
    ],
)
def test_transparency_lies_on_white(tmp_path: Path, mode: str, color, options: dict, expected: tuple) -> None:
    image = Image.new(mode, (2, 2), color)
    if mode == "P":
        image.putpalette([10, 20, 30] * 4)
    path = saved(image, tmp_path, "a.png", **options)
    assert tuple(values(load_image(path))[0, 0]) == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, photo: Image.Image, orientation: int) -> None:
    stored = photo if orientation == 1 else photo.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(stored, tmp_path, "a.png", exif=exif)
    assert np.array_equal(values(load_image(path)), values(photo))


def test_cmyk_jpeg_and_animation(tmp_path: Path, photo: Image.Image) -> None:
    path = saved(photo.convert("CMYK"), tmp_path, "a.jpg", quality=95)
    assert np.abs(values(load_image(path)).astype(int) - values(photo)).mean() < 10
    frames = [Image.new("P", (4, 4), 0), Image.new("P", (4, 4), 1)]
    path = saved(frames[0], tmp_path, "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(path).size == (4, 4)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.png not found"):
        load_image(tmp_path / "no.png")
    with pytest.raises(ValueError, match="is not a file"):
        load_image(str(tmp_path))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.tif", "a.webp"])
def test_broken_files_are_one_clear_error(tmp_path: Path, photo: Image.Image, name: str) -> None:
    whole = saved(photo, tmp_path, name).read_bytes()
    load_image(tmp_path / name)
    for data in (b"", b"not an image", whole[:20], whole[: len(whole) * 2 // 3]):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} cannot be read.*: .+") as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_damaged_bytes_never_give_another_error(tmp_path: Path, photo: Image.Image) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.png", "a.jpg", "a.tif"):
        whole = np.frombuffer(saved(photo, tmp_path, name).read_bytes(), np.uint8)
        for _ in range(100):
            data = whole.copy()
            data[rng.integers(len(data), size=4)] = rng.integers(256, size=4)
            (tmp_path / name).write_bytes(data.tobytes())
            try:
                with warnings.catch_warnings(action="error"):
                    assert load_image(tmp_path / name).mode == "RGB"
            except ValueError as error:
                assert name in str(error)


def test_huge_images_are_refused(tmp_path: Path, photo: Image.Image, monkeypatch) -> None:
    path = saved(photo, tmp_path, "a.png")
    monkeypatch.setattr(pixels, "PIXELS", 1000)
    with warnings.catch_warnings(action="error"):
        for source in (path, photo):
            with pytest.raises(ValueError, match="48 x 32 pixels, more than 1,000"):
                load_image(source)
    for limit in (1000, 100):  # Pillow warns above its own limit, and raises above twice of it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with (
            warnings.catch_warnings(action="error"),
            pytest.raises(ValueError, match="more than 1,000 pixels"),
        ):
            load_image(path)


def test_images_without_a_range_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        load_image(Image.new("F", (2, 2)))
    with pytest.raises(ValueError, match="0 x 3"):
        load_image(Image.new("RGB", (0, 3)))


@pytest.mark.parametrize(
    "size, policy, max_side, expected",
    [
        ((16, 24), "resize", None, (16, 24)),
        ((17, 23), "resize", None, (16, 24)),
        ((20, 20), "resize", None, (24, 24)),  # a half rounds up
        ((1, 3), "resize", None, (8, 8)),
        ((100, 50), "resize", 40, (40, 24)),
        ((100, 50), "resize", 47, (40, 24)),
        ((1000, 1), "resize", 64, (64, 8)),
        ((20, 20), "resize", 20, (16, 16)),
        ((16, 24), "pad", None, (16, 24)),
        ((17, 23), "pad", None, (24, 24)),
        ((1, 3), "pad", None, (8, 8)),
        ((100, 50), "pad", 40, (40, 24)),
        ((20, 10), "pad", 20, (16, 8)),
        ((1000, 1), "pad", 64, (64, 8)),
    ],
)
def test_fit(size, policy, max_side, expected) -> None:
    image = Image.new("RGB", size, "red")
    fitted = fit(image, 8, policy, max_side)
    assert fitted.size == expected
    assert (fitted is image) == (size == expected)


def test_fit_keeps_every_size_in_bounds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height, factor = (int(n) for n in rng.integers(1, 120, size=3))
        max_side = factor + int(rng.integers(60))
        for policy in ("resize", "pad"):
            fitted = fit(Image.new("RGB", (width, height)), factor, policy, max_side)
            assert all(side % factor == 0 and 0 < side <= max_side for side in fitted.size)


def test_pad_adds_white_at_right_and_bottom(photo: Image.Image) -> None:
    padded = values(fit(photo.crop((0, 0, 45, 30)), 8, "pad"))
    assert np.array_equal(padded[:30, :45], values(photo)[:30, :45])
    assert (padded[30:] == 255).all() and (padded[:, 45:] == 255).all()


def test_fit_errors(photo: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"policy.*'crop'.*'resize'.*'pad'"):
        fit(photo, 8, "crop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"max_side.*7.*8"):
        fit(photo, 8, "pad", 7)
