"""The names in the root, and the old paths that work for one more release."""

import ast
import importlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import earlyfusion
from earlyfusion._moved import MOVED

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "lightning", "numpy", "PIL", "datasets", "jsonargparse", "sentencepiece")
README_PATHS = ("fusion_lm.folder", "fusion_lm.stream")
"""What the README of 0.1 imported: these have not moved."""


def python(*arguments: str) -> str:
    """The output of a fresh interpreter."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_quick_and_imports_nothing_heavy():
    code = f"""
import sys, time
before = time.process_time()
import earlyfusion
print(time.process_time() - before)
assert not set({HEAVY!r}) & set(sys.modules)
"""
    assert min(float(python("-c", code)) for _ in range(3)) < 0.05


@pytest.mark.parametrize("name", earlyfusion.__all__)
def test_every_name_can_be_imported(name):
    assert name in dir(earlyfusion)
    value = getattr(earlyfusion, name)
    assert value == getattr(earlyfusion, name)
    if name != "__version__":
        assert value.__module__.startswith("earlyfusion.") and value.__name__ == name


def test_types_and_python_have_the_same_names():
    body = ast.parse((ROOT / "__init__.py").read_text()).body
    (block,) = [node for node in body if isinstance(node, ast.If)]
    typed = {
        node.module: tuple(alias.name for alias in node.names)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    assert typed == earlyfusion._HOMES
    names = {name for names in earlyfusion._HOMES.values() for name in names}
    assert names | {"__version__"} == set(earlyfusion.__all__)


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match="'nothing'"):
        earlyfusion.nothing  # noqa: B018


@pytest.mark.parametrize(("old", "new"), [(old, new) for old in MOVED for new in MOVED[old].split()])
def test_a_module_that_moved_is_found_at_both_paths(old, new):
    module, there = (importlib.import_module(f"earlyfusion.{path}") for path in (old, new))
    owned = (k for k, v in vars(there).items() if getattr(v, "__module__", "") == there.__name__)
    name = next(owned, "") or next(k for k in vars(there) if k.isupper())  # choices has constants alone
    with pytest.warns(DeprecationWarning, match=re.escape(f"{old}.{name} is now in earlyfusion.")) as caught:
        assert getattr(module, name) is getattr(there, name)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.raises(AttributeError, match="'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("old", "names"),
    [
        ("eval.words", "random_strings Font held_out_fonts render_word"),
        ("train.data", "ImageData ImageBatch read_images"),
        ("train.lm", "FusionLMTraining targets_of is_sharded"),
        ("train.token_data", "TokenData Windows mixed"),
    ],
)
def test_a_module_that_was_divided_has_the_names_of_all_its_parts(old, names):
    module = importlib.import_module(f"earlyfusion.{old}")
    with pytest.warns(DeprecationWarning):
        assert all(callable(getattr(module, name)) for name in names.split())


def test_a_module_that_became_a_folder_is_still_a_folder():
    code = """
import sys, warnings
warnings.simplefilter("error")
from earlyfusion.eval.report.page import numbers
import earlyfusion.train.lm.settings
assert numbers.__name__ == "earlyfusion.eval.report.page.numbers"
assert "earlyfusion.eval.report.run" not in sys.modules
"""
    python("-c", code)


def test_paths_that_the_readme_showed_exist():
    assert all(find_spec(f"earlyfusion.{path}") for path in README_PATHS)


def test_the_old_entry_still_runs():
    done = subprocess.run(
        [sys.executable, "-m", "earlyfusion.train.cli", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("earlyfusion ")
    assert "DeprecationWarning" in done.stderr and "earlyfusion.cli.main" in done.stderr
