"""Words and random strings, and the split into training and held-out words. Needs the extra ``demo``."""

import random
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

BLOCKLIST = Path(__file__).with_name("blocklist.txt")
"""Regular expressions, one per line, of words that are never used."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD_LENGTHS = range(3, 9)
"""Words and random strings of the demo have three to eight letters."""


class WordSplit(NamedTuple):
    """Words of three to eight letters; words of ``train`` never contain one of ``held_out``."""

    train: list[str]
    held_out: list[str]


@cache
def _blocked() -> re.Pattern[str]:
    return re.compile("|".join(BLOCKLIST.read_text(encoding="utf-8").split()))


def contains_any(text: str, parts: frozenset[str], lengths: Iterable[int] = WORD_LENGTHS) -> bool:
    """Whether any of ``parts`` (of the given lengths) is a substring of ``text``."""
    return any(text[i : i + n] in parts for n in lengths for i in range(len(text) - n + 1))


def word_split(seed: int = 0, held_out: int = 600, keep_in_training: Sequence[str] = ()) -> WordSplit:
    """Split wordfreq's 12,000 most frequent English words of three to eight letters.

    ``held_out`` words are drawn uniformly from those that are not part of any string in ``keep_in_training``
    (the names and sentences of the demo). Words that contain a held-out word are then removed from training,
    so that training strings never contain one, not even inside another word.

    Raises:
        ImportError: wordfreq is not installed (extra ``demo``).
    """
    try:
        from wordfreq import top_n_list
    except ImportError as error:
        raise ImportError("wordfreq is not installed: pip install 'earlyfusion[demo]'") from error
    words = [
        word
        for word in top_n_list("en", 24_000)
        if len(word) in WORD_LENGTHS and set(word) <= set(LETTERS) and not _blocked().search(word)
    ][:12_000]
    kept = "\n".join(keep_in_training).lower()
    candidates = [word for word in words if word not in kept]
    chosen = frozenset(random.Random(seed).sample(candidates, held_out))
    return WordSplit(
        train=[word for word in words if not contains_any(word, chosen)],
        held_out=[word for word in words if word in chosen],
    )


def random_strings(
    count: int, rng: random.Random, avoid: frozenset[str] = frozenset(), lengths: Sequence[int] = WORD_LENGTHS
) -> list[str]:
    """Strings of uniformly drawn lower-case letters that do not contain any of ``avoid``."""
    out: list[str] = []
    while len(out) < count:
        text = "".join(rng.choices(LETTERS, k=rng.choice(lengths)))
        if not contains_any(text, avoid) and not _blocked().search(text):
            out.append(text)
    return out
