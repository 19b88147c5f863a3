"""How tests import a script of benchmarks/."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Import the script at a path below benchmarks/; it finds the scripts beside it.

    Afterwards the scripts are forgotten (several are called ``study``), and torch has its threads back.
    """
    threads, path = torch.get_num_threads(), list(sys.path)

    def load(name: str) -> ModuleType:
        sys.path.insert(0, str((BENCHMARKS / name).parent))
        return importlib.import_module(Path(name).stem)

    yield load
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if BENCHMARKS in Path(getattr(module, "__file__", None) or "/").parents:
            del sys.modules[name]
    torch.set_num_threads(threads)
