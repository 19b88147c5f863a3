"""Pages: they hold everything, escape what they are given, and bear what is missing."""

import base64
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from earlyfusion.eval.report.contact_sheet import contact_sheet
from earlyfusion.eval.report.figures import REFERENCES, headline, markdown, shares, verdict
from earlyfusion.eval.report.gallery import load_gallery, save_gallery
from earlyfusion.eval.report.glossary import METRICS
from earlyfusion.eval.report.page.charts import Series, line_chart
from earlyfusion.eval.report.page.html import Card, Mark, Part, TokenCell
from earlyfusion.eval.report.page.html_script import SCRIPT
from earlyfusion.eval.report.run import html, report

VOID = {"meta", "img", "br"}
STUDIES = Path(__file__).parents[3] / "benchmarks" / "studies"


class Balance(HTMLParser):
    """Raises when an element is closed that is not open."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert not (tag == "pre" and "pre" in self.open)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(page: str) -> None:
    """Its elements are balanced, its only script is ours, and it loads nothing."""
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    page, _, rest = page.partition(f"<script>{SCRIPT}</script>")
    assert "<script" not in page + rest and not re.search(r" on[a-z]+=", page)
    addresses = re.findall(r'(?:src="|url\()([^")]*)', page)
    assert all(one.startswith("data:image/png;base64,") for one in addresses)


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
        "tokens": [
            ["structure", "bos"],
            ["text", "<"],
            ["image", "code 5", "a <code>", None, 0, [0, 1], False],
        ],
        "progress": {"samples": [(1, small), (20, small)], "reconstructions": [(20, small)]},
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
        "budget": "full",
        "folder": "runs/my <run>",
        "date": "2026-11-28 20:00 UTC",
        "commit": "abc1234",
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


@pytest.fixture
def curves():
    lm = {"train/text": [(1, 2.0), (2, 1.0)], "validation/image": [(2, 3.0)], "train/loss": [(1, math.nan)]}
    return {"lm": lm, "image_tokenizer": {"train/psnr": [(0, 9.0), (5, 12.0)]}}


def test_a_report_holds_everything_in_one_file(gallery, results, curves):
    page = report(results, gallery, curves)
    check(page)
    for text in (
        *(
            "A &lt;cat&gt;:",
            "&lt;b&gt;cat",
            "a &lt;CPU&gt;",
            "a &lt;code&gt;",
            "1 of 2",
            "1 min 01 s",
            "50.0%",
        ),
        *("new fonts", "seed 7", "abc1234", "2026-11-28", "docs/own-data.md", "after <b>20</b> steps"),
    ):
        assert text in page
    assert page.count("<svg") == 2
    assert "prefers-color-scheme: dark" in page and "openmoji" in page.lower()
    assert (
        "earlyfusion playground &#x27;runs/my &lt;run&gt;/model&#x27;" in page
    )  # quoted for a shell, then escaped


def test_the_contents_list_the_sections(gallery, results, curves):
    page = report(results, gallery, curves)
    contents, _, rest = page.partition("</nav>")
    links = re.findall(r'href="#([^"]+)"', contents)
    assert links == re.findall(r'<section id="([^"]+)"', rest) and len(links) == 7
    places = [
        page.find(text)
        for text in (
            "20:00 UTC · commit abc1234",
            'class="hero"',
            'class="document"',
            'class="cards"',
            "<section",
            "<table",
        )
    ]
    assert places == sorted(places) and places[0] > 0


def test_a_report_explains_the_metrics_that_it_shows(gallery, results, curves):
    page = report(results, gallery, curves)
    assert all(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" in page for name, text in METRICS.items())


def test_a_check_says_so_first_and_shows_what_moved(gallery, results, curves):
    zero = {"items": 4, "exact_match": 0.0, "cer": 1.0, "by_kind": {}, "by_length": {}}
    nearly = {**zero, "exact_match": 0.01}
    results |= {"budget": "quick", "reading": {"words": nearly}, "writing": {**zero, "reader": "rapidocr"}}
    page = report(results, gallery, curves)
    check(page)
    banner, moved, cards = (page.find(text) for text in ('class="banner"', "9.0 → 12.0", "0.0%</strong>"))
    assert 0 < banner < moved < cards and 'class="hero"' not in page
    assert page.rfind("<details><summary>", 0, cards) > page.rfind("</details>", 0, cards)  # folded
    table = page.find("<th>texts</th>")
    assert page.rfind("<details><summary>", 0, table) > page.rfind("</details>", 0, table)
    for text in ("66%", "78%", "earlyfusion playground", "earlyfusion demo"):
        assert text in page[banner:moved]
    assert not verdict({**results, "budget": "full"})


def test_the_references_are_those_that_were_recorded():
    demo = json.loads((STUDIES / "demo" / "results.json").read_text())
    packaged = json.loads((STUDIES / "packaged_model" / "evaluation.json").read_text())
    assert REFERENCES["full demo"] == pytest.approx(shares(demo), abs=6e-4)
    fonts = {"words": "training fonts", "words-new-fonts": "held-out fonts"}
    recorded = {
        **{name: packaged["reading"][font]["by_kind"]["word"]["exact_match"] for name, font in fonts.items()},
        "writing": packaged["writing"]["by_kind"]["word"]["exact_match"],
        "drawing": packaged["drawing"]["nearest"],
    }
    assert REFERENCES["packaged model"] == pytest.approx(recorded, abs=6e-4)


def test_a_card_compares_its_figure_and_names_its_set(results):
    demo = json.loads((STUDIES / "demo" / "results.json").read_text())
    card = next(card for card in headline(demo) if card.label == "Reading")
    assert card.share == shares(demo)["words"] and "600 held-out words, training fonts" in card.note
    assert [mark.name for mark in card.marks][:2] == list(REFERENCES) and card.marks[-1].kind == "ceiling"
    assert all(0 <= mark.share <= 1 for card in headline(results) for mark in card.marks)


def test_the_summary_in_markdown_is_in_the_page(results):
    text = markdown(results)
    for part in ("| reading, training fonts | **50.0%** | 65.8% | 77.5% |", "- commit: abc1234", "seed 7"):
        assert part in text
    assert html.escape(text) in report(results, {}, {})


def test_a_report_of_nothing_is_a_page():
    check(report({}, {}, {}))


def test_a_page_lets_no_other_script_run():
    page = html.page("<i>", "<p>text</p>")
    check(page)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    assert not re.search(r"fetch\(|XMLHttp|import\(|innerHTML|eval\(", SCRIPT)


def test_the_codes_of_a_strip_are_pieces_of_their_picture(photo):
    cells = [
        TokenCell("image", "code", block=0, place=(row, column)) for row in (0, 1) for column in (0, 1, 2)
    ]
    strip = html.token_strip(cells, [photo])
    assert strip.count("var(--b0)") == 6 and strip.count("data:image/png") == 1
    assert "100% 100% / 300% 200%" in strip and "50% 0% / 300% 200%" in strip
    assert "var(--b0)" not in html.token_strip(cells)


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
        html.cards([Card("<i>", "<i>", "<i>", 0.5, [Mark("<i>", 0.7, "<i>")])]),
        html.table(["a"], [["a"]], groups=[("<i>", 1)]),
        html.token_strip([TokenCell("text", "<i>")]),
        html.section("<i>"),
        html.details("<i>", "text"),
        html.command("<i>", "<i>"),
        html.contents([("<i>", "<i>")]),
        line_chart([Series("<i>", [(0, 1.0), (1, 2.0)])], title="<i>", y_label="<i>", note="<i>", log_y=True),
    ):
        assert "&lt;i&gt;" in piece and "<i>" not in piece
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
