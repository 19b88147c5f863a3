"""Texts of rendered images: words, random strings, numbers, sentences.

**The rule.** Training texts never contain a held-out word (see ``split``), in any case and not even inside
another word. A fixed quarter of all random strings, chosen by a hash of the string, is reserved for
evaluation. Training and evaluation therefore never share a word or a random string, whatever their seeds.
"""

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase, digits

from .split import demo_words
from .words import LETTERS, WORD_LENGTHS, contains_any, random_strings

RANDOM_SHARE = 0.4
"""Fraction of random strings in lines and pages. On words alone, a reader's language prior hides damage."""
_ALPHABETS = {
    LETTERS: 0.6,
    ascii_uppercase: 0.1,
    digits: 0.15,
    # Without I and 1, O and 0, which readers cannot tell apart.
    "".join(sorted(set(ascii_uppercase + digits) - set("IO01"))): 0.15,
}
_TRIES = 1000


def kept_for_measuring(string: str) -> bool:
    """Whether a random string belongs to the quarter reserved for evaluation."""
    return zlib.crc32(string.lower().encode()) % 4 == 0


@dataclass(frozen=True)
class Lexicon:
    """A source of texts. Every method draws from its argument ``rng``."""

    words: Sequence[str]
    """In lower case."""
    avoid: frozenset[str] = frozenset()
    """Words that no text may contain."""
    measuring: bool = False
    """Use the random strings reserved for evaluation; otherwise the others."""
    random_share: float = RANDOM_SHARE
    """Fraction of random strings and numbers among the words of lines, pages and tables."""

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("words is empty, expected at least one word")
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"random_share is {self.random_share}, expected 0 to 1")

    def allows(self, text: str) -> bool:
        """Whether ``text`` contains no word of ``avoid``."""
        return not self.avoid or not contains_any(text.lower(), self.avoid)

    def word(self, rng: random.Random) -> str:
        """A word: lower case (7 in 10), capitalized (2 in 10), or upper case (1 in 10)."""
        word, draw = rng.choice(self.words), rng.random()
        return word if draw < 0.7 else word.capitalize() if draw < 0.9 else word.upper()

    def string(self, rng: random.Random, lengths: Sequence[int] = WORD_LENGTHS) -> str:
        """A random string: lower case (6 in 10), upper case, digits, or upper case with digits."""
        (alphabet,) = rng.choices(list(_ALPHABETS), list(_ALPHABETS.values()))
        for _ in range(_TRIES):
            if alphabet == LETTERS:
                (text,) = random_strings(1, rng, self.avoid, lengths)
            else:
                text = "".join(rng.choices(alphabet, k=rng.choice(lengths)))
            if kept_for_measuring(text) == self.measuring and self.allows(text):
                return text
        raise ValueError(f"found no allowed random string with {lengths} characters in {_TRIES} tries")

    def number(self, rng: random.Random) -> str:
        """A number as in running text: a year, a percentage, a price, ..."""
        form = rng.randrange(6)
        if form == 0:
            return str(rng.randint(1500, 2100))
        if form == 1:
            return f"{rng.randint(1, 99)}%"
        if form == 2:
            return f"{rng.randint(1000, 999_999):,}"
        if form == 3:
            return f"({rng.randint(1, 99)})"
        return self.price(rng) if form == 4 else str(rng.randint(1, 999))

    def price(self, rng: random.Random) -> str:
        """An amount of money; small amounts are more frequent."""
        amount = f"{rng.choice((10, 100, 1000)) * rng.random():.2f}"
        return f"${amount}" if rng.random() < 0.3 else amount

    def date(self, rng: random.Random) -> str:
        """A date or a time of day."""
        if rng.random() < 0.4:
            return f"{rng.randrange(24):02}:{rng.randrange(60):02}"
        mark = rng.choice("/.-")
        return f"{rng.randint(1, 28):02}{mark}{rng.randint(1, 12):02}{mark}{rng.randint(1990, 2030)}"

    def running(self, rng: random.Random) -> Iterator[str]:
        """An endless stream of words of running text, with capitals and punctuation."""
        while True:
            length = rng.randint(4, 14)
            for i in range(length):
                if rng.random() < self.random_share:
                    text = self.string(rng) if rng.random() < 0.8 else self.number(rng)
                else:
                    text = rng.choice(self.words)
                    if i == 0 or rng.random() < 0.08:
                        text = text.capitalize()
                if i == length - 1:
                    text += rng.choice("...?!")
                elif rng.random() < 0.12:
                    text = rng.choice(("{},", "{},", "{};", "{}:", '"{}"', "'{}'")).format(text)
                yield text


def train_lexicon() -> Lexicon:
    """The lexicon of training images.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    split = demo_words()
    return Lexicon(split.train, frozenset(split.held_out))


def split_lexicon(lexicon: Lexicon, count: int, seed: int = 0) -> tuple[Lexicon, Lexicon]:
    """Split off ``count`` words, drawn by ``seed``; words that contain one of them are dropped.

    Returns:
        The lexicon without both, and a lexicon of the drawn words.
    """
    if not 0 < count < len(lexicon.words):
        raise ValueError(
            f"count is {count}, expected 1 to {len(lexicon.words) - 1} (one less than all words)"
        )
    chosen = random.Random(f"validation words {seed}").sample(list(lexicon.words), count)
    avoid = lexicon.avoid | frozenset(chosen)
    rest = [word for word in lexicon.words if not contains_any(word, avoid)]
    return (
        Lexicon(rest, avoid, lexicon.measuring, lexicon.random_share),
        Lexicon(chosen, lexicon.avoid, lexicon.measuring, lexicon.random_share),
    )


def held_out_lexicon() -> Lexicon:
    """The lexicon of evaluation images: held-out words, and random strings reserved for evaluation.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    return Lexicon(demo_words().held_out, measuring=True)
