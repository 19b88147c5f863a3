"""Prompts of words: to write, or to read in a picture in type."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ...data.render.fonts import SIZES, STRIP_HEIGHT, Font, TypeSample, train_fonts
from ...data.render.split import demo_words
from ...data.render.words import random_strings
from ...eval.suites import measured_strings
from ...eval.tasks.continuations import image_prompts
from ...storage.nearest import similar_path
from ...tokenizers.documents import DocumentTokenizer, interleave
from .prompt_order import is_turn, place
from .samples import Prompt

DEMO = "demo"
"""The name of the demo's training words."""
HEIGHTS = (16, 24)
"""Heights in px of the pictures of words to read."""


class WordPrompts:
    """Words to write, and pictures of words to read, in the demo's training fonts."""

    def __init__(
        self,
        name: str,
        tokenizer: DocumentTokenizer,
        context: int,
        *,
        random_share: float = 0.4,
        read_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            name: ``DEMO``, or a text file with one word or line per line.
            tokenizer: The model's tokenizer.
            context: Tokens that the model can hold; what leaves no room in it is left out.
            random_share: Fraction of random strings among the demo's words.
            read_share: Fraction of pictures to read.
            seed: Random seed.

        Raises:
            FileNotFoundError: The file is missing.
            ImportError: The extra ``demo`` is missing.
            ValueError: The file is not UTF-8, no word is left, or the model does not have images.
        """
        self.tokenizer, self.context, self.seed = tokenizer, context, seed
        self.factor = tokenizer.image.factor
        self.random_share, self.read_share = 0.0, read_share
        self.held_out: frozenset[str] = frozenset()
        self.measured: frozenset[str] = frozenset()
        self.fonts: list[Font] = train_fonts() if read_share else []
        if name == DEMO:
            words = demo_words().train
            self.random_share = random_share
            self.held_out, self.measured = frozenset(demo_words().held_out), frozenset(measured_strings())
        else:
            words = read_words(name)
        self.words, self.remark = self._usable(words, name)

    def prompts(self, numbers: Sequence[int]) -> list[Prompt]:
        drawn = [self._draw(number) for number in numbers]
        pictures = [sample.render(self.factor) for _, sample in drawn if sample is not None]
        images = iter(image_prompts(self.tokenizer, pictures))
        return [
            self._written(text) if sample is None else Prompt(next(images), "read", text)
            for text, sample in drawn
        ]

    def _draw(self, number: int) -> tuple[str, TypeSample | None]:
        """The text of a prompt, and how it is set in type if it is to be read."""
        rng = random.Random(f"prompts {self.seed} {number}")
        if rng.random() < self.random_share:
            text = self._string(rng)
        else:
            text = self.words[place(number, len(self.words), self.seed)]
        if not is_turn(number, self.read_share):
            return text, None
        height = rng.choice(HEIGHTS)
        size = rng.choice(SIZES) * height // STRIP_HEIGHT
        return text, TypeSample(text, "word", rng.choice(self.fonts), size, height)

    def _string(self, rng: random.Random) -> str:
        """A random string that contains no held-out word and is not one of those that are measured."""
        while True:
            text = random_strings(1, rng, self.held_out)[0]
            if text not in self.measured:
                return text

    def _written(self, text: str) -> Prompt:
        ids = torch.tensor(self.tokenizer.text.encode(text), dtype=torch.int64)
        return Prompt(interleave([("text", ids)], self.tokenizer.vocab, eos=False), "write", text)

    def _usable(self, words: Iterable[str], name: str) -> tuple[list[str], str]:
        """The words that can be prompts, and a line on those that are left out."""
        kept: list[str] = []
        refused: dict[str, list[str]] = {"cannot be encoded": [], "leave no room in the context": []}
        for word in words:
            try:
                ids = self.tokenizer.text.encode(word)
            except ValueError:
                refused["cannot be encoded"].append(word)
                continue
            if self._fits(word, len(ids)):
                kept.append(word)
            else:
                refused["leave no room in the context"].append(word)
        found = [
            f"{len(some):,} {why} (such as {_shortened(some[0])})" for why, some in refused.items() if some
        ]
        left_out = sum(map(len, refused.values()))
        if not kept:
            raise ValueError(f"{name} has no word to write: {'; '.join(found) or 'all its lines are blank'}")
        if not found:
            return kept, ""
        return kept, f"{name}: {left_out:,} of {len(kept) + left_out:,} words left out: {'; '.join(found)}"

    def _fits(self, text: str, ids: int) -> bool:
        """Whether a picture fits after the text and, if pictures are read, the text after its picture."""
        layout = self.tokenizer.vocab.layout("image")
        if 1 + ids + layout.length() > self.context:
            return False
        if not self.read_share:
            return True
        height = max(HEIGHTS)
        size = max(SIZES) * height // STRIP_HEIGHT

        def fits(width: float) -> bool:
            shape = -(-height // self.factor), int(-(-width // self.factor))
            if layout.numbers is None:
                return 2 + ids + layout.length() <= self.context
            return max(shape) <= layout.numbers.count and 2 + ids + layout.length(shape) <= self.context

        if text.isascii() and fits(1.2 * size * (len(text) + 1)):  # no letter of these fonts is wider
            return True
        return fits(max(TypeSample(text, "", font, size, height).render().width for font in self.fonts))


def read_words(path: str | Path) -> list[str]:
    """The lines of a text file, without white space at both ends; blank ones are skipped.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: A line is not UTF-8.
    """
    if not Path(path).is_file():
        hint = similar_path(path)
        raise FileNotFoundError(
            f"{path} not found: {hint}expected {DEMO}, or a text file with a word per line"
        )
    words = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        try:
            words.append(line.decode("utf-8-sig" if number == 1 else "utf-8").strip())
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: byte {error.start + 1} is not UTF-8 ({error.reason}): save the file "
                "as UTF-8"
            ) from None
    return [word for word in words if word]


def _shortened(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}...")
