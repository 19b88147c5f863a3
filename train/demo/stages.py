"""The demo as a list of stages: commands that a user can type, and a few more steps."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ...eval.items import METADATA, Item, images_from_folder
from ...eval.metrics.ocr import readers
from ...eval.report.contact_sheet import contact_sheet
from ...eval.report.curves import read_metrics
from ...eval.report.figures import markdown
from ...eval.report.gallery import load_gallery, save_gallery
from ...eval.report.run import report as report_page
from ...fusion_lm.folder import load_model
from ...storage.files import atomic_folder, write_json, write_text
from ...tokenizers.image import ImageTokenizerConfig
from ...tokenizers.pixels import load_image
from ...tokenizers.progress import progress_bars
from .budget import IMAGE_TOKENIZER, LM, PREPARE, Budget, load_budget, settings
from .corpus_files import (
    DOCUMENTS,
    IMAGES,
    LARGE,
    NEW_FONTS,
    NEW_TYPE,
    PICTURES,
    TRAIN,
    VALIDATION,
    WORDS,
    write_corpus,
)
from .gallery import SHOWN, evaluation_gallery, sample_gallery
from .results import collect, measured, one_word_share

READER = "rapidocr"
"""The OCR engine. A second one, Tesseract, would take longer than the training."""


@dataclass
class Run:
    """A demo under way."""

    folder: Path
    seed: int
    configs: Path
    """Folder of the budget's YAML files."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Command, machine, versions."""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """stages.json: stage -> its results."""

    @property
    def budget(self) -> Budget:
        return load_budget(self.configs)

    @property
    def data(self) -> Path:
        """The corpus."""
        return self.folder / "data"

    def held_out(self, name: str, limit: int) -> list[Item]:
        """The first held-out images of one kind."""
        return images_from_folder(self.data / "held_out" / name, limit=limit).items


Command = list[str]
"""The words after ``earlyfusion``."""
Work = Callable[[Run], dict[str, Any]]
"""A step that is not a command: its docstring is printed, and its results are stored in stages.json."""


class Stage(NamedTuple):
    """A part of the demo that runs as a whole."""

    name: str
    outputs: tuple[str, ...]
    """Files and folders that it writes to the run's folder."""
    steps: tuple[Command | Work, ...]


def stages(run: Run) -> tuple[Stage, ...]:
    """All stages, in order."""
    return (
        Stage("corpus", ("data",), (corpus,)),
        Stage("text tokenizer", ("text-tokenizer",), (fit_text_tokenizer(run),)),
        Stage("image tokenizer", ("image-tokenizer",), (fit_image_tokenizer(run),)),
        Stage("documents to tokens", ("tokens",), (prepare(run),)),
        Stage("transformer", ("lm", "model"), (fit_lm(run), copy_model)),
        Stage("evaluation", ("evaluation",), (*evaluation(run), evaluation_pictures)),
        Stage("samples", ("samples",), (samples,)),
        Stage("report", ("results.json", "samples.png", "summary.md", "report.html"), (report,)),
    )


# the commands


def fit_text_tokenizer(run: Run) -> Command:
    """Train the text tokenizer; every letter is a token, so that the model can learn to spell."""
    return _command(
        "text-tokenizer fit",
        ("--input", run.data / DOCUMENTS / TRAIN),
        ("--column", "texts"),
        ("--vocab-size", 340),  # 256 bytes and the characters of the corpus need about 310
        ("--max-piece-length", 1),
        ("--out", run.folder / "text-tokenizer"),
    )


def fit_image_tokenizer(run: Run) -> Command:
    """Train the image tokenizer; like every training here, it resumes from its last checkpoint."""
    return _command(
        "image-tokenizer fit",
        ("--config", run.configs / IMAGE_TOKENIZER),
        ("--data.train", run.data / IMAGES / TRAIN),
        ("--data.validation", run.data / IMAGES / VALIDATION),
        ("--trainer.default_root_dir", run.folder / "image-tokenizer"),
        *((option, run.seed) for option in ("--seed_everything", "--data.seed", "--model.seed")),
        ("--ckpt_path", "last-or-new"),
    )


def prepare(run: Run) -> Command:
    """Turn documents into packed windows."""
    return _command(
        "prepare",
        ("--config", run.configs / PREPARE),
        ("--documents", run.data / DOCUMENTS / TRAIN),
        ("--validation", run.data / DOCUMENTS / VALIDATION),
        ("--text_tokenizer", run.folder / "text-tokenizer"),
        ("--image_tokenizer", run.folder / "image-tokenizer" / "model"),
        ("--out", run.folder / "tokens"),
        ("--seed", run.seed),
    )


def fit_lm(run: Run) -> Command:
    """Train the transformer."""
    return _command(
        "lm fit",
        ("--config", run.configs / LM),
        ("--data.path", run.folder / "tokens"),
        ("--trainer.default_root_dir", run.folder / "lm"),
        *((option, run.seed) for option in ("--seed_everything", "--data.seed")),
        ("--ckpt_path", "last-or-new"),
    )


