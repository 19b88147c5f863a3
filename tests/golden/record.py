"""The golden record: the behavior of a checkout of earlyfusion, to compare with another checkout.

    python tests/golden/record.py --tree ../before/earlyfusion --out records/old
    python tests/golden/record.py --tree . --out records/new
    python tests/golden/record.py --compare records/old records/new

--tree is a checkout, or the folder of a checkout that is called `earlyfusion`. Each section (golden_NAME.py)
runs in a process that can import only that tree. --sections selects sections, to record them (the others in
the record stay) or to compare them. Two records agree if every part is exact; --tolerance lets floats differ
by that much. Records are from one machine: floats, and codes that depend on them, differ between machines.
"""

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ABOUT = "about.json"
SECTIONS = ("generation", "documents", "shards", "trainings", "chameleon", "commands")
SHOWN = 3
"""Most differences to print for a part."""


def main() -> int:
    """Record or compare; 1 if a section failed or a part differs."""
    if sys.argv[1:2] == ["--command"]:  # the tree's command line, run by a section
        import golden_adapter

        check_tree()
        return golden_adapter.main(sys.argv[2:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tree", type=Path, help="the checkout, or the folder that it is in")
    parser.add_argument("--out", type=Path, help="folder to write")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="default: all (%(default)s)")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two records")
    parser.add_argument("--tolerance", type=float, default=0.0, help="for floats; default: none")
    parser.add_argument("--section", help=argparse.SUPPRESS)  # in the process that records it
    args = parser.parse_args()
    sections = args.sections.split(",")
    if unknown := [name for name in sections if name not in SECTIONS]:
        parser.error(f"unknown section {unknown[0]!r}, expected some of {', '.join(SECTIONS)}")
    if args.compare:
        a, b = args.compare
        return compare(a, b, args.tolerance, sections)
    if args.section:
        return record_section(args.section, args.out)
    if args.tree is None or args.out is None:
        parser.error("give --tree and --out, or --compare A B")
    return record(args.tree.resolve(), args.out.resolve(), sections)


# recording


def record(tree: Path, out: Path, sections: list[str]) -> int:
    """Run each section in a process that can import only ``tree``; 1 if one failed."""
    out.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"sections": {}}
    if (out / ABOUT).is_file():
        about = json.loads((out / ABOUT).read_text())
    failed = []
    with tempfile.TemporaryDirectory(prefix="golden-") as scratch:
        checkout, environment = alone(tree, scratch)
        about |= {"tree": str(checkout), "python": sys.version.split()[0]}
        commit = commit_of(checkout)
        for name in sections:
            work = Path(scratch) / f"{name}-work"
            work.mkdir()
            began = time.perf_counter()
            command = [sys.executable, str(Path(__file__).resolve()), "--section", name, "--out", str(out)]
            code = subprocess.run(command, cwd=work, env=environment).returncode
            seconds = round(time.perf_counter() - began, 1)
            print(f"{name}: {'FAILED' if code else 'recorded'} in {seconds} s", flush=True)
            about["sections"][name] = {"seconds": seconds, "commit": commit, "failed": bool(code)}
            failed += [name] if code else []
            shutil.rmtree(work, ignore_errors=True)
            (out / ABOUT).write_text(json.dumps(about, indent=1))
    print(f"{out}: {len(sections)} sections" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def alone(tree: Path, scratch: str) -> tuple[Path, dict[str, str]]:
    """The checkout at ``tree``, and the environment of processes that can import no other: one thread, no
    network, and caches in ``scratch``."""
    checkout = tree if (tree / "__init__.py").is_file() else tree / "earlyfusion"
    if not (checkout / "__init__.py").is_file():
        raise SystemExit(f"no checkout of earlyfusion at {tree} or in it")
    parent = checkout.parent
    if checkout.name != "earlyfusion":  # the name that it is imported by
        parent = Path(scratch) / "tree"
        parent.mkdir()
        (parent / "earlyfusion").symlink_to(checkout)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EARLYFUSION_"))}
    return checkout, kept | {
        "PYTHONPATH": str(parent),
        "GOLDEN_TREE": str(checkout),
        "HF_HOME": f"{scratch}/hf",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",  # writes nothing into the tree
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
        "COLUMNS": "100",
    }


def commit_of(checkout: Path) -> str:
    """The commit, with "and changes" if the checkout is not clean."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True)
        return run.stdout.strip()

    return git("rev-parse", "HEAD") + (" and changes" if git("status", "--porcelain", "-uno") else "")


def check_tree() -> str:
    """The file of the imported package. Exits if that is not the tree's."""
    import golden_adapter

    forget_installed_checkouts()
    expected, found = Path(os.environ["GOLDEN_TREE"]).resolve(), golden_adapter.package_folder()
    if found.resolve() != expected:
        raise SystemExit(f"{found} would be recorded instead of {expected}")
    return str(found / "__init__.py")


def forget_installed_checkouts() -> None:
    """Remove the finder of `pip install -e`: it comes after PYTHONPATH, but has modules that a tree lacks."""
    mark = "__editable__"
    sys.meta_path[:] = [
        f for f in sys.meta_path if mark not in str(getattr(f, "__module__", type(f).__module__))
    ]
    sys.path_hooks[:] = [hook for hook in sys.path_hooks if mark not in str(getattr(hook, "__module__", ""))]
    sys.path[:] = [place for place in sys.path if mark not in place]
    sys.path_importer_cache.clear()


def record_section(name: str, out: Path) -> int:
    """Run a section in the working directory and write its parts; 1 if it failed."""
    print(f"{name}: {check_tree()}", flush=True)
    import torch

    torch.set_num_threads(1)
    for path in out.glob(f"{name}--*"):
        path.unlink()
    try:
        parts = getattr(importlib.import_module(f"golden_{name}"), name)()
    except Exception:
        traceback.print_exc()
        return 1
    for part, values in parts.items():
        write_part(out / f"{name}--{part.replace(' ', '-')}", values)
    return 0


def write_part(stem: Path, values: dict[str, Any]) -> None:
    """Write STEM.npz with the arrays among the values, and STEM.json with the others."""
    arrays = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
    facts = {key: value for key, value in values.items() if key not in arrays}
    if facts or not arrays:
        stem.with_suffix(".json").write_text(json.dumps(facts) + "\n")
    if arrays:  # np.savez would use the keys as file names
        names = {f"a{number}": key for number, key in enumerate(arrays)}
        stored: Any = {short: arrays[key] for short, key in names.items()}
        np.savez_compressed(stem.with_suffix(".npz"), names=np.array(json.dumps(names)), **stored)


# comparing


def compare(a: Path, b: Path, tolerance: float = 0.0, sections: Sequence[str] = SECTIONS) -> int:
    """Print a line for each part, with its first differences; 1 if one differs or is missing."""
    abouts = [json.loads((folder / ABOUT).read_text()) for folder in (a, b)]
    for folder, about in zip((a, b), abouts):
        commits = {run["commit"]: None for name, run in about["sections"].items() if name in sections}
        print(f"{folder}: {about['tree']}, commit {', '.join(commits) or 'unknown: nothing was recorded'}")
    different = 0
    for section in sections:
        runs = [about["sections"].get(section) for about in abouts]
        if any(run is None or run["failed"] for run in runs):
            print(f"{section}: MISSING or failed in one of the records")
            different += 1
            continue
        for part in sorted({path.stem for folder in (a, b) for path in folder.glob(f"{section}--*")}):
            different += _compare_part(part, _read(a, part), _read(b, part), tolerance)
    print("the records are the same" if not different else f"{different} parts differ")
    return 1 if different else 0


def _read(folder: Path, part: str) -> dict[str, Any]:
    """The values of a part by name: arrays, and numbers, strings and lists of them from JSON."""
    values: dict[str, Any] = {}
    if (file := folder / f"{part}.json").is_file():
        _flatten("", json.loads(file.read_text()), values)
    if (file := folder / f"{part}.npz").is_file():
        with np.load(file) as stored:
            names = json.loads(str(stored["names"]))
            values |= {key: stored[short] for short, key in names.items()}
    return values


def _flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    """Dictionaries, and lists that contain some, become names."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            _flatten(f"{name}/{key}" if name else key, one, into)
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        into[f"{name}/length"] = len(value)
        for number, one in enumerate(value):
            _flatten(f"{name}/{number}", one, into)
    else:
        into[name] = value


def _compare_part(part: str, a: dict[str, Any], b: dict[str, Any], tolerance: float) -> int:
    """Print a line about a part, and its first differences; 1 if there are any."""
    wrong: list[str] = []
    largest = 0.0
    for name in {**a, **b}:
        if name not in a or name not in b:
            wrong.append(f"{name}: only in {'A' if name in a else 'B'}")
            continue
        found, apart = _difference(a[name], b[name], tolerance)
        largest = max(largest, apart)
        if found:
            wrong.append(f"{name}: {found}")
    label = part.replace("--", ": ", 1)
    if not wrong:
        kind = "exact" if largest == 0 else f"within {tolerance:g}, at most {largest:.3g} apart"
        print(f"{label:34} {kind}, {len(a)} values")
        return 0
    apart = f"; numbers at most {largest:.3g} apart" if largest else ""
    print(f"{label:34} DIFFERENT in {len(wrong)} of {len({**a, **b})} values{apart}")
    for line in wrong[:SHOWN]:
        print(f"    {line}")
    return 1


def _difference(a: Any, b: Any, tolerance: float) -> tuple[str, float]:
    """How two values differ ("" if they do not), and how far their numbers are apart."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return _difference_of_arrays(a, b, tolerance)
    if a == b and type(a) is type(b):
        return "", 0.0
    if isinstance(a, list) and isinstance(b, list):
        first = next((n for n, (one, other) in enumerate(zip(a, b)) if one != other), None)
        where = "" if first is None else f", first at {first}: {a[first]!r:.160} and {b[first]!r:.160}"
        return f"lengths {len(a)} and {len(b)}{where}", 0.0
    return f"{a!r:.160} and {b!r:.160}", 0.0


def _difference_of_arrays(a: np.ndarray, b: np.ndarray, tolerance: float) -> tuple[str, float]:
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype} {a.shape} and {b.dtype} {b.shape}", 0.0
    if a.tobytes() == b.tobytes():
        return "", 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if same.all():  # 0.0 and -0.0, or other NaNs
        return "" if tolerance else "equal numbers of other bits", 0.0
    apart = float(np.nan_to_num(np.where(same, 0.0, np.abs(x - y)), nan=np.inf).max())
    if a.dtype.kind == "f" and apart <= tolerance:
        return "", apart
    place = tuple(np.argwhere(~same)[0].tolist())
    found = f"{(~same).sum()} of {a.size} differ, first at {list(place)}: {a[place]} and {b[place]}"
    return found, apart


if __name__ == "__main__":
    sys.exit(main())
