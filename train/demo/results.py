"""The figures of a demo, gathered from its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...data.prepare import RECORD
from ...fusion_lm.folder import load_model
from ...storage.files import read_json
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.text import TextTokenizer
from .corpus import CorpusConfig
from .corpus_files import NEW_FONTS, PICTURES, TRAIN, VALIDATION, WORDS

MEASURED = {"reconstruction": (WORDS, NEW_FONTS, PICTURES), "reading": (WORDS, NEW_FONTS)}
"""What ``evaluation/`` holds beside the writing: WHAT-NAME.json."""


def collect(folder: Path, done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All figures of a run, without the rows of single items.

    Args:
        folder: The run's folder.
        done: What stages.json holds.
    """
    image = ImageTokenizer.load(folder / "image-tokenizer" / "model")
    drawing = done["samples"]
    return {
        "stages": [{"name": name, "seconds": stage["seconds"]} for name, stage in done.items()],
        "seconds": sum(stage["seconds"] for stage in done.values()),
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in done.values()),
        "corpus": done["corpus"]["counts"],
        "models": {
            "image_tokenizer_parameters": _size(image),
            "codebook_size": image.codebook_size,
            "factor": image.factor,
            "text_pieces": TextTokenizer.load(folder / "text-tokenizer").vocab_size,
            "lm_parameters": _size(load_model(folder / "model").lm),
            "vocab_size": read_json(folder / "tokens" / RECORD, "the record of prepare")["vocab_size"],
        },
        "drawing": {"named": drawing["named"], "items": drawing["items"]},
        **{what: {n: measured(folder, what, n) for n in names} for what, names in MEASURED.items()},
        "writing": _writing(folder),
    }


def one_word_share(config: CorpusConfig, counts: Mapping[str, int]) -> dict[str, float]:
    """The share of documents and of images that are one word in type, in training and in validation: the
    mixtures differ, and so do their losses.

    Args:
        config: What the corpus was made from.
        counts: What ``write_corpus`` returned.
    """
    words = {TRAIN: config.words, VALIDATION: min(config.validation, config.words)}
    each = {"images": 1, "documents": 2}  # a word is written in one document and read in another
    return {
        f"{part} {what}": n * times / counts[f"{part} {what}"]
        for part, n in words.items()
        for what, times in each.items()
    }


def measured(folder: Path, what: str, name: str, rows: bool = False) -> dict[str, Any]:
    """What ``earlyfusion eval WHAT`` wrote into the run's folder; ``rows`` keeps those of single items."""
    figures = read_json(folder / "evaluation" / f"{what}-{name}.json", f"the demo's {what}")
    return figures if rows else {key: value for key, value in figures.items() if key != "rows"}


def _writing(folder: Path) -> dict[str, Any]:
    """The writing beside its ceiling: what OCR reads in the same words in type, before and after the image
    tokenizer."""
    ceiling = measured(folder, "reconstruction", WORDS)["ocr_by_reader"]
    sides = ("original", "reconstruction")
    return {
        **measured(folder, "writing", WORDS),
        "ceiling": {reader: {side: scores[side] for side in sides} for reader, scores in ceiling.items()},
    }


def _size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
