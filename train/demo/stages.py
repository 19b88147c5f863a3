"""The stages of the demo. They call what the commands call; each writes its folder whole or not at all."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...cli.evaluate import progress_bars
from ...data.images import ImageData
from ...data.prepare import prepare
from ...data.prepare_config import PrepareConfig
from ...data.text_corpus import read_texts
from ...data.windows import TokenData
from ...eval.items import Item, Progress, Word, images_from_folder
from ...eval.metrics.ocr import readers
from ...eval.report.contact_sheet import contact_sheet
from ...eval.report.gallery import load_gallery, save_gallery
from ...eval.report.run import report as report_page
from ...eval.tasks.reading import evaluate_reading
from ...eval.tasks.reconstruction import evaluate_reconstruction
from ...eval.tasks.writing import evaluate_writing, write_words
from ...fusion_lm.folder import Model, load_model
from ...tokenizers.files import atomic_folder, read_json, write_json, write_text
from ...tokenizers.text import TextTokenizer
from ..image.module import ImageTokenizerTraining
from ..image.settings import ImageTokenizerSettings
from ..lm.module import FusionLMTraining
from ..lm.settings import LMSettings
from ..loop.fit import fit
from ..loop.logs import read_metrics
from .budget import CORPUS, IMAGE, LM, SAMPLES, TEXT, TOKENS, DemoBudget
from .corpus import DOCUMENTS, IMAGES, LARGE, NEW_FONTS, PICTURES, TRAIN, VALIDATION, WORDS, write_corpus
from .gallery import reconstruction_gallery, sample_gallery

SHOWN = 24
"""Readings and writings that the report shows."""
READERS = ("rapidocr",)
"""The judge. Tesseract, which starts a program for each image, would take longer than the training."""


@dataclass
class Run:
    """A demo under way."""

    folder: Path
    seed: int
    budget: DemoBudget
    done: dict[str, dict[str, Any]]
    """stages.json."""
    facts: dict[str, Any]
    """Command, machine, versions."""

    @property
    def data(self) -> Path:
        """The corpus."""
        return self.folder / "data"

    def held_out(self, name: str, limit: int | None = None) -> list[Item]:
        """Held-out images."""
        return images_from_folder(self.data / "held_out" / name, limit=limit).items

    def model(self) -> Model:
        """The trained model."""
        return load_model(self.folder / "model")


def corpus(run: Run) -> dict[str, Any]:
    """Render words and pictures, make documents of them, and the held-out images."""
    with progress_bars() as progress:
        counts = write_corpus(run.data, run.budget.corpus, run.seed, run.budget.image.factor, progress)
    return {"counts": counts}


def text_tokenizer(run: Run) -> dict[str, Any]:
    """Train sentencepiece on the documents' texts."""
    tokenizer = TextTokenizer.train(
        read_texts(run.data / DOCUMENTS / TRAIN, "texts"),
        run.budget.text_vocab_size,
        max_piece_length=run.budget.text_max_piece_length,
    )
    tokenizer.save(run.folder / "text-tokenizer")
    return {"pieces": tokenizer.vocab_size}


