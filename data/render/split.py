"""The demo's held-out words, things and fonts, and its sentences; training and evaluation share them.

**The rule.** Of wordfreq's 12,000 most frequent English words of three to eight letters, 600 are held out.
They are drawn from the words that are not part of a name or a sentence of the demo. Words that contain a
held-out word are removed from training, and random strings that contain one are not used. Training strings,
whether text or type in an image, therefore never contain a held-out word, in any case and not even inside
another word. Of OpenMoji's plants, food and animals 30 concepts are held out, each with all of its variants.
Training images never use two font families (``fonts.held_out_fonts``).

The split does not depend on a run's seed: runs with different seeds are evaluated on the same words.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from .openmoji import ConceptSplit, concepts, split_concepts
from .words import WordSplit, word_split

SPLIT_SEED = 0
HELD_OUT_WORDS = 600
HELD_OUT_CONCEPTS = 30

# {a}, {b}: things with articles; {A}: the same, capitalized; {name}: a bare name or word.
DRAW = "{A}:"
"""The prompt for a picture."""
NAME = "{A}."
"""The caption after a picture."""
BOTH = "{A} and {b}:"
THIS_THEN = " This is {a}. Here is {b}:"
THIS_TYPED = " This is {a}. Its name in type:"
HERE = " Here is {b}:"
TYPE = "Type the word {name}:"
TYPED = "The name {name} in type:"
PICTURE = " The same as a picture:"
NAME_OF = " is the name of this picture:"
SENTENCES = (DRAW, NAME, BOTH, THIS_THEN, THIS_TYPED, HERE, TYPE, TYPED, PICTURE, NAME_OF)

# Uncountable nouns: like plurals, they take no article.
_STUFF = (
    "bacon; bread; baguette bread; broccoli; bubble tea; butter; candy; canned food; cooked rice; "
    "cooking; coral; curry rice; custard; falafel; fondue; garlic; ginger root; green salad; ice; "
    "leafy green; meat on bone; oden; popcorn; pouring liquid; sake; salt; shaved ice; spaghetti; "
    "sushi; wood"
).split("; ")


def described(name: str) -> str:
    """A thing's name with its article: "a red apple", "an ant", "grapes", "popcorn"."""
    head = re.split(" (?:with|on|of|in|and) ", name)[0]
    plural = head.endswith("s") and not head.endswith(("ss", "us", "rhinoceros"))
    if plural or name in _STUFF:
        return name
    return f"{'an' if name[0] in 'aeiou' and name not in ('ewe', 'unicorn') else 'a'} {name}"


def sentence(template: str, name: str, other: str = "") -> str:
    """Fill in one of ``SENTENCES`` with the thing ``name``, and a second thing ``other`` if it needs one."""
    a, b = described(name), described(other) if other else ""
    return template.format(name=name, a=a, b=b, A=a[0].upper() + a[1:])


def demo_strings() -> Iterator[str]:
    """All names and sentences that the demo may train on, except words to type."""
    for concept in concepts():
        yield concept.name
        for template in SENTENCES:
            yield sentence(template, concept.name, concept.name)


@lru_cache(maxsize=1)
def demo_words() -> WordSplit:
    """The 600 held-out words, and the training words.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    return word_split(SPLIT_SEED, HELD_OUT_WORDS, keep_in_training=list(demo_strings()))


@lru_cache(maxsize=1)
def demo_concepts() -> ConceptSplit:
    """The 30 held-out concepts, and the training concepts.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    return split_concepts(concepts(), HELD_OUT_CONCEPTS, SPLIT_SEED)
