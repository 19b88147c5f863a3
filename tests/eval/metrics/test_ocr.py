import sys

import pytest
from PIL import Image, ImageDraw, ImageFont

from earlyfusion.eval.metrics import ocr

WORDS = ("hello", "Zebra", "qxvtu", "river")


def strip(text: str, width: int = 64) -> Image.Image:
    """Type of 12 px on a strip 16 px high."""
    image = Image.new("RGB", (width, 16), "white")
    ImageDraw.Draw(image).text((2, 8), text, fill="black", font=ImageFont.load_default(12), anchor="lm")
    return image


@pytest.fixture(scope="module")
def reader() -> ocr.RapidReader:
    pytest.importorskip("rapidocr")
    pytest.importorskip("onnxruntime")
    return ocr.RapidReader()


def test_rapidocr_reads_small_type_and_nothing_on_a_blank_strip(reader, capfd):
    done = []
    images = [*map(strip, WORDS), strip("")]
    assert reader.read(images, done.append) == [*WORDS, ""]
    assert done == [1, 2, 3, 4, 5]
    assert reader.name == "rapidocr" and reader.version
    assert reader.read([]) == []
    assert capfd.readouterr() == ("", "")


def test_a_reading_does_not_depend_on_the_other_images(reader):
    images = [strip(word, width) for word, width in zip(WORDS, (48, 64, 96, 160))]
    assert reader.read(images) == [reader.read([image])[0] for image in images] == list(WORDS)


def test_rapidocr_needs_no_network(reader, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a network connection was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("requests.get", refuse)
    assert ocr.RapidReader().read([strip("hello")]) == ["hello"]


def test_prepare_enlarges_by_whole_numbers_and_adds_a_border_of_the_background():
    image = Image.new("L", (10, 16), 255)
    image.paste(0, (1, 1, 9, 15))
    prepared = ocr.prepare(image, least_height=33, border=4)
    assert (prepared.mode, prepared.size) == ("RGB", (10 * 3 + 8, 16 * 3 + 8))
    assert prepared.getpixel((0, 0)) == prepared.getpixel((37, 55)) == (255, 255, 255)
    assert prepared.getpixel((20, 20)) == (0, 0, 0)
    assert ocr.prepare(image, least_height=16, border=0).size == (10, 16)
    dark = ocr.prepare(Image.new("RGB", (10, 16), (0, 0, 90)), least_height=16, border=3)
    assert dark.getcolors() == [(16 * 22, (0, 0, 90))]


@pytest.mark.parametrize("name", ["rapidocr", "tesseract"])
def test_light_type_on_a_dark_ground_is_read_too(name, request):
    reader = request.getfixturevalue({"rapidocr": "reader"}.get(name, name))
    image = Image.new("RGB", (100, 32), (20, 40, 90))
    ImageDraw.Draw(image).text((4, 16), "river", (250, 240, 200), ImageFont.load_default(24), anchor="lm")
    assert reader.read([image]) == ["river"]


def test_an_unknown_reader_and_a_missing_one_are_one_line(monkeypatch):
    with pytest.raises(ValueError, match="'abbyy'.*rapidocr, tesseract"):
        ocr.readers(["abbyy"])
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    monkeypatch.setitem(sys.modules, "tesserocr", None)
    with pytest.raises(ValueError, match=r"'rapidocr'.*earlyfusion\[ocr\]"):
        ocr.readers(["rapidocr"])
    with pytest.raises(ValueError, match=r"'tesseract'.*earlyfusion\[tesseract\]"):
        ocr.readers(["tesseract"])


def test_without_engines_there_are_no_readers(monkeypatch):
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    assert ocr.readers() == []
    assert "earlyfusion[ocr]" in ocr.INSTALL


@pytest.fixture(scope="module")
def tesseract() -> ocr.TesseractReader:
    pytest.importorskip("tesserocr")
    if ocr.tessdata() is None:
        pytest.skip("Tesseract's English data are not installed")
    return ocr.TesseractReader()


def test_tesseract_reads_type_and_nothing_on_a_blank_strip(tesseract, capfd):
    done = []
    images = [*map(strip, WORDS), strip("")]
    assert tesseract.read(images, done.append) == [*WORDS, ""]
    assert done == [1, 2, 3, 4, 5]
    assert tesseract.name == "tesseract" and tesseract.version[0].isdigit()
    assert tesseract.read([]) == []
    assert capfd.readouterr() == ("", "")


def test_a_reading_by_tesseract_does_not_depend_on_the_others(tesseract):
    images = [strip(word, width) for word, width in zip(WORDS, (48, 64, 96, 160))] * 5
    assert tesseract.read(images) == [tesseract.read([image])[0] for image in images] == [*WORDS] * 5


def test_tessdata_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))
    (tmp_path / "tessdata").mkdir()
    (tmp_path / "tessdata" / "eng.traineddata").write_bytes(b"")
    assert ocr.tessdata() == tmp_path / "tessdata"


def test_missing_readers_are_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    reasons = ocr.missing()
    assert list(reasons) == ["rapidocr", "tesseract"]
    assert "earlyfusion[tesseract]" in reasons["tesseract"] and "tesseract-ocr-eng" in reasons["tesseract"]


@pytest.mark.parametrize("name", ["rapidocr", "tesseract"])
def test_the_lines_of_a_page_are_found_from_top_to_bottom(name, request):
    reader = request.getfixturevalue({"rapidocr": "reader"}.get(name, name))
    page = Image.new("RGB", (400, 300), "white")
    lines = ("nothing is lost", "here is a line", "and the third")
    for i, text in enumerate(lines):
        ImageDraw.Draw(page).text((20, 30 + 90 * i), text, "black", ImageFont.load_default(30))
    boxes = reader.find(page)
    assert len(boxes) == 3
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert 10 < left < 30 and 25 < top - 90 * i < 45 and 50 < bottom - 90 * i < 75 and right < 300
    assert reader.read(
        [page.crop((x - 2, y - 2, right + 2, bottom + 2)) for x, y, right, bottom in boxes]
    ) == list(lines)
    assert reader.find(Image.new("RGB", (200, 100), "white")) == []
