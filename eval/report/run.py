"""The report of a run: one self-contained HTML page with figures, pictures and curves.

``report(results, gallery, curves)`` is a pure function of three plain values:

- ``results``: the figures, as in ``results.json`` (see ``earlyfusion.train.demo.run``);
- ``gallery``: nested lists and dictionaries with PIL images:
  "reconstructions": {title: [{"original", "reconstruction", "caption", "read", "text"}]},
  "readings": [{"image", "text", "read"}], "writings": [{"text", "picture", "read"}],
  "drawings": [{"prompt", "name", "picture", "nearest", "nearest_name"}],
  "documents": [{"parts": [{"text" or "image", "prompt"}], "stop"}],
  "tokens": the fields of ``html.TokenCell`` for each token of the first document,
  "progress": {"samples" or "reconstructions": [(step, sheet)]};
  an unfinished picture is None;
- ``curves``: {"image_tokenizer", "lm"} -> metric -> (step, value) pairs.

Missing parts are left out, so that a shorter run has a shorter report. The page opens with what the run made
and with its figures beside those of two recorded models; a run that is only a check opens with saying so, and
with what moved.
"""

import re
from collections.abc import Mapping
from typing import Any

from . import sections
from .figures import Curves, headline, is_check, moved, verdict
from .page import html
from .page.numbers import count, duration

DRAWN, WRITTEN = 4, 3
"""Drawings and words at the top of the page."""


def report(results: Mapping[str, Any], gallery: Mapping[str, Any], curves: Curves) -> str:
    """The page, see the module's docstring for the arguments."""
    documents, sheets = gallery.get("documents", []), gallery.get("progress", {})
    found = [
        ("drawing", "Drawing", sections.drawings(gallery.get("drawings", []))),
        (
            "documents",
            "Text and pictures in one document",
            sections.documents(documents, gallery.get("tokens", [])),
        ),
        ("words", "Reading and writing held-out words", sections.words(gallery, results)),
        (
            "tokenizer",
            "The image tokenizer",
            sections.image_tokenizer(gallery.get("reconstructions", {}), results.get("reconstruction", {})),
        ),
        ("learning", "Learning", sections.learning(curves, results, sheets)),
        ("next", "Next", sections.next_steps(results)),
        ("run", "This run", sections.this_run(results)),
    ]
    found = [one for one in found if one[2]]
    top = [_banner(results), _moved(results, curves, sheets)] if is_check(results) else [_hero(gallery)]
    return html.page(
        "earlyfusion: a run from scratch",
        "<h1>Pixels and words, one token stream</h1>",
        f'<p class="lead">{html.escape(_lead(results))}</p>',
        *([sections.note(when)] if (when := _when(results)) else []),
        *top,
        _cards(results),
        *(html.section(title, body, id=id) for id, title, body in found),
        _credits(),
        contents=html.contents([(id, id.capitalize()) for id, *_ in found]),
    )


def _lead(results: Mapping[str, Any]) -> str:
    made = results.get("models", {})
    return (
        "An image tokenizer (VQ-VAE), a text tokenizer and one transformer "
        f"of {count(made.get('lm_parameters'))} parameters over "
        f"their shared vocabulary of {made.get('vocab_size', 0):,} tokens, all trained from scratch in "
        f"{duration(results.get('seconds'))} on {results.get('machine', {}).get('cpu', 'this machine')}."
    )


def _when(results: Mapping[str, Any]) -> str:
    """Budget, seed, date and commit."""
    named = {"budget": "budget {}", "seed": "seed {}", "date": "{}", "commit": "commit {}"}
    return " · ".join(form.format(results[k]) for k, form in named.items() if results.get(k) is not None)


def _banner(results: Mapping[str, Any]) -> str:
    """What a check is, and where to see a model that learned something."""
    title, *rest = verdict(results)
    lines = re.sub("`([^`]+)`", r"<code>\1</code>", "".join(f"<p>{html.escape(one)}</p>" for one in rest))
    return f'<div class="banner" role="note"><p><b>{html.escape(title)}</b></p>{lines}</div>'


def _moved(results: Mapping[str, Any], curves: Curves, sheets: Mapping[str, Any]) -> str:
    """What a check can show: that its trainings go the right way."""
    cards = moved(curves, results.get("models", {}).get("vocab_size", 0))
    seen = sections.progress(sheets)
    if not cards and not seen:
        return ""
    return f"<section><h2>What moved</h2>{html.cards(cards)}{seen}</section>"


def _hero(gallery: Mapping[str, Any]) -> str:
    """The first drawings, held-out texts and document that the model made, large."""
    drawn = [one for one in gallery.get("drawings", []) if one["picture"] is not None][:DRAWN]
    written = [one for one in gallery.get("writings", []) if one["picture"] is not None][:WRITTEN]
    figures = [html.figure(html.picture(one["picture"], 3), html.escape(one["prompt"])) for one in drawn]
    if written:
        images = [(one["text"], one["picture"]) for one in written]
        figures.append(html.figure(html.beside(images, 3, stacked=True)))
    mixed = [
        html.document([sections.part(p) for p in one["parts"]]) for one in gallery.get("documents", [])[:1]
    ]
    if not figures:
        return ""
    made = [
        (drawn, f"its first {len(drawn)} drawings, from their names"),
        (
            written,
            f"the first {len(written)} texts that it wrote and that no training text or image contains",
        ),
        (mixed, "its first document of text and pictures, with dashes around what was given"),
    ]
    told = sections.note(
        f"Made by the model: {'; '.join(t for some, t in made if some)}. Nobody picked them."
    )
    return f'<div class="hero">{"".join(figures)}</div>{"".join(mixed)}{told}'


def _cards(results: Mapping[str, Any]) -> str:
    cards = headline(results)
    if not cards:
        return ""
    told = sections.note(
        "Bars go from 0% to 100%. The notches are the recorded full demo, the model that comes with the "
        "package, and a ceiling: what OCR reads in real type, before or after the image tokenizer. The "
        "sets of the two models differ a little from this run's."
    )
    if is_check(results):
        title = "Figures on held-out words, near zero as expected"
        return f"<section>{html.details(title, html.cards(cards), told)}</section>"
    return html.cards(cards) + told


def _credits() -> str:
    license = '<a href="https://creativecommons.org/licenses/by-sa/4.0/">CC BY-SA 4.0</a>'
    return (
        '<footer>Pictures and their copies: <a href="https://openmoji.org">OpenMoji</a>, the open-source '
        f"emoji and icon project, {license}. Names: Unicode. Words: wordfreq. Held-out words, fonts and "
        "things, and the rule by which they are kept out of training: earlyfusion.data.render.split.</footer>"
    )
