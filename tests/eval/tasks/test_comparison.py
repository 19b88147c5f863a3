"""One picture through several tokenizers: against the measurement that it is made of."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from earlyfusion.eval.items import Item
from earlyfusion.eval.suites import ocr_suite
from earlyfusion.eval.tasks.comparison import compare, page_reader
from earlyfusion.eval.tasks.reconstruction import measure
from earlyfusion.playground.showcase import PICTURES
from earlyfusion.tokenizers.image import ImageTokenizer


def test_figures_are_those_of_the_measurement(image_tokenizer: ImageTokenizer, photo: Image.Image):
    found = compare(photo, {"a": image_tokenizer, "b": image_tokenizer})
    assert [one.name for one in found] == ["a", "b"]
    expected = measure(image_tokenizer, [Item(photo)]).figures
    for one in found:
        assert {key: one.figures[key] for key in ("psnr", "ssim", "l1")} == {
            key: pytest.approx(expected[key]) for key in ("psnr", "ssim", "l1")
        }
        assert one.figures["bits_per_pixel"] == 5 / 64 and one.figures["tokens"] == 4 * 6
        assert one.result.readings == [] and one.result.original.size == photo.size
        assert one.jpeg.bits <= 4 * 6 * 5 and one.jpeg.image.size == photo.size


def test_the_lines_of_a_page_are_found_and_read_before_and_after(image_tokenizer: ImageTokenizer):
    reader = page_reader()
    if reader is None:
        pytest.skip("the extra ocr is not installed")
    [receipt] = [item for item in ocr_suite(per_kind=1) if item.kind == "receipt"]
    boxes = reader.find(receipt.image)
    assert len(boxes) > 8 and boxes == sorted(boxes, key=lambda box: (box[1], box[0]))
    assert all(0 <= left < right <= 256 and 0 <= top < bottom <= 256 for left, top, right, bottom in boxes)
    [one] = compare(receipt.image, {"untrained": image_tokenizer}, reader)
    before = [read["rapidocr"][0] for _, read in one.result.readings]
    assert "RECEIPT" in before and len(before) > 8
    after = [read["rapidocr"][1] for _, read in one.result.readings]
    assert sum(a == b for a, b in zip(before, after)) <= 2  # it was never trained


def test_lines_are_found_and_read_by_several_threads_at_once():
    reader = page_reader()
    if reader is None:
        pytest.skip("the extra ocr is not installed")
    pages = [item.image for item in ocr_suite(per_kind=1) if item.kind in ("receipt", "page")]

    def both(page: Image.Image) -> tuple[list, list[str]]:
        boxes = reader.find(page)
        return boxes, reader.read([page.crop(box) for box in boxes])

    alone = [both(page) for page in pages] * 2
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(both, pages * 2)) == alone


def test_a_picture_without_text_has_no_lines(image_tokenizer: ImageTokenizer):
    if (reader := page_reader()) is None:
        pytest.skip("the extra ocr is not installed")
    blank = Image.new("RGB", (256, 256), "white")
    assert reader.find(blank) == []
    carrot = Image.open(PICTURES / "drawing.png").convert("RGB")  # OCR takes its leaves for a letter
    for picture in (blank, carrot):
        [one] = compare(picture, {"a": image_tokenizer}, reader)
        assert one.result.readings == []
    [one] = compare(Image.open(PICTURES / "word.png").convert("RGB"), {"a": image_tokenizer}, reader)
    assert [read["rapidocr"][0] for _, read in one.result.readings] == ["social"]
