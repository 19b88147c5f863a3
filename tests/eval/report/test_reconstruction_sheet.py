from dataclasses import replace

import pytest
from PIL import Image

from earlyfusion.eval.report.reconstruction_sheet import difference, ranking, write_sheet
from earlyfusion.eval.tasks.reconstruction import Reconstruction


def sample(name: str, psnr: float | None, after: str, before: str = "word", size=(64, 16)) -> Reconstruction:
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    blurred = picture.resize((4, 4)).resize(size)
    readings = [("word", {"fake": (before, after), "other": (before, "w<b>")})]
    return Reconstruction(name, "kind", picture, blurred, psnr, {"jpeg": blurred}, readings)


SAMPLES = [
    sample("best", 30.0, "word"),
    sample("unread", 5.0, "x", before="y"),
    sample("worst", 20.0, "xxxx"),
    sample("half", 10.0, "woxx"),
    sample("second", 29.0, "word", size=(300, 400)),
]


def test_worst_first_by_t_ned_then_by_psnr_and_the_unjudged_last():
    names = [s.name for s in ranking(SAMPLES, ["fake", "other"])]
    assert names == ["worst", "half", "second", "best", "unread"]
    assert [s.name for s in ranking(SAMPLES, [])][:2] == ["unread", "half"]


def test_a_sheet_as_png(tmp_path):
    write_sheet(tmp_path / "new" / "sheet.png", SAMPLES, ["fake", "other"])
    with Image.open(tmp_path / "new" / "sheet.png") as image:
        assert image.mode == "RGB" and image.width > 1000 and len(image.getcolors(1 << 20) or ()) > 20


def test_a_sheet_as_html_shows_the_worst_half_and_the_best(tmp_path):
    path = tmp_path / "sheet.html"
    write_sheet(path, SAMPLES, ["fake", "other"], most=3)
    page = path.read_text()
    places = [page.find(name) for name in ("worst", "half", "unread")]
    assert -1 < places[0] < places[1] < places[2] and "second" not in page
    assert "3 of 5 images" in page and page.count("data:image/png") == 3 * 4
    assert "w&lt;b&gt;" in page and "w<b>" not in page


def test_a_sheet_says_what_is_compared_with_the_ocr_of_the_original(tmp_path):
    page = replace(sample("scan", 30.0, "word", before="wurd", size=(2600, 400)), transcript=False)
    assert page.t_ned("fake") == 0.75
    for name in ("sheet.html", "sheet.png"):
        write_sheet(tmp_path / name, [page, SAMPLES[0]], ["fake"])
    text = (tmp_path / "sheet.html").read_text()
    assert text.count("no transcript") == 1
    assert 'width="1280"' in text and 'width="2600"' not in text


def test_the_difference_is_black_where_nothing_changed():
    picture = SAMPLES[0].original
    assert difference(Reconstruction("", None, picture, picture, None)).getextrema() == ((0, 0),) * 3


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"sheet\.jpg.*\.png.*\.html"):
        write_sheet(tmp_path / "sheet.jpg", SAMPLES, [])
