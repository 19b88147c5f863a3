"""All that a model of words and pictures can do: bits, reading, writing, naming, drawing, form.

Everything is measured on what the demo holds out (``split``): its words, random strings, fonts and things,
and known things at sizes and places that no training picture has.
"""

import copy
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ...data.render.openmoji import render_drawing
from ...data.render.split import DRAW, NAME, demo_concepts, sentence
from ...data.render.words import held_out_fonts, train_fonts
from ...fusion_lm.choices import BestBy
from ...fusion_lm.cpu.packed_weights import for_generation
from ...fusion_lm.generate import Guidance
from ...fusion_lm.loss import IGNORE, LossTerms
from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import Sampling
from ...tokenizers.documents import DocumentTokenizer, Segment
from ...tokenizers.progress import Progress, named
from ..items import Item, Word, word_suite
from ..metrics.bits import Rates, text_bytes
from ..metrics.ocr import Reader
from ..report import html
from . import drawing, naming, reading, writing
from .naming import KNOWN
from .well_formed import evaluate_form

FONTS = ("training fonts", "held-out fonts")
VIEWS = 3
"""Of each image, where it is read in several."""
SAMPLING, GUIDANCE, BEST_OF = Sampling(temperature=0.5), Guidance(2.0), 8
BEST_BY: BestBy = "both"
"""How words are written where the best of several drawings is taken."""


