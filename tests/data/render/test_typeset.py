import random

import numpy as np
import pytest
from PIL import Image

from earlyfusion.data.render.fonts import held_out_fonts, load_face, train_faces
from earlyfusion.data.render.lexicon import (
    Lexicon,
    held_out_lexicon,
    kept_for_measuring,
    split_lexicon,
    train_lexicon,
)
from earlyfusion.data.render.typeset import KINDS, PAGES, STRIPS, Page, typeset

WORDS = Lexicon(("apple", "river", "stone", "quilt", "jumping"))


def page(kind: str, seed: int = 0, **options) -> Page:
    options = {"fonts": train_faces(), "lexicon": WORDS} | options
    return typeset(kind, random.Random(seed), **options)


def contrast(image: Image.Image) -> np.ndarray:
    """(H, W): how far each pixel is from the paper, of 255."""
    grey = np.asarray(image.convert("L"), dtype=int)
    return np.abs(grey - np.bincount(grey.ravel()).argmax())


def outside(of: Page) -> np.ndarray:
    """`contrast` with the boxes erased."""
    ink = contrast(of.image)
    for box in of.boxes:
        ink[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] = 0
    return ink


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_says_the_picture(kind):
    first, again, other = (page(kind, seed, size=(128, 192), type_sizes=(10, 16)) for seed in (1, 1, 2))
    assert first.image.tobytes() == again.image.tobytes() and first.boxes == again.boxes
    assert first.image.tobytes() != other.image.tobytes()
    assert first.image.mode == "RGB" and first.image.size == (192, 128)
    assert first.text == " ".join(box.text for box in first.boxes)


@pytest.mark.parametrize("size", [None, (32, 128), (48, 256), (256, 256), (96, 640)])
@pytest.mark.parametrize("kind", [*STRIPS, "page", "inverted", "rotated"])
def test_all_ink_lies_in_the_boxes(kind, size):
    for seed in range(6):
        if kind == "page" and size == (32, 128):
            continue
        made = page(kind, seed, size=size, type_sizes=(10, 24))
        if kind in ("inverted", "rotated") and len(made.boxes) > 1:
            continue  # may be a table, whose rules are not text
        assert made.boxes and outside(made).max() <= 8  # of 255: what a rotation smears


@pytest.mark.parametrize("kind", ["receipt", "table"])
def test_what_is_outside_of_the_boxes_are_rules(kind):
    for seed in range(8):
        left = outside(page(kind, seed, size=(256, 320), type_sizes=(10, 20))) > 8
        for y, x in zip(*np.nonzero(left)):
            assert left[y].sum() > 40 or left[:, x].sum() > 40


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_hold_ink_up_to_their_edges_inside_the_image(kind):
    for seed in range(6):
        made = page(kind, seed, size=(160, 256), type_sizes=(10, 20))
        ink = contrast(made.image) if kind != "colour" else None
        for box in made.boxes:
            assert 0 <= box.left < box.right <= 256 and 0 <= box.top < box.bottom <= 160
            assert box.text.strip() == box.text != "" and box.size is not None and box.size >= 10
            if ink is None or kind == "rotated":
                continue
            inside = ink[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] > 4
            assert inside[:2].any() and inside[-2:].any() and inside[:, :2].any() and inside[:, -2:].any()


@pytest.mark.parametrize("kind", PAGES)
def test_boxes_of_a_page_do_not_overlap(kind):
    for seed in range(5):
        made = page(kind, seed, size=(256, 256), type_sizes=(10, 18))
        taken = np.zeros((256, 256), int)
        for box in made.boxes:
            # less a pixel: slanted letters lean over to their neighbours
            taken[int(box.top) + 1 : int(box.bottom) - 1, int(box.left) + 1 : int(box.right) - 1] += 1
        assert taken.max() == 1
        assert len(made.boxes) > 10


def test_strips_have_the_text_that_is_asked_for():
    words = {page("word", seed, size=(32, 128)).text.lower() for seed in range(40)}
    assert words <= set(WORDS.words) and len(words) > 3
    (box,) = page("line", size=(32, 512), type_sizes=(12, 14)).boxes
    assert " " in box.text and box.right - box.left > 200


def test_type_sizes_are_kept_and_faces_look_equally_large():
    made = [page("word", seed, size=(64, 512), type_sizes=(12, 28)) for seed in range(60)]
    sizes = {box.size or 0 for strip in made for box in strip.boxes}
    assert min(sizes) < 16 and max(sizes) > 24 and sizes <= set(range(12, 29))
    heights = [-load_face(font.path, 200).getbbox("x", anchor="ls")[1] for font in train_faces()]
    assert max(heights) / min(heights) < 1.04


