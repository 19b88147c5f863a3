"""The demo's training data: rendered words, OpenMoji pictures, and documents of both.

The documents:

- writing ``[word, type]`` and reading ``[type, word]``, type being the image of the word;
- drawing ``["A red apple:", picture]`` and naming ``[picture, "A red apple."]``;
- interleaved: pictures, names in type, and sentences between them (``_interleaved``).

**No training string contains a held-out word**; see ``data/render/split.py`` for the rule. Every text that is
trained on or rendered passes through ``Corpus.string``, which checks it. The random strings of the
measurements are not trained on either.
"""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ...data.render.fonts import SIZES, STRIP_HEIGHT, render_word, train_fonts
from ...data.render.openmoji import Concept, concepts, place_drawing, render_drawing
from ...data.render.split import (
    BOTH,
    DRAW,
    HERE,
    NAME,
    NAME_OF,
    PICTURE,
    THIS_THEN,
    THIS_TYPED,
    TYPE,
    TYPED,
    demo_concepts,
    demo_words,
    sentence,
)
from ...data.render.words import WORD_LENGTHS, contains_any, random_strings

LARGE_HEIGHTS = (24, 32)
"""Heights in pixels of strips of larger type."""

Document = list[str | bytes]
"""Texts, and images as PNG, before they are written."""


@dataclass(frozen=True)
class CorpusConfig:
    """How much data the demo generates."""

    words: int = 16_000
    """Word images; each makes a writing and a reading document."""
    random_share: float = 0.4
    """Fraction of them that show random letters instead of words."""
    short_share: float = 0.05
    """Fraction of them that show one or two random letters."""
    large_strips: int = 1_500
    """Images of larger type, only for the image tokenizer."""
    heights: tuple[int, ...] = (STRIP_HEIGHT,)
    """Heights of strips of type in pixels; one is drawn for each strip."""
    picture_size: int = 48
    """Side of a picture in pixels."""
    smallest_drawing: int | None = None
    """Smallest drawing, in pixels, in the pictures of naming documents, where drawings have any even size up
    to the picture's, at any even place. None: every drawing fills its picture."""
    picture_documents: int = 12
    """Drawing documents per picture."""
    naming_documents: int | None = None
    """Naming documents per picture; None: as many as drawing ones."""
    picture_images: int = 8
    """Copies of each picture among the images of the image tokenizer."""
    other_drawings: int = 600
    """OpenMoji drawings of other things, only for the image tokenizer."""
    interleaved: int = 3_000
    """Interleaved documents."""
    typed: int = 1_000
    """Documents of the form "Type the word ...:"."""
    validation: int = 300
    """Words kept out of training for the validation losses."""
    test_words: int = 600
    """Held-out words to measure, in addition to half as many random strings."""
    test_large: int = 200
    """Held-out images of larger type."""
    reconstructions: int = 450
    """Held-out words whose reconstructions are read by OCR, for each kind of fonts."""


