import importlib.util
from collections import Counter

import numpy as np
import pytest

from earlyfusion.data.render.fonts import SIZES
from earlyfusion.data.render.lexicon import kept_for_measuring
from earlyfusion.data.render.openmoji import render_drawing
from earlyfusion.data.render.split import demo_concepts, demo_words
from earlyfusion.data.render.typeset import KINDS, PAGES
from earlyfusion.eval.suites import ocr_suite, openmoji_suite, scans, word_suite


def test_word_suite_is_reproducible_and_has_its_share_of_random_strings():
    words = ["apple", "river", "stone", "cloud", "table", "music"]
    items = word_suite(3, held_out=words)
    assert [(i.text, i.name, i.size) for i in items] == [
        (i.text, i.name, i.size) for i in word_suite(3, held_out=words)
    ]
    assert sorted(str(i.text) for i in items if i.kind == "word") == sorted(words)
    random = [str(i.text) for i in items if i.kind == "random"]
    assert len(random) == 4
    assert not any(word in text for word in words for text in random)
    assert all(i.image.mode == "RGB" and i.image.height == 16 and not i.image.width % 8 for i in items)
    assert {i.name.rsplit(" ", 1)[0] for i in items} <= {"Lato", "Caladea"}
    assert [i.text for i in word_suite(4, held_out=words)] != [i.text for i in items]


def test_word_suite_on_higher_strips_scales_the_type():
    items = word_suite(0, held_out=["apple"] * 10, heights=(32,), random_share=0)
    assert {i.image.height for i in items} == {32}
    assert {i.size for i in items} <= {2.0 * size for size in SIZES}


def test_the_default_suite_has_at_least_500_held_out_words():
    items = word_suite(0)
    assert sum(i.kind == "word" for i in items) >= 500
    assert 0.3 <= sum(i.kind == "random" for i in items) / len(items) <= 0.5


# the OCR-like suite


def test_ocr_suite_covers_all_kinds_and_is_reproducible():
    items = ocr_suite(0, per_kind=4)
    again = ocr_suite(0, ["line", "word"], per_kind=4)
    assert Counter(item.kind for item in items) == {k: 1 if k in PAGES else 4 for k in KINDS}
    by_kind = {kind: [i for i in items if i.kind == kind] for kind in ("line", "word")}
    for item, other in zip(by_kind["line"] + by_kind["word"], again, strict=True):
        assert item.boxes == other.boxes and item.image.tobytes() == other.image.tobytes()
    assert ocr_suite(1, ["word"], 4)[0].boxes != by_kind["word"][0].boxes
    assert all(item.boxes and item.text for item in items)
    assert {item.name for item in items} <= {"Lato", "Caladea"}
    assert all(not side % 16 for item in items for side in item.image.size)


def test_ocr_suite_fills_tokbenchs_bins_with_words():
    counts: Counter[float] = Counter()
    for item in ocr_suite(0, ["word", "random", "line"], per_kind=20):
        for box in item.boxes:
            size = (box.right - box.left) / len(box.text) / max(item.image.size)
            counts[next((low for low in (0.04, 0.03, 0.02) if size >= low), 0.0)] += 1
    assert min(counts[low] for low in (0.02, 0.03, 0.04)) >= 8
    assert counts[0.0] <= 6  # too small to count


def test_ocr_suite_is_of_held_out_words_and_strings_kept_for_measuring():
    held_out = set(demo_words().held_out)
    for item in ocr_suite(0, ["word", "random"], per_kind=20):
        text = str(item.text)
        assert text.lower() in held_out if item.kind == "word" else kept_for_measuring(text)


def test_ocr_suite_refuses_what_it_does_not_have():
    with pytest.raises(ValueError, match="'poem'.*word, random"):
        ocr_suite(0, ["word", "poem"])
    with pytest.raises(ValueError, match="per_kind.*0"):
        ocr_suite(0, per_kind=0)


# the other suites


def test_openmoji_suite_is_of_held_out_concepts_and_is_reproducible():
    split = demo_concepts()
    drawings = {drawing for concept in split.held_out for drawing in concept.drawings}
    items = openmoji_suite(0, 10**6)
    assert len(items) == len(drawings) >= 30
    assert Counter(item.name for item in items).keys() == {concept.name for concept in split.held_out}
    measured = {item.image.tobytes() for item in items}
    assert measured == {render_drawing(drawing, 64).tobytes() for drawing in drawings}
    trained = {drawing for concept in split.train for drawing in concept.drawings}
    assert not measured & {render_drawing(drawing, 64).tobytes() for drawing in trained}
    for item in items:
        assert (item.image.size, item.image.mode, item.kind) == ((64, 64), "RGB", "picture")
        assert item.image.getpixel((0, 0)) == (255, 255, 255)
        assert item.text is None and not item.boxes
    few = openmoji_suite(0, 7)
    assert [item.name for item in few] == [item.name for item in items[:7]]
    assert [item.name for item in openmoji_suite(1, 7)] != [item.name for item in few]
    assert openmoji_suite(0, 1, size=32)[0].image.size == (32, 32)


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs the extra `scans`")
def test_scans_have_a_box_around_each_word():
    (item,) = scans()
    assert item.kind == "scan" and len(item.boxes) == len(str(item.text).split()) == 47
    gray = np.asarray(item.image.convert("L"), dtype=float)
    for box in item.boxes:
        inside = gray[round(box.top) : round(box.bottom), round(box.left) : round(box.right)]
        assert np.percentile(inside, 90) - inside.min() > 50, box  # ink on paper
        assert 0.2 < (box.right - box.left) / len(box.text) / (box.bottom - box.top) < 1.5, box


def test_a_missing_package_of_scans_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="earlyfusion\\[scans\\]"):
        scans()
