"""The list of bugs fits the tree, and the script tells a killed bug from one that survives."""

import ast
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants_run", Path(__file__).with_name("run.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def functions(name: str) -> set[str]:
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_bug_fits_the_tree(script: ModuleType) -> None:
    mutants = script.read_mutants()
    assert len(mutants) >= 80 and len({mutant["name"] for mutant in mutants}) == len(mutants)
    wanted = {"numerics", "data order", "resume", "distributed", "grammar", "sampling", "metrics", "security"}
    assert wanted <= {mutant["area"] for mutant in mutants}
    odd = []
    for mutant in mutants:
        text = (ROOT / mutant["file"]).read_text(encoding="utf-8")
        if (found := text.count(mutant["old"])) != 1:
            odd.append(f"{mutant['name']}: {mutant['old']!r} occurs {found} times in {mutant['file']}")
        ast.parse(text.replace(mutant["old"], mutant["new"]))
        for test in mutant["tests"] or [""]:
            file, _, function = test.partition("::")
            if not (ROOT / file).is_file() or function and function not in functions(file):
                odd.append(f"{mutant['name']}: {test or 'nothing'} is not a test")
    assert odd == []


@pytest.mark.slow
def test_bugs_are_killed_or_survive(script: ModuleType, tmp_path: Path, capsys) -> None:
    """A package of two functions, of which one is tested."""
    tree = tmp_path / "earlyfusion"
    tree.mkdir()
    (tree / "sums.py").write_text("def add(a, b):\n    return a + b\n\ndef double(a):\n    return a * 2\n")
    test = (
        "import sums\n\ndef test_add():\n    assert sums.add(2, 1) == 3\n\ndef test_wrong():\n    assert 0\n"
    )
    (tree / "test_sums.py").write_text(
        f"import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).parent))\n{test}"
    )
    good, bad = "test_sums.py::test_add", "test_sums.py::test_wrong"
    before = (tree / "sums.py").read_text()

    def state(old: str, new: str, *tests: str) -> str:
        mutant = {"name": "x", "area": "x", "file": "sums.py", "old": old, "new": new, "tests": list(tests)}
        found = script.mutated(tree, mutant, tmp_path / "log")["state"]
        assert (tree / "sums.py").read_text() == before
        return found

    assert state("a + b", "a - b", good) == "killed"
    assert state("a * 2", "a * 3", good) == "survived"
    assert state("a + b", "a +", good) == "killed"  # it cannot be imported
    assert state("a * 2", "a * 3", bad) == "broken"  # fails without the bug, too
    assert state("a * 2", "a * 3", "test_sums.py::test_nowhere") == "broken"
    with pytest.raises(ValueError, match="'a' occurs 5 times"):
        state("a", "b", good)


def test_nothing_that_ran_is_a_failure(script: ModuleType, tmp_path: Path) -> None:
    assert script.main(["--only", "no such area", "--results", str(tmp_path / "rows")]) == 1


def test_the_commit_chooses_some(script: ModuleType) -> None:
    mutants = script.read_mutants()
    some = script.choose(mutants, None, 5)
    assert len(some) == 5 and some == script.choose(mutants, None, 5)
    assert {mutant["area"] for mutant in script.choose(mutants, "grammar", None)} >= {"grammar"}
    slow = [
        {**mutants[0], "tests": [test]}
        for test in (
            "tests/train/loop/test_ranks.py",
            "tests/train/loop/test_ranks.py::test_each_window_once_an_epoch",
        )
    ]
    assert (
        script.choose(slow, None, None) == slow and script.choose([*slow, mutants[0]], None, 5) == mutants[:1]
    )
