"""What the demo holds out and which sentences it says: training and measuring share the rule.

**The rule.** Of wordfreq's 12,000 most frequent English words of three to eight letters, 600 are held out.
They are drawn among the words that are no part of a name or a sentence of the demo; every word that contains
a held-out word leaves the training list, and random strings that contain one are not used. So no training
string, be it text or type in an image, contains a held-out word, not even inside another word and whatever
the case. Of OpenMoji's plants, food and animals 30 concepts are held out, each with all of its variants. Two
font families appear in no training image (``words.held_out_fonts``).

The split does not depend on a run's seed: runs with different seeds are measured on the same words.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from .openmoji import ConceptSplit, concepts, split_concepts
from .words import WordSplit, word_split

SPLIT_SEED = 0
HELD_OUT_WORDS = 600
HELD_OUT_CONCEPTS = 30

# {a}, {b}: things with their article; {A}: the same, beginning a sentence; {name}: a bare name or word.
DRAW = "{A}:"
"""Asks for a picture."""
NAME = "{A}."
"""Tells what the picture before it shows."""
BOTH = "{A} and {b}:"
THIS_THEN = " This is {a}. Here is {b}:"
THIS_TYPED = " This is {a}. Its name in type:"
HERE = " Here is {b}:"
TYPE = "Type the word {name}:"
TYPED = "The name {name} in type:"
PICTURE = " The same as a picture:"
NAME_OF = " is the name of this picture:"
SENTENCES = (DRAW, NAME, BOTH, THIS_THEN, THIS_TYPED, HERE, TYPE, TYPED, PICTURE, NAME_OF)

# Names of a stuff, which take no article; neither do plurals.
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
    """One of ``SENTENCES`` about the thing ``name``, and ``other`` where it has a second one."""
    a, b = described(name), described(other) if other else ""
    return template.format(name=name, a=a, b=b, A=a[0].upper() + a[1:])


def demo_strings() -> Iterator[str]:
    """Every name and every sentence that the demo may train on, words to type left out."""
    for concept in concepts():
        yield concept.name
        for template in SENTENCES:
            yield sentence(template, concept.name, concept.name)


@lru_cache(maxsize=1)
def demo_words() -> WordSplit:
    """The 600 held-out words, and the words that may be trained on.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    return word_split(SPLIT_SEED, HELD_OUT_WORDS, keep_in_training=list(demo_strings()))


@lru_cache(maxsize=1)
def demo_concepts() -> ConceptSplit:
    """The 30 held-out concepts, and those that are trained on.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    return split_concepts(concepts(), HELD_OUT_CONCEPTS, SPLIT_SEED)
