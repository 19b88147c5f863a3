"""A second implementation of Chameleon's image tokenizer, as a witness."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The speed script ``image_tokenizer``: it has taming's network, written plainly over a state dict."""
    monkeypatch.syspath_prepend(SPEED)
    return importlib.import_module("image_tokenizer")