def test_type_too_large_for_its_strip_becomes_smaller_but_not_smaller_than_allowed():
    for seed in range(10):
        (box,) = page("word", seed, size=(16, 64), type_sizes=(8, 60)).boxes
        assert box.size is not None and 8 <= box.size < 24
    with pytest.raises(ValueError, match="16x64.*40 px"):
        page("word", size=(16, 64), type_sizes=(40, 40))
    with pytest.raises(ValueError, match="16x32.*30 px"):
        page("page", size=(16, 32), type_sizes=(30, 30))


def test_ink_stands_out_from_coloured_paper():
    colours = set()
    for seed in range(30):
        made = page("colour", seed, size=(32, 128), type_sizes=(20, 24))
        grey = np.asarray(made.image.convert("L"), dtype=float)
        (box,) = made.boxes
        inside = grey[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]
        assert np.ptp(inside) > 70
        colours.add(made.image.resize((1, 1)).tobytes())
    assert len(colours) > 25


def test_inverted_is_light_on_dark():
    for seed in range(10):
        assert np.median(np.asarray(page("inverted", seed, size=(32, 128)).image)) < 80


def test_rotated_lines_are_turned():
    angles = []
    for seed in range(20):
        made = page("rotated", seed, size=(32, 128), type_sizes=(12, 14))
        dark = np.asarray(made.image.convert("L")) < 128
        y, x = np.nonzero(dark)
        angles.append(np.polyfit(x, y, 1)[0])
    assert np.ptp(angles) > 0.04


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "poem"}, "kind is 'poem', expected one of word, random"),
        ({"kind": "word", "size": (30, 128)}, "size is 30x128, expected multiples of 16"),
        ({"kind": "word", "size": (0, 128)}, "size is 0x128"),
        ({"kind": "word", "type_sizes": (20, 10)}, "type_sizes is 20-10"),
        ({"kind": "word", "type_sizes": (2, 10)}, "type_sizes is 2-10"),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        page(**options)
    assert "\n" not in str(caught.value)


# what is written


def test_nothing_that_is_trained_on_holds_a_held_out_word():
    lexicon = train_lexicon()
    held_out = set(held_out_lexicon().words)
    rng = random.Random(0)
    running = lexicon.running(rng)
    texts = [next(running) for _ in range(3000)] + [lexicon.string(rng) for _ in range(1000)]
    for kind in KINDS:
        for _ in range(12):
            size = None if kind in STRIPS else (256, 256)
            made = typeset(kind, rng, fonts=train_faces(), lexicon=lexicon, size=size, type_sizes=(10, 14))
            texts.append(made.text)
    for text in texts:
        low = text.lower()
        parts = {low[i : i + n] for n in range(3, 9) for i in range(len(low) - n + 1)}
        assert not parts & held_out, text


def test_random_strings_are_measured_or_trained_on_never_both():
    rng = random.Random(0)
    trained = {train_lexicon().string(rng, range(2, 4)) for _ in range(2000)}
    measured = {held_out_lexicon().string(rng, range(2, 4)) for _ in range(2000)}
    assert len(trained) > 500 and len(measured) > 300
    assert not {s.lower() for s in trained} & {s.lower() for s in measured}
    assert all(map(kept_for_measuring, measured))


def test_validation_words_leave_the_training_words():
    lexicon = train_lexicon()
    train, validation = split_lexicon(lexicon, 300)
    assert len(validation.words) == 300 and len(train.words) > 8000
    assert not any(word in text for word in validation.words for text in train.words)
    assert not train.allows(f"xx{validation.words[0].upper()}")
    assert split_lexicon(lexicon, 300, seed=1)[1].words != validation.words
    with pytest.raises(ValueError, match="count is 0"):
        split_lexicon(lexicon, 0)


def test_a_part_of_running_text_is_random():
    lexicon = Lexicon(("apple",))
    texts = [t for t, _ in zip(lexicon.running(random.Random(0)), range(2000))]
    share = sum("apple" not in text.lower() for text in texts) / len(texts)
    assert 0.3 <= share <= 0.5
    with pytest.raises(ValueError, match="random_share is 2"):
        Lexicon(("apple",), random_share=2)
    with pytest.raises(ValueError, match="words is empty"):
        Lexicon(())


def test_training_faces_are_of_no_held_out_family():
    held_out = {font.family for font in held_out_fonts()}
    assert len({font.path for font in train_faces()}) == len(train_faces()) >= 20
    assert not any(name in font.family for font in train_faces() for name in held_out)