class Measured(NamedTuple):
    """All figures, and the pictures behind some of them."""

    figures: dict[str, Any]
    words: list[Item]
    """Those that were read first, in training fonts."""
    written: list[Image.Image | None]
    best: list[Image.Image | None]
    """Written with guidance, the best of several each."""
    pictures: list[Item]
    """Those that were named."""
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
    progress: Progress | None = None,
) -> Measured:
    """Measure everything.

    The figures are {"bits": see :func:`evaluate_bits`, "reading": {fonts: see ``evaluate_reading``}, "views":
    the same in ``VIEWS`` views, "writing": see ``evaluate_writing`` (left out without ``judges``), greedily,
    "best": the same with guidance, the best of ``BEST_OF`` each, "naming", "drawing", "form"}. On a CPU a
    copy of the model generates, whose weights are laid out for it.

    :param judges: OCR engines, which read what is written.
    :param heights: pixels of the strips that words stand on.
    :param limit: of texts to read and write, and of things to name and draw; None: all.
    :param sequences: documents that are sampled for their form, and a tenth as many without the grammar.
    :raises ImportError: the extra ``demo`` is missing.
    """
    suites = {
        name: word_suite(seed, fonts=fonts, heights=heights)[:limit]
        for name, fonts in zip(FONTS, (train_fonts(), held_out_fonts()), strict=True)
    }
    words = suites[FONTS[0]]
    pictures = naming.naming_items(seed)
    if limit is not None:
        pictures = random.Random(seed).sample(pictures, min(limit, len(pictures)))
    things = demo_concepts().train
    network = model
    if model.embedding.weight.device.type == "cpu":
        model = for_generation(copy.deepcopy(network), "auto")
    figures: dict[str, Any] = {
        "bits": evaluate_bits(network, tokenizer, documents(words, pictures), progress=progress)
    }
    for kind, views in (("reading", 1), ("views", VIEWS)):
        figures[kind] = {
            name: reading.evaluate_reading(
                model,
                tokenizer,
                items,
                views=views,
                seed=seed,
                progress=progress and named(progress, name),
            )
            for name, items in suites.items()
        }
    asked = [Word(item.text or "", item.kind) for item in words]
    drawings: dict[str, list[Image.Image | None]] = {}
    chosen = {"sampling": SAMPLING, "guidance": GUIDANCE, "best_of": BEST_OF, "best_by": BEST_BY}
    for kind, settings in (("writing", {}), ("best", chosen)):
        told = progress and named(progress, "greedily" if kind == "writing" else f"best of {BEST_OF}")
        drawings[kind] = writing.write_words(model, tokenizer, asked, seed=seed, progress=told, **settings)
        if judges:
            figures[kind] = writing.evaluate_writing(
                model,
                tokenizer,
                asked,
                judges,
                originals=words if kind == "writing" else (),
                pictures=drawings[kind],
                seed=seed,
                progress=told,
                **settings,
            )
    figures["naming"] = naming.evaluate_naming(model, tokenizer, pictures, things, progress=progress)
    figures["drawing"], drawn = drawing.evaluate_drawing(
        model, tokenizer, things[:limit], seed=seed, progress=progress
    )
    figures["form"] = evaluate_form(
        model, tokenizer.vocab, sequences=sequences, without=max(1, sequences // 10), seed=seed,
        progress=progress,
    )  # fmt: skip
    return Measured(figures, words, drawings["writing"], drawings["best"], pictures, drawn)


def documents(words: Sequence[Item], pictures: Sequence[Item]) -> dict[str, list[list[Segment]]]:
    """Four kinds of documents: of held-out words, and of known things as no training picture shows them."""
    known = [item for item in pictures if item.kind == KNOWN]
    stems = {thing.name: thing.drawings[0] for thing in demo_concepts().train}
    return {
        "reading": [[item.image, item.text or ""] for item in words],
        "writing": [[item.text or "", item.image] for item in words],
        "naming": [[item.image, sentence(NAME, item.text or "")] for item in known],
        "drawing": [
            [sentence(DRAW, item.text or ""), render_drawing(stems[item.text or ""], naming.SIDE)]
            for item in known
        ],
    }


@torch.no_grad()
def evaluate_bits(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    kinds: dict[str, list[list[Segment]]],
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What the model's predictions make of documents; {kind: {"documents", and the figures of ``Rates``}}.

    Kinds without a document that fits the context are left out.
    """
    vocab, device = tokenizer.vocab, model.embedding.weight.device
    modality_of = vocab.modality(torch.arange(vocab.size)).to(device)
    rates = Rates(
        text_bytes(tokenizer.text, vocab), tokenizer.image.factor**2 / tokenizer.image.codes_per_position
    )
    found = {}
    for kind, some in kinds.items():
        rows = sorted((tokenizer.encode(document) for document in some), key=len)
        rows = [row for row in rows if len(row) <= model.config.context_length]
        for start in range(0, len(rows), batch_size):
            batch = torch.nn.utils.rnn.pad_sequence(
                rows[start : start + batch_size], batch_first=True, padding_value=vocab.pad
            ).to(device)
            targets = torch.where(batch[:, 1:] == vocab.pad, IGNORE, batch[:, 1:])
            terms = model(
                batch[:, :-1], targets=targets, modality=modality_of[batch[:, 1:]], vocab_modality=modality_of
            )
            assert isinstance(terms, LossTerms)
            rates.add(terms, targets)
            if progress is not None:
                progress(f"bits, {kind}", min(start + batch_size, len(rows)), len(rows))
        if rows:
            found[kind] = {"documents": len(rows), **rates.read()}
    return found


def tables(figures: dict[str, Any]) -> list[Table]:
    """The figures for a terminal."""
    out = [_bits_table(figures["bits"])]
    for kind in ("reading", "views"):
        for fonts, result in figures[kind].items():
            table = reading.table(result)
            table.title = f"{table.title}, {fonts}"
            out.append(table)
    out += [writing.table(figures[kind]) for kind in ("writing", "best") if kind in figures]
    return [
        *out,
        naming.table(figures["naming"]),
        drawing.table(figures["drawing"]),
        _form_table(figures["form"]),
    ]


def page(measured: Measured, title: str) -> str:
    """What was read, written, named and drawn, as one self-contained HTML page."""
    figures = measured.figures
    read = figures["reading"][FONTS[0]]["rows"]
    sections = [f"<h1>{html.escape(title)}</h1>", "<h2>Read</h2>"]
    sections.append(
        html.sheet(
            html.figure(
                html.picture(item.image, 2),
                f"{html.escape(row['text'])} → {html.mark(row['read'], row['correct'])}",
                right=row["correct"],
            )
            for item, row in zip(measured.words, read)
        )
    )
    for title, kind, pictures in (
        ("Written", "writing", measured.written),
        (f"Written with guidance, the best of {BEST_OF}", "best", measured.best),
    ):
        cells = _written(measured.words, pictures, figures.get(kind, {}))
        sections += [f"<h2>{title}</h2>", html.sheet(cells)]
    sections.append("<h2>Named</h2>")
    cells = []
    for item, row in zip(measured.pictures, figures["naming"]["rows"]):
        right = row["named"] == naming.described(row["text"]).casefold()
        near = html.escape(row["nearest"])
        note = f"{html.escape(row['text'])} → {html.mark(row['named'], right)}<br>nearest: {near}"
        cells.append(html.figure(html.picture(item.image, 2), note, right=right))
    sections += [html.sheet(cells, 130), "<h2>Drawn</h2>"]
    cells = []
    for picture, row in zip(measured.drawn, figures["drawing"]["rows"]):
        drawn = html.picture(picture, 2) if picture is not None else "<i>not finished</i>"
        near = html.escape(row["nearest"])
        cells.append(
            html.figure(
                drawn, f"{html.escape(row['text'])}<br>nearest: {near}", right=row["text"] == row["nearest"]
            )
        )
    return html.page(title, *sections, html.sheet(cells, 130))


def _written(
    words: Sequence[Item], pictures: Sequence[Image.Image | None], result: dict[str, Any]
) -> list[str]:
    """The words as they were written, and as the first reader reads them."""
    reader, cells = result.get("reader", ""), []
    for item, picture, row in zip(words, pictures, result.get("rows", [{}] * len(pictures))):
        text = item.text or ""
        drawn = html.picture(picture, 2) if picture is not None else "<i>not finished</i>"
        note = f" → {html.mark(row[reader], row[reader] == text)}" if reader else ""
        right = row[reader] == text if reader else None
        cells.append(html.figure(drawn, html.escape(text) + note, right=right))
    return cells


def _bits_table(bits: dict[str, Any]) -> Table:
    out = Table(title="Bits", title_justify="left", box=SIMPLE_HEAD)
    for name in ("documents of", "", "bits per byte of text", "bits per pixel"):
        out.add_column(name, justify="right" if name != "documents of" else "left")
    for kind, row in bits.items():
        figures = (row.get("bits_per_byte"), row.get("bits_per_pixel"))
        out.add_row(kind, str(row["documents"]), *(f"{f:.4f}" if f is not None else "-" for f in figures))
    return out


def _form_table(form: dict[str, Any]) -> Table:
    out = Table(title="Sampled from nothing", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "sequences", "well-formed", "ended by themselves"):
        out.add_column(name, justify="right" if name else "left")
    for name, row in (("under the grammar", form["grammar"]), ("without it", form["free"])):
        out.add_row(name, str(row["items"]), f"{row['well_formed']:.4f}", f"{row['complete']:.4f}")
    return out