def image_tokenizer(run: Run) -> dict[str, Any]:
    """Train the VQ-VAE."""
    budget = run.budget
    torch.manual_seed(run.seed)
    training = ImageTokenizerTraining(
        ImageTokenizerSettings(config=budget.image, seed=run.seed, **budget.image_training)
    )
    data = ImageData(
        train=str(run.data / IMAGES / TRAIN),
        validation=str(run.data / IMAGES / VALIDATION),
        factor=budget.image.factor,
        batch_pixels=budget.image_batch_pixels,
        seed=run.seed,
    )
    fit(
        training,
        data,
        run.folder / "image-tokenizer",
        seed=run.seed,
        log_every=max(1, training.max_steps // 100),
        validate_every=max(1, training.max_steps // budget.validations),
        checkpoint_seconds=20,
        tensorboard=False,
    )
    return {"parameters": sum(p.numel() for p in training.net.parameters())}


def tokens(run: Run) -> dict[str, Any]:
    """Documents -> packed windows."""
    config = PrepareConfig(
        documents=str(run.data / DOCUMENTS / TRAIN),
        validation=str(run.data / DOCUMENTS / VALIDATION),
        text_tokenizer=str(run.folder / "text-tokenizer"),
        image_tokenizer=str(run.folder / "image-tokenizer" / "model"),
        out=str(run.folder / "tokens"),
        context_length=run.budget.lm.context_length,
        max_grid=run.budget.max_grid,
        scan="columns",
        separator=run.budget.separator,
        seed=run.seed,
    )
    with progress_bars() as progress:
        record = prepare(config, lambda part, done, total: progress(part, done, total or 0))
    return {"vocab_size": record["vocab_size"], "windows": record["train"]["windows"]}


def transformer(run: Run) -> dict[str, Any]:
    """Train the transformer, and lay its folder where the commands look for it."""
    budget = run.budget
    torch.manual_seed(run.seed)
    training = FusionLMTraining(
        LMSettings(tokenizer=str(run.folder / "tokens"), config=budget.lm, **budget.lm_training)
    )
    data = TokenData(str(run.folder / "tokens"), batch_size=budget.lm_batch_size, seed=run.seed)
    made = fit(
        training,
        data,
        run.folder / "lm",
        seed=run.seed,
        log_every=max(1, training.max_steps // 100),
        validate_every=max(1, training.max_steps // budget.validations),
        checkpoint_seconds=20,
        tensorboard=False,
    )
    with atomic_folder(run.folder / "model") as new:
        shutil.copytree(made, new, dirs_exist_ok=True)
    return {"parameters": sum(p.numel() for p in training.net.parameters())}


def evaluation(run: Run) -> dict[str, Any]:
    """Measure on held-out words, fonts and pictures."""
    model, tokenizer = run.model()
    judges = readers(READERS)
    words, new_fonts = run.held_out(WORDS), run.held_out(NEW_FONTS)
    large, pictures = run.held_out(LARGE), run.held_out(PICTURES)
    few = run.budget.reconstruction_items
    with progress_bars() as progress, atomic_folder(run.folder / "evaluation") as new:
        reconstruction = {
            name: evaluate_reconstruction(tokenizer.image, items, some, progress=_under(progress, name))
            for name, items, some in (
                (WORDS, words[:few], judges),
                (NEW_FONTS, [*new_fonts[:few], *large], judges),
                (PICTURES, pictures, []),
            )
        }
        reading = {
            name: evaluate_reading(model, tokenizer, items, progress=_under(progress, name))
            for name, items in ((WORDS, words), (NEW_FONTS, new_fonts))
        }
        asked = [Word(item.text or "", item.kind) for item in words]
        sampling = run.budget.writing
        drawn = write_words(model, tokenizer, asked, sampling=sampling, seed=run.seed, progress=progress)
        writing = evaluate_writing(
            model,
            tokenizer,
            asked,
            judges,
            pictures=drawn,
            sampling=sampling,
            seed=run.seed,
            progress=progress,
        )
        writing["ceiling"] = {
            reader: {side: scores[side] for side in ("original", "reconstruction")}
            for reader, scores in reconstruction[WORDS]["ocr_by_reader"].items()
        }
        for name, result in (("reconstruction", reconstruction), ("reading", reading), ("writing", writing)):
            write_json(new / f"{name}.json", result)
        gallery = {
            "reconstructions": reconstruction_gallery(
                tokenizer.image, words, new_fonts, large, pictures, judges[0]
            ),
            "readings": [
                {"image": item.image, "text": row["text"], "read": row["read"]}
                for item, row in zip(words[:SHOWN], reading[WORDS]["rows"])
            ],
            "writings": [
                {"text": row["text"], "picture": picture, "read": row[judges[0].name]}
                for row, picture in zip(writing["rows"][: 2 * SHOWN], drawn)
            ],
        }
        save_gallery(new / "pictures", gallery)
    return {}


def samples(run: Run) -> dict[str, Any]:
    """Draw from training names, and write interleaved documents."""
    with progress_bars() as progress:
        gallery, drawings = sample_gallery(run.model(), run.budget, run.seed, progress)
    save_gallery(run.folder / "samples", gallery)
    named = sum(one["picture"] is not None and one["name"] == one["nearest_name"] for one in drawings)
    return {"named": named, "items": len(drawings)}


def report(run: Run) -> dict[str, Any]:
    """Write results.json, samples.png and report.html."""
    results = collect(run)
    gallery = load_gallery(run.folder / "evaluation" / "pictures") | load_gallery(run.folder / "samples")
    curves = {
        "image_tokenizer": read_metrics(run.folder / "image-tokenizer"),
        "lm": read_metrics(run.folder / "lm"),
    }
    sheet = run.folder / ".samples.png"  # beside its final name, so that replacing it is one step
    contact_sheet(gallery).save(sheet, "PNG", optimize=True)
    sheet.replace(run.folder / "samples.png")
    write_text(run.folder / "report.html", report_page(results, gallery, curves))
    write_json(run.folder / "results.json", results)
    return {}


def collect(run: Run) -> dict[str, Any]:
    """All figures of a run, without the rows of single items."""
    done, budget = run.done, run.budget
    figures = {
        name: read_json(run.folder / "evaluation" / f"{name}.json", f"the demo's {name}")
        for name in ("reconstruction", "reading", "writing")
    }
    drawing = done[SAMPLES]
    return {
        "budget": budget.name,
        "seed": run.seed,
        **run.facts,
        "stages": [{"name": name, "seconds": stage["seconds"]} for name, stage in done.items()],
        "seconds": sum(stage["seconds"] for stage in done.values()),
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in done.values()),
        "corpus": done[CORPUS]["counts"],
        "models": {
            "image_tokenizer_parameters": done[IMAGE]["parameters"],
            "codebook_size": budget.image.codebook_size,
            "factor": budget.image.factor,
            "text_pieces": done[TEXT]["pieces"],
            "lm_parameters": done[LM]["parameters"],
            "vocab_size": done[TOKENS]["vocab_size"],
        },
        "drawing": {"named": drawing["named"], "items": drawing["items"]},
        **{name: _without_rows(value) for name, value in figures.items()},
    }


def _under(progress: Progress, name: str) -> Progress:
    return lambda what, done, total: progress(f"{what}, {name}", done, total)


def _without_rows(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_rows(item) for key, item in value.items() if key != "rows"}