class Corpus:
    """Makes documents and images from a seed."""

    def __init__(
        self, config: CorpusConfig, seed: int, factor: int = 8, measured: frozenset[str] = frozenset()
    ) -> None:
        """
        Args:
            config: How much data.
            seed: Random seed.
            factor: Widths of word images are multiples of it.
            measured: Texts that are never trained on, though a longer text may contain one: the random
                strings of the measurements (three letters occur in many words).

        Raises:
            ImportError: The extra ``demo`` is missing.
        """
        self.config, self.factor, self.measured = config, factor, measured
        self.rng = random.Random(f"demo corpus {seed}")
        self.fonts = train_fonts()
        self.held_out = frozenset(demo_words().held_out)
        self.concepts = demo_concepts().train
        self._pictures: dict[tuple[str, int], bytes] = {}

    def string(self, text: str) -> str:
        """Return ``text``, or fail if it contains a held-out word or is a text that is measured."""
        if text in self.measured or contains_any(text.lower(), self.held_out):
            raise AssertionError(f"{text!r} is or contains a held-out text, and must not be trained on")
        return text

    def words(self, words: Sequence[str], count: int) -> list[str]:
        """Texts of word images: words, random strings and short strings, shuffled."""
        words = [word for word in words if word not in self.measured]
        texts: list[str] = []
        for share, lengths in ((self.config.random_share, WORD_LENGTHS), (self.config.short_share, (1, 2))):
            wanted = len(texts) + round(count * share)
            while len(texts) < wanted:
                more = random_strings(wanted - len(texts), self.rng, self.held_out, lengths)
                texts += [text for text in more if text not in self.measured]
        while len(texts) < count:
            texts += self.rng.sample(words, min(len(words), count - len(texts)))
        self.rng.shuffle(texts)
        return texts

    def type(self, text: str, height: int | None = None) -> bytes:
        """The image of ``text`` in a random font and size, and in ``height`` or a random one."""
        if height is None:
            height = self.config.heights[0]
            if len(self.config.heights) > 1:
                height = self.rng.choice(self.config.heights)
        size = self.rng.choice(SIZES) * height // STRIP_HEIGHT
        font = self.rng.choice(self.fonts)
        return png(render_word(self.string(text), font, size, height, self.factor).convert("L"))

    def picture(self, stem: str) -> bytes:
        """The picture of an OpenMoji drawing."""
        key = stem, self.config.picture_size
        if key not in self._pictures:
            self._pictures[key] = png(render_drawing(*key))
        return self._pictures[key]

    def moved(self, stem: str) -> bytes:
        """A picture for naming, with the drawing at a random size and place."""
        side, least = self.config.picture_size, self.config.smallest_drawing
        if least is None:
            return self.picture(stem)
        size = self.rng.randrange(least, side + 1, 2)
        left, top = (self.rng.randrange(0, side - size + 1, 2) for _ in range(2))
        return png(place_drawing(stem, size, side, left, top))

    def documents(self, words: Sequence[str], types: Sequence[bytes], share: float = 1.0) -> list[Document]:
        """All kinds of documents, shuffled; ``share`` scales the number of those without a word image."""
        config = self.config
        documents: list[Document] = []
        for word, image in zip(words, types, strict=True):
            documents += [[word, image], [image, word]]
        drawn = max(1, round(config.picture_documents * share))
        named = drawn if config.naming_documents is None else round(config.naming_documents * share)
        for number in range(max(drawn, named)):
            for concept in self.concepts:
                stem = self.rng.choice(concept.drawings)
                if number < drawn:
                    documents.append([sentence(DRAW, concept.name), self.picture(stem)])
                if number < named:
                    documents.append([self.moved(stem), sentence(NAME, concept.name)])
        documents += [self.interleaved() for _ in range(round(config.interleaved * share))]
        for word in self.rng.choices(words, k=round(config.typed * share)):
            documents.append([sentence(TYPE, word), self.type(word)])
        for document in documents:
            for part in document:
                if isinstance(part, str):
                    self.string(part)
        self.rng.shuffle(documents)
        return documents

    def interleaved(self) -> Document:
        """Pictures, their names in type, and sentences, in one of six orders."""
        a, b = self.rng.sample([c for c in self.concepts if len(c.name) <= LONGEST_TYPED], 2)
        return _interleaved(self, a, b, self.rng.randrange(ORDERS))

    def images(
        self, words: Sequence[str], types: Sequence[bytes], share: float = 1.0
    ) -> list[tuple[bytes, str | None]]:
        """Images for the image tokenizer, with the text in them; ``share`` as in ``documents``."""
        config = self.config
        images: list[tuple[bytes, str | None]] = list(zip(types, words, strict=True))
        for text in self.rng.choices(words, k=round(config.large_strips * share)):
            images.append((self.type(text, self.rng.choice(LARGE_HEIGHTS)), text))
        stems = [stem for concept in self.concepts for stem in dict.fromkeys(concept.drawings)]
        for number in range(max(1, round(config.picture_images * share))):
            images += [(self.moved(stem) if number % 2 else self.picture(stem), None) for stem in stems]
        images += [
            (self.picture(stem), None) for stem in self.other_drawings(round(config.other_drawings * share))
        ]
        self.rng.shuffle(images)
        return images

    def other_drawings(self, count: int) -> list[str]:
        """Drawings of things other than plants, food and animals, which contain the held-out things."""
        known = {stem for concept in concepts() for stem in concept.drawings}
        others = [concept.drawings[0] for concept in concepts(None) if not known & set(concept.drawings)]
        return self.rng.sample(others, min(count, len(others)))


LONGEST_TYPED = 10
"""Letters of the longest name set in type; longer names would make documents too long."""
ORDERS = 6


def _interleaved(corpus: Corpus, a: Concept, b: Concept, order: int) -> Document:
    """One interleaved document about the things ``a`` and ``b``."""

    def picture(concept: Concept) -> bytes:
        return corpus.picture(corpus.rng.choice(concept.drawings))

    def name(concept: Concept) -> bytes:
        return corpus.type(concept.name)

    def say(template: str) -> str:
        return sentence(template, a.name, b.name)

    if order == 0:
        return [picture(a), name(a), say(THIS_THEN), picture(b)]
    if order == 1:
        return [picture(a), name(a), say(THIS_THEN), picture(b), name(b)]
    if order == 2:
        return [picture(a), say(THIS_TYPED), name(a), say(HERE), picture(b)]
    if order == 3:
        return [say(BOTH), picture(a), picture(b)]
    if order == 4:
        return [say(TYPED), name(a), PICTURE, picture(a)]
    return [name(a), NAME_OF, picture(a)]


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
