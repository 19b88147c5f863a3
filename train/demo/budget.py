"""How much the demo generates, trains and measures: the YAML files of a folder.

``demo.yaml`` holds a ``Budget``; the files beside it are configs of the commands
``image-tokenizer fit``, ``prepare`` and ``lm fit``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from .corpus import CorpusConfig

CONFIGS = Path(__file__).with_name("configs")
"""The folders of the budgets that ``earlyfusion demo --budget`` offers."""
DEMO, IMAGE_TOKENIZER, PREPARE, LM = "demo.yaml", "image_tokenizer.yaml", "prepare.yaml", "lm.yaml"


@dataclass(frozen=True)
class Budget:
    """The contents of ``demo.yaml``: the numbers that only the demo uses."""

    corpus: CorpusConfig
    drawings: int
    """Pictures drawn from training names."""
    seconds: Mapping[str, float]
    """Expected seconds of each stage on two cores."""


def load_budget(folder: Path) -> Budget:
    """The budget of a folder."""
    values = settings(folder / DEMO)
    corpus: dict[str, Any] = values.pop("corpus")
    if "heights" in corpus:
        corpus["heights"] = tuple(corpus["heights"])
    return Budget(CorpusConfig(**corpus), **values)


def settings(file: Path) -> dict[str, Any]:
    """The values of a YAML file."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def plan(folder: Path) -> dict[str, Any]:
    """Everything in a folder that affects the result, as plain values."""
    budget = asdict(load_budget(folder))
    del budget["seconds"]
    files = (IMAGE_TOKENIZER, PREPARE, LM)
    return {"name": folder.name, **budget, **{Path(file).stem: settings(folder / file) for file in files}}
