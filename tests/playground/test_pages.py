"""HTML of the page: foreign text is escaped, and differences are marked."""

import re
from dataclasses import replace
from html import unescape

from PIL import Image

from earlyfusion.eval.metrics.ceilings import Ceiling
from earlyfusion.eval.tasks.comparison import Comparison
from earlyfusion.eval.tasks.reconstruction import Reconstruction
from earlyfusion.playground import answers, comparisons, pages
from earlyfusion.playground.compose import Written

EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


def comparison(name: str, figures: dict, readings: list) -> Comparison:
    white = Image.new("RGB", (8, 8), "white")
    result = Reconstruction(name, None, white, white, None, {}, readings)
    return Comparison(name, figures, result, Ceiling(Image.new("RGB", (8, 8), "gray"), 12, True))


def harmless(page: str) -> bool:
    return "<script" not in page and "<img src=x" not in page and unescape(page).count("alert(2)") >= 1


def test_texts_of_visitors_models_and_files_are_escaped():
    assert harmless(answers.written([Written([EVIL], [EVIL])], done=True))
    assert harmless(pages.message(EVIL, "refused"))
    assert harmless(pages.head(EVIL, EVIL, {EVIL: EVIL}))
    assert harmless(pages.run(EVIL, {}))
    assert harmless(pages.run(EVIL, {"train/loss": [(0, 1.0)]}, [(EVIL, Image.new("RGB", (8, 8)))]))
    assert harmless(pages.run("a", {"train/z": [(0, 1.0)]}, (), (EVIL, {"train/loss": [(0, 1.0)]}), True))
    assert harmless(pages.settings(EVIL))
    figures = {"psnr": None, "ssim": 1.0, "l1": 0.0, "bits_per_pixel": 0.1, "tokens": 1, "seconds": 0.1}
    read = [(EVIL, {"rapidocr": (EVIL, EVIL[1:])})]
    assert harmless(comparisons.compared([comparison(EVIL, figures, read)]))


def test_a_sample_tells_whether_it_is_still_written():
    unfinished = Written(["a"], ["b"], drawing=Image.new("RGB", (16, 8)))
    page = answers.written([unfinished, Written(["a"], stop="eos")], done=False)
    assert 'aria-busy="true"' in page and "writing …" in page and "ended the document" in page
    assert page.count("<img") == 1 and "Sample 2" in page
    assert "stopped" in answers.written([unfinished], done=True)


def test_what_was_lost_and_what_came_is_marked():
    figures = {"psnr": 20.0, "ssim": 0.5, "l1": 0.1, "bits_per_pixel": 0.188, "tokens": 1, "seconds": 0.1}
    read = [("winter", {"rapidocr": ("winter", "vinte")}), ("ok", {"rapidocr": ("ok", "ok")})]
    page = comparisons.compared([comparison("a", figures, read)])
    assert "<del>w</del>inte<del>r</del>" in page and "<ins>v</ins>inte" in page
    assert re.search(r"<td>1 of 2</td>", page) and "0.188" in page
    assert "JPEG, 0.188 bits per pixel, PSNR 6.1 dB" in page  # 127 of 255
    assert "OCR reads 1 of 2 lines the same. Its PSNR is 13.9 dB above that of a JPEG" in page
    assert "The ground" not in page
    assert "What OCR reads" in page and "What OCR reads" not in comparisons.compared(
        [comparison("a", figures, [])]
    )


def test_a_ground_that_lost_its_color_is_named():
    one = comparison("a", {"psnr": 20.0}, [])
    one.result.original.paste((255, 192, 203), (0, 0, 8, 8))
    other = replace(one.result, reconstruction=Image.new("RGB", (8, 8), "white"))
    assert "from rgb(255, 192, 203) to rgb(255, 255, 255)" in comparisons.verdict(replace(one, result=other))


def test_curves_of_both_kinds_of_training_are_drawn():
    steps = [(0, 2.0), (1, 1.0)]
    lm = {"train/z": steps, "train/loss": steps, "train/image": steps, "telemetry/output_norm/image": steps}
    page = pages.run("lm", lm)
    assert "<circle" not in page and "<circle" in pages.run("lm", lm | {"validation/loss": [(1, 1.0)]})
    assert "2 steps so far" in page and "loss by modality" in page and "Output norm" in page
    images = {"train/psnr": steps, "train/codebook_usage": steps, "train/codebook_perplexity": steps}
    page = pages.run("images", images)
    assert "codebook usage" in page and "PSNR" in page and "Transformer" not in page
