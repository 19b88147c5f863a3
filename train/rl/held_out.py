"""What an alignment is judged by: held-out texts and images, and a network's figures on them.

The words, random strings and fonts are those that no training of the demo contains (``data.render.split``).
OCR engines judge what the network writes; the engines and these texts are never part of a reward.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ...data.render.openmoji import Concept
from ...data.render.split import demo_concepts
from ...eval.items import Item, Word
from ...eval.metrics.ocr import Reader
from ...eval.metrics.text import mean
from ...eval.report.page.numbers import figure
from ...eval.suites import word_suite
from ...eval.tasks.drawing import evaluate_drawing
from ...eval.tasks.everything import documents, evaluate_bits
from ...eval.tasks.naming import KNOWN, is_named, names_of, naming_items
from ...eval.tasks.reading import evaluate_reading
from ...eval.tasks.writing import evaluate_writing
from ...fusion_lm.model import FusionLM
from ...tokenizers.documents import DocumentTokenizer, Segment
from .word_prompts import HEIGHTS

BITS = 50
"""Words and pictures in the documents whose bits are measured, each in two kinds of documents."""
KINDS = {"word": "words", "random": "random strings"}
"""Kinds of held-out texts, and what a line calls them."""

Figures = dict[str, float]
"""Name -> value, such as "writing/rapidocr/word" -> 0.61."""
Part = Callable[[FusionLM, DocumentTokenizer], Figures]
"""A measurement."""


@dataclass(frozen=True)
class HeldOut:
    """The same at every measurement."""

    texts: Sequence[Word] = ()
    """To write."""
    images: Sequence[Item] = ()
    """To read: texts in held-out fonts."""
    pictures: Sequence[Item] = ()
    """To name: known things at sizes and places that no training picture has."""
    documents: Sequence[list[Segment]] = ()
    """To predict."""
    things: Sequence[Concept] = ()
    """Known things to draw."""


def held_out(
    words: int, strings: int, read: int, names: int, draws: int, bits: bool, seed: int = 0
) -> HeldOut:
    """Render what is measured: at most the given numbers of texts, images, pictures and things.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    suite = word_suite(seed, heights=HEIGHTS)
    texts = []
    for kind, count in zip(KINDS, (words, strings), strict=True):
        texts += [Word(item.text or "", kind) for item in suite if item.kind == kind][:count]
    known = [item for item in naming_items(seed) if item.kind == KNOWN] if names or bits else []
    random.Random(f"judges {seed}").shuffle(known)
    kinds = documents(suite[:BITS], known[:BITS]) if bits else {}
    some = [document for of_kind in kinds.values() for document in of_kind]
    return HeldOut(texts, suite[:read], known[:names], some, demo_concepts().train[:draws])


def parts(held: HeldOut, readers: Sequence[Reader]) -> dict[str, Part]:
    """The measurements for which there is something to measure, and someone to judge it, by name.

    Their figures: ``writing/ENGINE/KIND`` and ``reading/KIND`` (exact match of words and random strings, one
    greedy sample each), ``unfinished`` (share of texts without a complete picture), ``length`` (mean number
    of codes of the pictures), ``naming`` (exact match), ``drawing`` (share whose nearest picture shows the
    thing), ``bits_per_byte`` and ``bits_per_pixel``.
    """
    found: dict[str, Part] = {}
    if held.texts and readers:
        found["writing"] = partial(_writing, held.texts, readers)
    if held.images:
        found["reading"] = partial(_reading, held.images)
    if held.pictures:
        found["naming"] = partial(_naming, held.pictures)
    if held.things:
        found["drawing"] = partial(_drawing, held.things)
    if held.documents:
        found["bits"] = partial(_bits, held.documents)
    return found


def _writing(
    texts: Sequence[Word], readers: Sequence[Reader], net: FusionLM, tokenizer: DocumentTokenizer
) -> Figures:
    result = evaluate_writing(net, tokenizer, texts, readers)
    found = {"unfinished": result["unfinished"] / len(texts)}
    for reader, scores in result["by_reader"].items():
        found |= {f"writing/{reader}/{kind}": one["exact_match"] for kind, one in scores["by_kind"].items()}
    codes = tokenizer.vocab["image"].slots / tokenizer.image.factor**2
    if sizes := [row["size"] for row in result["rows"] if row["size"]]:
        found["length"] = sum(width * height * codes for width, height in sizes) / len(sizes)
    return found


def _reading(images: Sequence[Item], net: FusionLM, tokenizer: DocumentTokenizer) -> Figures:
    result = evaluate_reading(net, tokenizer, images)
    return {f"reading/{kind}": one["exact_match"] for kind, one in result["by_kind"].items()}


def _naming(pictures: Sequence[Item], net: FusionLM, tokenizer: DocumentTokenizer) -> Figures:
    names = names_of(net, tokenizer, [item.image for item in pictures])
    rows = [{"text": item.text or "", "named": name} for item, name in zip(pictures, names, strict=True)]
    return {"naming": mean(float(is_named(row)) for row in rows) or 0.0}


def _drawing(things: Sequence[Concept], net: FusionLM, tokenizer: DocumentTokenizer) -> Figures:
    return {"drawing": evaluate_drawing(net, tokenizer, things).figures["nearest"]}


def _bits(some: Sequence[list[Segment]], net: FusionLM, tokenizer: DocumentTokenizer) -> Figures:
    result = evaluate_bits(net, tokenizer, {"all": list(some)})
    return {name: value for name, value in result.get("all", {}).items() if name.startswith("bits_per")}


def line(figures: Mapping[str, float]) -> str:
    """The figures in one line, such as "writes 61% of words, 44% of random strings (rapidocr), names 79%"."""
    told = []
    for engine in dict.fromkeys(name.split("/")[1] for name in figures if name.startswith("writing/")):
        told.append(f"writes {_shares(figures, f'writing/{engine}')} ({engine})")
    if any(name.startswith("reading/") for name in figures):
        told.append(f"reads {_shares(figures, 'reading')}")
    if "naming" in figures:
        told.append(f"names {figures['naming']:.0%}")
    if "drawing" in figures:
        told.append(f"draws {figures['drawing']:.0%}")
    for name, value in figures.items():
        if name.startswith("bits_per"):
            told.append(f"{figure(value)} {name.replace('_', ' ')}")
    return ", ".join(told)


def _shares(figures: Mapping[str, float], prefix: str) -> str:
    """The exact matches of each kind, such as "61% of words, 44% of random strings"."""
    found = ((called, figures.get(f"{prefix}/{kind}")) for kind, called in KINDS.items())
    return ", ".join(f"{value:.0%} of {called}" for called, value in found if value is not None)
