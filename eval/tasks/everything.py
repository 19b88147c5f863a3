"""All measurements of a model of words and pictures: bits, reading, writing, naming, drawing, form.

They use what the demo holds out (``data.render.split``): words, random strings, fonts and things, and known
things at sizes and places that occur in no training picture.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image

from ...data.render.fonts import held_out_fonts, train_fonts
from ...data.render.openmoji import render_drawing
from ...data.render.split import DRAW, NAME, demo_concepts, sentence
from ...fusion_lm.choices import BestBy
from ...fusion_lm.cpu.packed_weights import for_generation
from ...fusion_lm.guidance import Guidance
from ...fusion_lm.loss import IGNORE, LossTerms
from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import Sampling
from ...tokenizers.documents import DocumentTokenizer, Segment
from ...tokenizers.progress import Progress, named, silent
from ..items import Item, Word
from ..metrics.bits import Rates
from ..metrics.ocr import Reader
from ..suites import word_suite
from .drawing import evaluate_drawing
from .naming import KNOWN, SIDE, evaluate_naming, naming_items
from .reading import evaluate_reading
from .well_formed import evaluate_form
from .writing import evaluate_writing, write_words

FONTS = ("training fonts", "held-out fonts")
VIEWS = 3
"""Views per image for reading in several views."""
SAMPLING, GUIDANCE, BEST_OF = Sampling(temperature=0.5), Guidance(2.0), 8
BEST_BY: BestBy = "both"
"""Settings for writing words as the best of several drawings."""


class Measured(NamedTuple):
    """All figures, and the pictures behind some of them."""

    figures: dict[str, Any]
    words: list[Item]
    """Words to read and to write, in training fonts."""
    written: list[Image.Image | None]
    best: list[Image.Image | None]
    """The same words written with guidance, the best of ``BEST_OF`` drawings each."""
    pictures: list[Item]
    """Pictures to name."""
    drawn: list[Image.Image | None]


def evaluate_lm(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    judges: Sequence[Reader],
    *,
    heights: Sequence[int],
    limit: int | None = None,
    sequences: int = 10_000,
    seed: int = 0,
    progress: Progress = silent,
) -> Measured:
    """Run all measurements.

    The figures are {"bits": see ``evaluate_bits``, "reading": {fonts: see ``evaluate_reading``}, "views": the
    same in ``VIEWS`` views, "writing": see ``evaluate_writing`` (left out without ``judges``), greedily,
    "best": the same with guidance, the best of ``BEST_OF`` each, "naming", "drawing", "form"}.

    Args:
        judges: OCR engines that read what the model writes.
        heights: Heights of the word images in px.
        limit: Maximum number of texts to read and write, and of things to name and draw. Default: all.
        sequences: Documents to sample for their form; a tenth as many are sampled without the grammar.
        seed: Random seed.
        progress: Called as work proceeds.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    suites = {
        name: word_suite(seed, fonts=fonts, heights=heights)[:limit]
        for name, fonts in zip(FONTS, (train_fonts(), held_out_fonts()), strict=True)
    }
    words = suites[FONTS[0]]
    pictures = naming_items(seed)
    if limit is not None:
        pictures = random.Random(seed).sample(pictures, min(limit, len(pictures)))
    things = demo_concepts().train
    figures: dict[str, Any] = {
        "bits": evaluate_bits(model, tokenizer, documents(words, pictures), progress=progress)
    }
    if model.embedding.weight.device.type == "cpu":
        model = for_generation(model, "auto")
    for kind, views in (("reading", 1), ("views", VIEWS)):
        figures[kind] = {
            name: evaluate_reading(
                model, tokenizer, items, views=views, seed=seed, progress=named(progress, name)
            )
            for name, items in suites.items()
        }
    texts = [Word(item.text or "", item.kind) for item in words]
    drawings: dict[str, list[Image.Image | None]] = {}
    chosen = {"sampling": SAMPLING, "guidance": GUIDANCE, "best_of": BEST_OF, "best_by": BEST_BY}
    for kind, how, settings in (("writing", "greedily", {}), ("best", f"best of {BEST_OF}", chosen)):
        report = named(progress, how)
        drawings[kind] = write_words(model, tokenizer, texts, seed=seed, progress=report, **settings)
        if judges:
            figures[kind] = evaluate_writing(
                model,
                tokenizer,
                texts,
                judges,
                originals=words if kind == "writing" else (),
                pictures=drawings[kind],
                seed=seed,
                progress=report,
                **settings,
            )
    figures["naming"] = evaluate_naming(model, tokenizer, pictures, things, progress=progress)
    figures["drawing"], drawn = evaluate_drawing(
        model, tokenizer, things[:limit], seed=seed, progress=progress
    )
    without = max(1, sequences // 10)
    figures["form"] = evaluate_form(
        model, tokenizer.vocab, sequences=sequences, without=without, seed=seed, progress=progress
    )
    return Measured(figures, words, drawings["writing"], drawings["best"], pictures, drawn)


def documents(words: Sequence[Item], pictures: Sequence[Item]) -> dict[str, list[list[Segment]]]:
    """Four kinds of documents: held-out words, and known things at sizes and places unseen in training."""
    known = [item for item in pictures if item.kind == KNOWN]
    stems = {thing.name: thing.drawings[0] for thing in demo_concepts().train}
    return {
        "reading": [[item.image, item.text or ""] for item in words],
        "writing": [[item.text or "", item.image] for item in words],
        "naming": [[item.image, sentence(NAME, item.text or "")] for item in known],
        "drawing": [
            [sentence(DRAW, item.text or ""), render_drawing(stems[item.text or ""], SIDE)] for item in known
        ],
    }


@torch.no_grad()
def evaluate_bits(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    kinds: dict[str, list[list[Segment]]],
    *,
    batch_size: int = 32,
    progress: Progress = silent,
) -> dict[str, Any]:
    """How well the model predicts documents.

    Returns:
        {kind: {"documents", and the figures of ``Rates``}}; a kind is left out if none of its documents fits
        into the context.
    """
    vocab, device = tokenizer.vocab, model.embedding.weight.device
    rates = Rates.of(tokenizer)
    found = {}
    for kind, some in kinds.items():
        rows = sorted((tokenizer.encode(document).tokens for document in some), key=len)
        rows = [row for row in rows if len(row) <= model.config.context_length]
        for start in range(0, len(rows), batch_size):
            batch = torch.nn.utils.rnn.pad_sequence(
                rows[start : start + batch_size], batch_first=True, padding_value=vocab.pad
            ).to(device)
            targets = torch.where(batch[:, 1:] == vocab.pad, IGNORE, batch[:, 1:])
            terms = model(batch[:, :-1], targets=targets, modalities=vocab.table(device), statistics=True)
            assert isinstance(terms, LossTerms)
            rates.add(terms, targets)
            progress(f"bits, {kind}", min(start + batch_size, len(rows)), len(rows))
        if rows:
            found[kind] = {"documents": len(rows), **rates.read()}
    return found