def evaluation(run: Run) -> list[Command]:
    """Measure on held-out words, fonts and pictures; writes evaluation/WHAT-NAME.json."""
    held_out, reader = run.data / "held_out", ("--readers", READER)

    def measure(what: str, name: str, *options: tuple[Any, ...]) -> Command:
        out = run.folder / "evaluation" / f"{what}-{name}.json"
        return _command(f"eval {what}", (run.folder / "model",), *options, ("--out", out))

    def reconstruction(name: str, images: str, *options: tuple[Any, ...]) -> Command:
        images_of = ("--images", held_out / images)
        return measure("reconstruction", name, images_of, *options, ("--no-ceilings",))

    first, words = ("--limit", run.budget.corpus.reconstructions), held_out / WORDS / METADATA
    return [
        reconstruction(WORDS, WORDS, reader, first),
        reconstruction(NEW_FONTS, NEW_TYPE, reader),
        reconstruction(PICTURES, PICTURES, ("--readers", "none")),  # OCR finds lines in drawings
        measure("reading", WORDS, ("--images", held_out / WORDS)),
        measure("reading", NEW_FONTS, ("--images", held_out / NEW_FONTS)),
        measure("writing", WORDS, ("--words", words), reader, ("--seed", run.seed)),
    ]


def _command(name: str, *options: tuple[Any, ...]) -> Command:
    return [*name.split(), *(str(word) for option in options for word in option)]


# steps that are not commands


def corpus(run: Run) -> dict[str, Any]:
    """Render words and pictures, write documents, and hold out what is measured."""
    budget = run.budget
    factor = ImageTokenizerConfig(**settings(run.configs / IMAGE_TOKENIZER)["model"]["config"]).factor
    with progress_bars() as progress:
        counts = write_corpus(run.data, budget.corpus, run.seed, factor, progress)
    return {"counts": counts}


def copy_model(run: Run) -> dict[str, Any]:
    """Copy the model to model/."""
    with atomic_folder(run.folder / "model") as new:
        shutil.copytree(run.folder / "lm" / "model", new, dirs_exist_ok=True)
    return {}


def evaluation_pictures(run: Run) -> dict[str, Any]:
    """Draw the report's pictures of the measurements."""
    (reader,) = readers([READER])
    items = {name: run.held_out(name, 2 * SHOWN) for name in (WORDS, NEW_FONTS, LARGE, PICTURES)}
    readings = measured(run.folder, "reading", WORDS, rows=True)["rows"]
    model = load_model(run.folder / "model")
    gallery = evaluation_gallery(model, items, readings, reader, run.seed)
    save_gallery(run.folder / "evaluation" / "pictures", gallery)
    return {}


def samples(run: Run) -> dict[str, Any]:
    """Draw from training names, and continue documents."""
    budget = run.budget
    with progress_bars() as progress:
        gallery, drawings = sample_gallery(
            load_model(run.folder / "model"), budget.drawings, budget.corpus.picture_size, run.seed, progress
        )
    save_gallery(run.folder / "samples", gallery)
    named = sum(one["picture"] is not None and one["name"] == one["nearest_name"] for one in drawings)
    return {"named": named, "items": len(drawings)}


def report(run: Run) -> dict[str, Any]:
    """Write results.json, samples.png, summary.md and report.html."""
    results = {
        "budget": run.configs.name,
        "seed": run.seed,
        "folder": str(run.folder),
        **run.facts,
        **collect(run.folder, run.done),
        "one_word_share": one_word_share(run.budget.corpus, run.done["corpus"]["counts"]),
    }
    gallery = load_gallery(run.folder / "evaluation" / "pictures") | load_gallery(run.folder / "samples")
    sheets = {"samples": run.folder / "lm", "reconstructions": run.folder / "image-tokenizer"}
    gallery["progress"] = {name: step_sheets(folder / name) for name, folder in sheets.items()}
    curves = {
        "image_tokenizer": read_metrics(run.folder / "image-tokenizer"),
        "lm": read_metrics(run.folder / "lm"),
    }
    sheet = run.folder / ".samples.png"  # beside its final name, so that replacing it is one step
    contact_sheet(gallery).save(sheet, "PNG", optimize=True)
    sheet.replace(run.folder / "samples.png")
    write_text(run.folder / "summary.md", markdown(results))
    write_text(run.folder / "report.html", report_page(results, gallery, curves))
    write_json(run.folder / "results.json", results)
    return {}


def step_sheets(folder: Path) -> list[tuple[int, Image.Image]]:
    """The sheets of pictures that a training drew, with their steps (see ``train.callbacks.pictures``)."""
    return [
        (int(path.stem.removeprefix("step-")), load_image(path)) for path in sorted(folder.glob("step-*.png"))
    ]
