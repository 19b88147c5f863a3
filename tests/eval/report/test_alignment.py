"""The report of an alignment."""

import re
from pathlib import Path

from PIL import Image

from earlyfusion.eval.report.alignment import alignment_page
from earlyfusion.eval.report.curves import beside, charts_of

ROWS = """step,judge/writing/ocr/word,judge/reading/word,judge/bits_per_byte,judge/score,train/reward,train/kl
-1,0.25,0.5,2.5,0.375,,
0,,,,,0.25,0.0
1,0.75,0.5,2.25,0.625,0.5,0.125
2,0.625,0.375,2.375,0.5,0.75,0.25
"""


def test_the_page_shows_figures_curves_and_sheets(tmp_path: Path):
    run = tmp_path / "my <run>"
    (run / "rollouts").mkdir(parents=True)
    (run / "metrics.csv").write_text(ROWS)
    for step in (5, 10, 200):
        Image.new("RGB", (40, 20), "red").save(run / f"rollouts/step-{step:06d}.png")
    page = alignment_page(run)
    assert "my &lt;run&gt;" in page and "<run>" not in page
    assert page.count("<svg") == 4 and page.count("<img") == 2
    assert "after <b>5</b> steps" in page and "after <b>200</b> steps" in page
    card = page[page.index("Writing, ocr, word") :]
    assert re.search(r"62\.5%.*?before <b>25%</b>.*?step 2, best score <b>75%</b>", card[:700])
    (run / "rollouts/step-000200.png").write_bytes(b"damaged")
    assert alignment_page(run).count("<img") == 1


def test_a_page_of_nothing_is_a_page(tmp_path: Path):
    assert alignment_page(tmp_path).endswith("</html>\n")


def test_a_reward_stands_above_the_figures_of_the_same_model():
    run = {"train/reward": [(0, 0.25), (1, 0.5)], "judge/writing/ocr/word": [(-1, 0.5), (0, 0.75)]}
    chart = next(one for one in charts_of(run) if one)
    assert re.findall(r'data-x="([^"]+)"', chart) == ["0 1", "0 1"]
    assert re.findall(r'data-x="([^"]+)"', charts_of(beside(run, run))[0]) == ["0 1"] * 4
