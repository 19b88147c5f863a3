"""Pages: they hold everything, escape what they are given, and bear what is missing."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from earlyfusion.eval.report.charts import Series, line_chart
from earlyfusion.eval.report.contact_sheet import contact_sheet
from earlyfusion.eval.report.gallery import load_gallery, save_gallery
from earlyfusion.eval.report.html import Card, Part
from earlyfusion.eval.report.run import html, report

VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Raises when an element is closed that is not open."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(page: str) -> None:
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    assert "<script" not in page and "http" not in "".join(re.findall(r'src="([^"]*)"', page))


def scores(**more):
    one = {"items": 4, "exact_match": 0.5, "cer": 0.25}
    return {**one, "by_kind": {"word": one, "random": one}, "by_length": {"3": one}, **more}


@pytest.fixture
def gallery(photo):
    small = photo.crop((0, 0, 24, 16))
    return {
        "reconstructions": {
            "Words": [
                {"original": small, "reconstruction": small, "caption": "13 px", "text": "ab", "read": "a<"}
            ],
            "Pictures": [{"original": photo, "reconstruction": photo, "caption": "a & b"}],
        },
        "readings": [
            {"image": small, "text": "cat", "read": "<b>cat"},
            {"image": small, "text": "a", "read": ""},
        ],
        "writings": [
            {"text": "cat", "picture": small, "read": "cat"},
            {"text": "dog", "picture": None, "read": ""},
        ],
        "drawings": [
            {"prompt": "A cat:", "name": "cat", "picture": photo, "nearest": photo, "nearest_name": "cat"},
            {"prompt": "A dog:", "name": "dog", "picture": None, "nearest": photo, "nearest_name": "cat"},
        ],
        "documents": [
            {
                "parts": [{"text": "A <cat>:", "prompt": True}, {"image": photo}, {"text": "\n"}],
                "stop": "eos",
            },
            {"parts": [], "stop": "length"},
        ],
        "tokens": [["structure", "bos"], ["text", "<"], ["image", "code 5"]],
    }


@pytest.fixture
def results():
    side = {"exact_match": 0.9, "cer": 0.05, "t_acc": 0.9, "t_ned": None}
    row = {"items": 4, "counted": 3, "original": side, "reconstruction": side}
    pixels = {"images": 4, "psnr": None, "ssim": 0.9, "l1": 0.01, "mse": 0.001, "codebook_size": 512}
    codes = {"codebook_usage": 0.5, "perplexity": 99.0, "bits_per_pixel": 0.14, "tokens_per_image": 12.0}
    by_reader = {
        "rapidocr": {
            "version": "3",
            **row,
            "by_kind": {"word": row},
            "by_text_size": {"bins": [{"bin": "[12, 14)", **row}]},
        }
    }
    return {
        "seconds": 61,
        "seed": 7,
        "command": "earlyfusion demo --seed 7",
        "stages": [{"name": "corpus", "seconds": 61.0}],
        "machine": {"cpu": "a <CPU>", "cores": "2 cores"},
        "models": {"lm_parameters": 5_000_000, "vocab_size": 900},
        "reconstruction": {
            "words": {**pixels, **codes, "ocr": row, "ocr_by_reader": by_reader},
            "pictures": {**pixels, **codes},
        },
        "reading": {"words": scores(), "words-new-fonts": scores()},
        "writing": scores(
            reader="rapidocr", ceiling={"rapidocr": {"original": {"exact_match": 1.0, "cer": 0.0}}}
        ),
        "drawing": {"named": 1, "items": 2},
    }


def test_a_report_holds_everything_in_one_file(gallery, results):
    lm = {"train/text": [(1, 2.0), (2, 1.0)], "validation/image": [(2, 3.0)], "train/loss": [(1, math.nan)]}
    page = report(results, gallery, {"lm": lm, "image_tokenizer": {"train/psnr": [(0, 9.0), (5, 12.0)]}})
    check(page)
    for text in (
        "A &lt;cat&gt;:",
        "&lt;b&gt;cat",
        "a &lt;CPU&gt;",
        "1 of 2",
        "1 min 01 s",
        "50.0%",
        "held-out fonts",
    ):
        assert text in page
    assert page.count("<svg") == 2 and "seed 7" in page
    assert "prefers-color-scheme: dark" in page and "openmoji" in page.lower()


def test_a_report_of_nothing_is_a_page():
    check(report({}, {}, {}))


def test_pictures_are_in_the_page_and_enlarged(photo):
    tag = html.picture(photo, 3, alt='a "photo"')
    data = re.search(r'base64,([^"]+)', tag)
    assert data and 'width="144" height="96"' in tag and "&quot;photo&quot;" in tag
    with Image.open(io.BytesIO(base64.b64decode(data[1]))) as image:
        assert image.convert("RGB").tobytes() == photo.tobytes()
    assert len(html.data_uri(Image.new("RGB", (64, 16), "white"))) < 150  # gray images are stored as gray


def test_parts_escape_what_they_are_given(photo):
    for piece in (
        html.document([Part("<i>"), Part(photo, prompt=True)]),
        html.mark("<i>", True),
        html.table(["<i>"], [["<i>"]], "<i>"),
        html.pairs([("<i>", "<i>")]),
        html.cards([Card("<i>", "<i>", "<i>")]),
        html.token_strip([html.TokenCell("text", "<i>")]),
        html.section("<i>"),
        line_chart([Series("<i>", [(0, 1.0), (1, 2.0)])], title="<i>", y_label="<i>", log_y=True),
    ):
        assert "&lt;i&gt;" in piece
        check(piece)


def test_a_prompt_differs_from_what_was_written():
    assert 'class="said given">a<' in html.document([Part("a", prompt=True), Part("b")])
    assert 'class="said made">b<' in html.document([Part("a", prompt=True), Part("b")])


def test_a_gallery_comes_back(tmp_path, gallery):
    save_gallery(tmp_path / "g", gallery)
    back = load_gallery(tmp_path / "g")
    assert back["drawings"][1]["picture"] is None and back["tokens"] == gallery["tokens"]
    photo = gallery["drawings"][0]["picture"]
    assert back["drawings"][0]["picture"].tobytes() == photo.tobytes()
    with pytest.raises(FileNotFoundError, match="gallery"):
        load_gallery(tmp_path / "none")


def test_the_contact_sheet_shows_what_there_is(gallery):
    pytest.importorskip("matplotlib", reason="its fonts")
    sheet = contact_sheet(gallery)
    assert sheet.width == 1040 and sheet.height > 200
    more = contact_sheet({**gallery, "writings": gallery["writings"] * 200})
    assert more.height < sheet.height + 400
    assert contact_sheet({}).width == 1040
