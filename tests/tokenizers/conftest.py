"""A second implementation of Chameleon's image tokenizer, to compare with."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The speed script ``image_tokenizer``, which has a plain implementation of taming's network."""
    monkeypatch.syspath_prepend(SPEED)
    return importlib.import_module("image_tokenizer")
