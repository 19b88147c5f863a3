"""Built-in suites of images to measure: held-out words, strings, pages, pictures, and scanned print."""

import random
from collections.abc import Sequence

from ..data.render.fonts import SIZES, STRIP_HEIGHT, Font, TypeSample, held_out_fonts
from ..data.render.lexicon import held_out_lexicon
from ..data.render.openmoji import render_drawing
from ..data.render.split import demo_concepts, demo_words
from ..data.render.typeset import KINDS, PAGES, STRIPS, Page, typeset
from ..data.render.words import random_strings
from .items import Item

RANDOM_SHARE = 0.4
"""Fraction of random strings in the word suite. On words alone, a reader's language prior hides damage."""

# For each kind, in turn: (H, W) and type sizes. Words on images 256 px wide put the width of a character over
# the longer side into each of TokBench's bins, [.02, .03), [.03, .04) and [.04, 1). Few sizes, so that images
# of one size are encoded together.
_STRIP, _WIDE, _LONG, _PAGE, _LARGE_PAGE = (32, 128), (32, 256), (32, 512), (256, 256), (512, 512)
_WORDS = ((_STRIP, (12, 28)), (_WIDE, (10, 11)), (_STRIP, (12, 28)), (_WIDE, (15, 17)), (_WIDE, (21, 26)))
_PAGES = ((_PAGE, (10, 14)), (_LARGE_PAGE, (14, 26)), (_PAGE, (14, 20)))
_STYLED = ((_STRIP, (12, 24)), (_WIDE, (14, 24)), (_PAGE, (12, 20)))
OCR_SUITE: dict[str, tuple[tuple[tuple[int, int], tuple[int, int]], ...]] = {
    "word": _WORDS,
    "random": _WORDS,
    "line": ((_LONG, (14, 24)), (_WIDE, (11, 14)), (_WIDE, (15, 19))),
    "page": _PAGES,
    "receipt": _PAGES,
    "table": _PAGES,
    "colour": _STYLED,
    "inverted": _STYLED,
    "rotated": _STYLED,
}


def word_suite(
    seed: int = 0,
    *,
    held_out: Sequence[str] | None = None,
    fonts: Sequence[Font] | None = None,
    sizes: Sequence[int] = SIZES,
    heights: Sequence[int] = (STRIP_HEIGHT,),
    random_share: float = RANDOM_SHARE,
) -> list[Item]:
    """Render held-out words and random strings, each once, in random order.

    Args:
        seed: Random seed of the strings, the order, and each text's font, size and height.
        held_out: Words. Default: the demo's held-out words (``data.render.split``).
        fonts: Fonts to choose from. Default: the held-out ones.
        sizes: Type sizes in px per em on a strip 16 px high; higher strips scale them in proportion.
        heights: Heights of the strips in px.
        random_share: Fraction of random strings in the suite, 0 <= random_share < 1.

    Raises:
        ImportError: The extra ``demo`` is missing.
        ValueError: ``random_share`` is out of range.
    """
    if not 0 <= random_share < 1:
        raise ValueError(f"random_share is {random_share}, expected 0 <= random_share < 1")
    words = list(demo_words().held_out if held_out is None else held_out)
    fonts = held_out_fonts() if fonts is None else fonts
    rng = random.Random(f"word suite {seed}")  # a stream of its own: the split does not change with it
    strings = _strings(words, random_share, rng)
    texts = [(text, "word") for text in words] + [(text, "random") for text in strings]
    rng.shuffle(texts)
    items = []
    for text, kind in texts:
        height = rng.choice(heights)
        size = rng.choice(sizes) * height // STRIP_HEIGHT
        sample = TypeSample(text, kind, rng.choice(fonts), size, height)
        items.append(Item(sample.render(), text, float(size), kind, sample.font.family))
    return items


def measured_strings(seed: int = 0) -> list[str]:
    """The random strings of ``word_suite(seed)``, which are not trained on either.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    return _strings(demo_words().held_out, RANDOM_SHARE, random.Random(f"word suite {seed}"))


def _strings(words: Sequence[str], random_share: float, rng: random.Random) -> list[str]:
    """Random strings that make up ``random_share`` of a suite of ``words``."""
    count = round(len(words) * random_share / (1 - random_share))
    return random_strings(count, rng, frozenset(words))


def ocr_suite(
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    per_kind: int = 40,
    *,
    fonts: Sequence[Font] | None = None,
) -> list[Item]:
    """Typeset held-out words, and random strings that no training image shows, in each of several kinds.

    The images of a kind do not depend on which other kinds are requested.

    Args:
        seed: Random seed.
        kinds: Any of ``OCR_SUITE``. Default: all.
        per_kind: Images per kind; a quarter of that for kinds with dozens of texts (page, receipt, table).
        fonts: Fonts to choose from. Default: the held-out ones.

    Raises:
        ImportError: The extra ``demo`` is missing.
        ValueError: A kind is unknown, or ``per_kind`` is less than 1.
    """
    kinds = KINDS if kinds is None else kinds
    for kind in kinds:
        if kind not in OCR_SUITE:
            raise ValueError(f"unknown kind {kind!r} in kinds, expected any of {', '.join(OCR_SUITE)}")
    if per_kind < 1:
        raise ValueError(f"per_kind is {per_kind}, expected at least 1")
    lexicon, fonts = held_out_lexicon(), held_out_fonts() if fonts is None else fonts
    items = []
    for kind in dict.fromkeys(kinds):
        rng = random.Random(f"ocr suite {kind} {seed}")
        for i in range(-(-per_kind // 4) if kind in PAGES else per_kind):
            size, type_sizes = OCR_SUITE[kind][i % len(OCR_SUITE[kind])]
            page = typeset(kind, rng, fonts=fonts, lexicon=lexicon, size=size, type_sizes=type_sizes)
            items.append(_item(page, kind))
    return items


def words64_suite(seed: int = 0, per_kind: int = 40) -> list[Item]:
    """The suite of the preset words64: ``per_kind`` held-out words and as many random strings.

    Strips of 32 x 128 px, held-out fonts of 14 to 28 px.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    lexicon, fonts = held_out_lexicon(), held_out_fonts()
    items = []
    for kind in ("word", "random"):
        rng = random.Random(f"words64 suite {kind} {seed}")
        for _ in range(per_kind):
            page = typeset(kind, rng, fonts=fonts, lexicon=lexicon, size=_STRIP, type_sizes=(14, 28))
            items.append(_item(page, kind))
    return items


def openmoji_suite(seed: int = 0, per_kind: int = 40, *, size: int = 64) -> list[Item]:
    """OpenMoji's drawings of held-out concepts on white, without text.

    Args:
        seed: Random seed of the order.
        per_kind: Maximum number of drawings.
        size: Side of an image in px.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    drawings = [
        (concept.name, stem)
        for concept in demo_concepts().held_out
        for stem in dict.fromkeys(concept.drawings)
    ]
    random.Random(f"openmoji suite {seed}").shuffle(drawings)
    return [Item(render_drawing(stem, size), kind="picture", name=name) for name, stem in drawings[:per_kind]]


def scans() -> list[Item]:
    """Photographed print with its transcript, one box per word (``data.render.scans``).

    Raises:
        ImportError: The extra ``scans`` is missing.
    """
    from ..data.render.scans import scan_pages

    return [_item(page, "scan") for page in scan_pages()]


def _item(page: Page, kind: str) -> Item:
    size = page.boxes[0].size if kind in STRIPS else None
    return Item(page.image, page.text, size, kind, page.font, page.boxes)
