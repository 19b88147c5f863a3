"""The headline figures of a run."""

from collections.abc import Mapping
from typing import Any

from .html import Card
from .numbers import figure, percent

KINDS: dict[str, str] = {"word": "words", "random": "random strings"}
FONTS: dict[str, str] = {"words": "training fonts", "words-new-fonts": "held-out fonts"}
"""Names of the kinds of texts, and of the held-out sets."""


def headline(results: Mapping[str, Any]) -> list[Card]:
    """The figures at the top of the page and at the end of the command."""
    cards = []
    for name, scores in results.get("reading", {}).items():
        note = f"of {scores['items']} held-out texts read exactly ({kinds(scores)})"
        note += f"; CER {figure(scores['cer'])}"
        cards.append(Card(percent(scores["exact_match"]), f"Reading, {FONTS.get(name, name)}", note))
    if scores := results.get("writing"):
        note = (
            f"of {scores['items']} held-out texts written so that {scores['reader']} reads them "
            f"({kinds(scores)}); CER {figure(scores['cer'])}"
        )
        cards.append(Card(percent(scores["exact_match"]), "Writing", note))
    for name, scores in results.get("reconstruction", {}).items():
        if "ocr" in scores and name == "words":
            before, after = scores["ocr"]["original"], scores["ocr"]["reconstruction"]
            note = (
                f"of held-out texts are read by OCR after the tokenizer, {percent(before['exact_match'])} "
                f"before; T-ACC {figure(after['t_acc'])}, CER {figure(after['cer'])}"
            )
            cards.append(Card(percent(after["exact_match"]), "Text that survives", note))
    if drawing := results.get("drawing"):
        note = "drawings from names are closest to the picture of that name"
        cards.append(Card(f"{drawing['named']} of {drawing['items']}", "Drawing", note))
    return cards


def kinds(scores: Mapping[str, Any]) -> str:
    """The exact matches of words and of random strings."""
    return ", ".join(f"{kind_name(kind)} {percent(row['exact_match'])}" for kind, row in by_kind(scores))


def by_kind(scores: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Kinds of texts and their scores, words first."""
    return sorted(
        scores.get("by_kind", {}).items(), key=lambda pair: (pair[0] not in KINDS, pair[0] != "word")
    )


def kind_name(kind: str) -> str:
    """The name of a kind of texts."""
    return KINDS.get(kind, kind)
