"""What visitors may send: real pictures of a decent size, and text that is only ever text."""

import base64
import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from earlyfusion.fusion_lm.folder import Model
from earlyfusion.playground import limits
from earlyfusion.playground.compose import Ask, compose, fitted
from earlyfusion.playground.limits import Refused, read_picture, read_segments


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def stored(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A small file whose header claims ``width`` x ``height`` pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def test_a_prompt_is_text_and_pictures_in_their_order():
    red = uri(stored(Image.new("RGB", (16, 8), "red")))
    first, second, third = read_segments([{"text": "a "}, {"image": red}, {"text": ""}, {"text": "b"}])
    assert (first, third) == ("a ", "b")
    assert (
        isinstance(second, Image.Image) and second.size == (16, 8) and second.getpixel((0, 0)) == (255, 0, 0)
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats_that_browsers_show_are_read(kind: str):
    image = read_picture(uri(stored(Image.new("RGB", (24, 16), "white"), kind), kind.lower()))
    assert image.mode == "RGB" and image.size == (24, 16)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("/etc/passwd", "data:image"),
        ("file:///etc/passwd", "data:image"),
        ("https://example.org/a.png", "data:image"),
        ("../../pretrained/openmoji-words/model.safetensors", "data:image"),
        ("data:text/html;base64,PGI+", "data:image"),
        (7, "data:image"),
        (None, "data:image"),
        ("data:image/png;base64,%%%", "base64"),
        (uri(b""), "picture.*PNG"),
        (uri(b"no picture at all"), "picture.*PNG"),
        (uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"), "picture.*PNG"),
        (uri(b"%PDF-1.7"), "picture.*PNG"),
        (uri(stored(Image.effect_noise((64, 64), 90))[:900]), "truncated"),
        (uri(stored(Image.new("RGB", (9, 9)), "TIFF"), "tiff"), "picture.*PNG"),
        (uri(png_of_size(50_000, 50_000)), "pixels"),
        (uri(png_of_size(5_000, 5_000)), "25,000,000|5,000 x 5,000"),
        (uri(b"\0" * (50 << 20)), "10 MB"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_invalid_pictures_are_refused_in_a_line(value: Any, words: str):
    with pytest.raises(Refused, match=words) as error:
        read_picture(value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("text", "64 segments"),
        (None, "64 segments"),
        ([{"text": "a"}] * (limits.SEGMENTS + 1), "64 segments"),
        (["a"], "segment"),
        ([{}], "segment"),
        ([{"text": 3}], "segment"),
        ([{"text": "a", "image": "b"}], "segment"),
        ([{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "segment"),
        ([{"text": "\ud800"}], "surrogate"),
        ([{"text": "a" * 15_000}, {"text": "b" * 15_000}], "30,000 characters"),
    ],
)
def test_invalid_prompts_are_refused(value: Any, words: str):
    with pytest.raises(Refused, match=words):
        read_segments(value)


@pytest.mark.parametrize(
    "text", ["<image>", "</s>", "<s>", "<pad> <eos>", "begin_image 6 6", "<0x00>", "\x00"]
)
def test_text_that_looks_like_control_stays_text(model: Model, text: str):
    tokenizer = model.tokenizer
    [segment] = read_segments([{"text": text}])
    tokens = tokenizer.encode([segment], eos=False).tokens
    assert int(tokens[0]) == tokenizer.vocab.bos and bool(tokenizer.vocab.is_text(tokens[1:]).all())
    assert tokenizer.decode(tokens) == [text]
    *_, [sample] = compose(model, [segment], Ask(max_new_tokens=4))
    assert sample.tokens is not None and sample.prompt == [text]
    assert sample.tokens[: sample.prompt_length].tolist() == tokens.tolist()


def test_many_small_files_are_no_way_to_many_pixels():
    large = {"image": uri(stored(Image.new("1", (4_000, 4_000))))}
    assert len(large["image"]) < 20_000
    assert len(read_segments([large])) == 1
    with pytest.raises(Refused, match="4,000 x 4,000.*24,000,000"):
        read_segments([large, large])


def test_large_pictures_are_scaled_to_what_the_model_can_take(model: Model):
    photo = Image.effect_noise((1200, 800), 60).convert("RGB")
    [scaled] = fitted(model, [photo], Ask())
    assert isinstance(scaled, Image.Image)
    positions = scaled.width * scaled.height // model.tokenizer.image.factor**2
    assert 32 < positions <= model.lm.config.context_length // 4
    small = Image.new("RGB", (48, 48))
    again, text = fitted(model, [small, "a"], Ask())
    assert again.tobytes() == small.tobytes() and text == "a"  # type: ignore[union-attr]
    *_, [sample] = compose(model, [photo, "A"], Ask(max_new_tokens=2))
    assert sample.stop is not None


def test_a_prompt_that_is_too_long_tells_the_numbers(model: Model):
    with pytest.raises(Refused, match=r"30\d tokens.*256"):
        next(compose(model, ["a" * 300], Ask()))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 9}, "samples.*9"),
        ({"max_new_tokens": -1}, "max_new_tokens.*-1"),
        ({"max_positions": -2}, "max_positions.*-2"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(Refused, match=words):
        Ask(**settings)


def test_a_turn_of_a_conversation_ends_with_its_token(model: Model):
    *_, [sample] = compose(model, ["a"], Ask(answer=True, max_new_tokens=3))
    assert sample.tokens is not None and sample.prompt == ["a"]
    assert int(sample.tokens[sample.prompt_length - 1]) == model.tokenizer.vocab.sep
