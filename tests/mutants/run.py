"""Put small bugs into a copy of the tree, one at a time, and see whether the tests find them.

    python tests/mutants/run.py                    all of mutants.toml, resuming runs/mutants.jsonl
    python tests/mutants/run.py --only grammar     those with a word in their name or area
    python tests/mutants/run.py --count 5          five without slow tests, which the commit chooses
    python tests/mutants/run.py --seconds 600      none begins after ten minutes; the same command resumes

A mutant is killed if one of its tests fails, and that test passes without the bug. Every mutant leaves a line
in the file of results; it runs again only if it, its file or its tests have changed. It forks, so it needs
Linux or macOS.
"""

import argparse
import ast
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "runs/mutants.jsonl"
HEAVY = ("torch", "datasets", "lightning.pytorch", "torchmetrics", "vector_quantize_pytorch", "sentencepiece")
"""Libraries that are imported once; processes for the single mutants are forked afterwards."""
LIMIT = 120
"""Seconds for the tests of one mutant; one that hangs counts as killed."""

Mutant = dict[str, Any]


def read_mutants() -> list[Mutant]:
    """The entries of mutants.toml."""
    return tomllib.loads((HERE / "mutants.toml").read_text(encoding="utf-8"))["mutant"]


def key(mutant: Mutant) -> str:
    """A hash of the mutant, of its file, and of its tests."""
    digest = hashlib.sha256(json.dumps(mutant, sort_keys=True).encode())
    for name in (mutant["file"], *(test.partition("::")[0] for test in mutant["tests"])):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Key -> the line of a mutant that has run."""
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["key"]: row for row in rows}


def has_slow_tests(mutant: Mutant) -> bool:
    """Whether one of its tests is marked as slow."""
    for test in mutant["tests"]:
        name, _, function = test.partition("::")
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (not function or node.name == function):
                if any(ast.unparse(mark).endswith("mark.slow") for mark in node.decorator_list):
                    return True
    return False


def choose(mutants: list[Mutant], only: str | None, count: int | None) -> list[Mutant]:
    """Those with ``only`` in their name or area; if ``count`` is given, so many without slow tests."""
    if only:
        mutants = [m for m in mutants if only in m["name"] or only in m["area"]]
    if count is None:
        return mutants
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    shuffled = random.Random(head.stdout).sample(mutants, len(mutants))
    return list(islice((mutant for mutant in shuffled if not has_slow_tests(mutant)), count))


def copy_tree(folder: Path) -> Path:
    """The files that git knows, and new ones that it does not ignore, in ``folder``/earlyfusion."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    tree = folder / "earlyfusion"
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    return tree


def run_tests(tree: Path, tests: list[str], limit: float, log: Path) -> int:
    """Pytest's exit code for ``tests`` in the package at ``tree``, run in a fork; -1 if it hangs."""
    child = os.fork()
    if not child:
        os.setpgrp()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree.parent)
        sys.path[:] = [str(tree.parent), *(p for p in sys.path if p not in (str(HERE), str(ROOT)))]
        code = 3
        try:
            import pytest

            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        finally:
            os._exit(code)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def mutated(tree: Path, mutant: Mutant, log: Path) -> dict[str, Any]:
    """Run one mutant; the tree is afterwards as it was. ``seconds`` are those of the processor."""
    file = tree / mutant["file"]
    text = file.read_text(encoding="utf-8")
    if (found := text.count(mutant["old"])) != 1:
        raise ValueError(
            f"{mutant['name']}: {mutant['old']!r} occurs {found} times in {mutant['file']}, not once"
        )
    begun = os.times()
    try:
        _write(file, text.replace(mutant["old"], mutant["new"]))
        code = run_tests(tree, mutant["tests"], LIMIT, log)
    finally:
        _write(file, text)
    state = "survived" if code == 0 else "broken"
    if code:
        # Failed, or the module cannot be imported, or the process crashed or hung: then all its tests count.
        failed = re.findall(
            r"^(?:FAILED|ERROR) (\S+?)(?: - |$)", log.read_text(errors="replace"), re.MULTILINE
        )
        found = failed or mutant["tests"]
        if run_tests(tree, found, LIMIT, log) == 0:
            state = "killed"
    now = os.times()
    spent = now.children_user + now.children_system - begun.children_user - begun.children_system
    return {"state": state, "code": code, "seconds": round(spent, 1)}


def _write(file: Path, text: str) -> None:
    """Write a module, and remove its bytecode, which Python takes for fresh if time and size are the same."""
    file.write_text(text, encoding="utf-8")
    for stale in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
        stale.unlink()


def run_all(mutants: list[Mutant], results: Path, seconds: float) -> Iterator[tuple[Mutant, dict[str, Any]]]:
    """Run what has not run yet, until ``seconds`` after the first, a line for each; yields all that ran."""
    known = read_results(results)
    keys = {mutant["name"]: key(mutant) for mutant in mutants}  # of the files that are copied now
    missing = [mutant for mutant in mutants if keys[mutant["name"]] not in known]
    yield from ((m, known[keys[m["name"]]]) for m in mutants if keys[m["name"]] in known)
    if not missing:
        return
    for name in HEAVY:
        importlib.import_module(name)
    assert "earlyfusion" not in sys.modules
    with tempfile.TemporaryDirectory(prefix="earlyfusion-mutants-") as folder:
        tree, log = copy_tree(Path(folder)), Path(folder) / "log"
        results.parent.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + seconds
        for mutant in missing:
            if time.monotonic() > end:
                return
            row = {"name": mutant["name"], **mutated(tree, mutant, log), "key": keys[mutant["name"]]}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if row["state"] == "broken":
                print(log.read_text(errors="replace")[-1500:], flush=True)
            yield mutant, row


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 if a bug survives that is not equivalent, its tests fail without it, or none ran."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="a word in the name or the area")
    parser.add_argument("--count", type=int, help="how many, chosen by the commit; none with slow tests")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when no more may begin")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    mutants = choose(read_mutants(), arguments.only, arguments.count)
    states: dict[str, int] = {}
    for mutant, row in run_all(mutants, arguments.results, arguments.seconds):
        state = row["state"]
        if state == "survived" and "equivalent" in mutant:
            state = "equivalent"
        states[state] = states.get(state, 0) + 1
        print(f"{state:10} {row['seconds']:6.1f} s  {mutant['area']}: {mutant['name']}", flush=True)
    counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    print(f"{sum(states.values())} of {len(mutants)} mutants ran: {counts}")
    return 1 if states.get("survived") or states.get("broken") or not states else 0


if __name__ == "__main__":
    sys.exit(main())
