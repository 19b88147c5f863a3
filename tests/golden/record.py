"""The golden record: what a checkout of earlyfusion does, to be compared with what another one does.

    python tests/golden/record.py --tree ../before/earlyfusion --out records/old
    python tests/golden/record.py --tree . --out records/new
    python tests/golden/record.py --compare records/old records/new

--tree is the folder that holds a checkout called `earlyfusion`, or a checkout of any name. Each section runs
in a process of its own that can import that tree alone. --sections takes some of them, to record (the others
of a record stay) or to compare. Two trees agree when each part is exact; --tolerance allows floats to differ
by so much. A record belongs to its machine: floats, and codes that hang on them, differ from one to another.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ABOUT = "about.json"
NAMES = ("generation", "documents", "shards", "trainings", "chameleon", "commands")


def main() -> int:
    """Record, or compare; 1 where a section failed or a part differs."""
    if sys.argv[1:2] == ["--command"]:  # from a section: the tree's command line
        import golden_adapter

        check_tree()
        return golden_adapter.main(sys.argv[2:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tree", type=Path, help="the checkout, or the folder that holds it")
    parser.add_argument("--out", type=Path, help="folder to write")
    parser.add_argument("--sections", default=",".join(NAMES), help="default: all (%(default)s)")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two records")
    parser.add_argument("--tolerance", type=float, default=0.0, help="of floats; default: none")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="differences of a part (default: 3)")
    parser.add_argument("--section", help=argparse.SUPPRESS)  # of the process that records it
    args = parser.parse_args()
    sections = args.sections.split(",")
    if unknown := [name for name in sections if name not in NAMES]:
        parser.error(f"unknown section {unknown[0]!r}; known are {', '.join(NAMES)}")
    if args.compare:
        first, second = args.compare
        return compare(first, second, args.tolerance, sections, args.show)
    if args.section:
        return record_section(args.section, args.out)
    if args.tree is None or args.out is None:
        parser.error("give --tree and --out, or --compare A B")
    return record(args.tree.resolve(), args.out.resolve(), sections)


# recording


def record(tree: Path, out: Path, sections: list[str]) -> int:
    """Run each section with nothing but ``tree`` to import; 1 where one failed."""
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
            began, cpu = time.perf_counter(), _cpu_seconds()
            command = [sys.executable, str(Path(__file__).resolve()), "--section", name, "--out", str(out)]
            code = subprocess.run(command, cwd=work, env=environment).returncode
            seconds = round(time.perf_counter() - began, 1)
            cpu = round(_cpu_seconds() - cpu, 1)
            print(f"{name}: {'FAILED' if code else 'recorded'} in {seconds} s, {cpu} s of a CPU", flush=True)
            times = {"seconds": seconds, "cpu_seconds": cpu}
            about["sections"][name] = {**times, "commit": commit, "failed": bool(code)}
            failed += [name] if code else []
            shutil.rmtree(work, ignore_errors=True)
            (out / ABOUT).write_text(json.dumps(about, indent=1))
    total, cpu = (sum(about["sections"][name][of] for name in sections) for of in ("seconds", "cpu_seconds"))
    print(
        f"{out}: {len(sections)} sections in {total:.0f} s, {cpu:.0f} s of a CPU"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def _cpu_seconds() -> float:
    """What the processes that ended took of a CPU; the clock says more on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def alone(tree: Path, scratch: str) -> tuple[Path, dict[str, str]]:
    """The checkout at ``tree``, and the environment of processes that can import it and no other: one thread,
    no network, and caches in ``scratch``."""
    checkout = tree if (tree / "__init__.py").is_file() else tree / "earlyfusion"
    if not (checkout / "__init__.py").is_file():
        raise SystemExit(f"{tree} is no checkout of earlyfusion, and holds none")
    parent = checkout.parent
    if checkout.name != "earlyfusion":  # imported under that name whatever it is called
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
        "PYTHONDONTWRITEBYTECODE": "1",  # the tree is left as it is
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
        "COLUMNS": "100",
    }


def commit_of(checkout: Path) -> str:
    """The commit, and whether files were changed since."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True)
        return run.stdout.strip()

    return git("rev-parse", "HEAD") + (" and changes" if git("status", "--porcelain", "-uno") else "")


def check_tree() -> str:
    """The file of the package that is imported. It is the tree's, or nothing is recorded."""
    import golden_adapter

    golden_adapter.forget_installed_checkouts()
    expected, found = Path(os.environ["GOLDEN_TREE"]).resolve(), golden_adapter.package_folder()
    if found.resolve() != expected:
        raise SystemExit(f"{found} would be recorded in the place of {expected}")
    return str(found / "__init__.py")


def record_section(name: str, out: Path) -> int:
    """Run a section and write its parts; 1 where it failed."""
    print(f"{name}: {check_tree()}", flush=True)
    import golden_adapter
    import golden_sections
    import torch

    torch.set_num_threads(1)
    for path in out.glob(f"{name}--*"):
        path.unlink()
    try:
        parts = golden_sections.SECTIONS[name](Path.cwd())
    except Exception:
        traceback.print_exc()
        return 1
    if elsewhere := golden_adapter.loaded_from_elsewhere():
        print(f"{name}: modules of another tree were imported: {elsewhere}", file=sys.stderr)
        return 1
    for part, values in parts.items():
        write_part(out / f"{name}--{part.replace(' ', '-')}", values)
    return 0


def write_part(stem: Path, values: dict[str, Any]) -> None:
    """Write STEM.npz with the arrays among the values, and STEM.json with the others."""
    import numpy as np

    arrays = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
    facts = {key: value for key, value in values.items() if key not in arrays}
    if facts or not arrays:
        stem.with_suffix(".json").write_text(json.dumps(facts) + "\n")
    if arrays:  # np.savez would take their names for those of files
        names = {f"a{number}": key for number, key in enumerate(arrays)}
        stored: Any = {short: arrays[key] for short, key in names.items()}
        np.savez_compressed(stem.with_suffix(".npz"), names=np.array(json.dumps(names)), **stored)


# comparing


def compare(a: Path, b: Path, tolerance: float = 0.0, sections: Sequence[str] = NAMES, show: int = 3) -> int:
    """Print a line for each part, and its first differences; 1 where one differs or is missing."""
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
        parts = sorted({path.stem for folder in (a, b) for path in folder.glob(f"{section}--*")})
        for part in parts:
            different += _compare_part(part, _read(a, part), _read(b, part), tolerance, show)
    print("the records are the same" if not different else f"{different} parts differ")
    return 1 if different else 0


def _read(folder: Path, part: str) -> dict[str, Any]:
    """Values by name: arrays, and what JSON held, down to its lists and numbers."""
    import numpy as np

    values: dict[str, Any] = {}
    if (file := folder / f"{part}.json").is_file():
        _flatten("", json.loads(file.read_text()), values)
    if (file := folder / f"{part}.npz").is_file():
        with np.load(file) as stored:
            names = json.loads(str(stored["names"]))
            values |= {key: stored[short] for short, key in names.items()}
    return values


def _flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    """Dictionaries, and lists that hold some, become names."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            _flatten(f"{name}/{key}" if name else key, one, into)
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        into[f"{name}/length"] = len(value)
        for number, one in enumerate(value):
            _flatten(f"{name}/{number}", one, into)
    else:
        into[name] = value


def _compare_part(part: str, a: dict[str, Any], b: dict[str, Any], tolerance: float, show: int) -> int:
    """One line about a part, and some more where it differs: 1 then."""
    wrong: list[str] = []
    largest = 0.0
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in a or name not in b:
            wrong.append(f"{name}: only in {'A' if name in a else 'B'}")
            continue
        found, far = _difference(a[name], b[name], tolerance)
        largest = max(largest, far)
        if found:
            wrong.append(f"{name}: {found}")
    label = part.replace("--", ": ", 1)
    if not wrong:
        kind = "exact" if largest == 0 else f"within {tolerance:g}, at most {largest:.3g} apart"
        print(f"{label:34} {kind}, {len(a)} values, digest {_digest(a)}")
        return 0
    apart = f"; numbers at most {largest:.3g} apart" if largest else ""
    print(f"{label:34} DIFFERENT in {len(wrong)} of {len(a.keys() | b.keys())} values{apart}")
    for line in wrong[:show]:
        print(f"    {line}")
    return 1


def _difference(a: Any, b: Any, tolerance: float) -> tuple[str, float]:
    """How two values differ, "" where they do not, and how far numbers are apart."""
    import numpy as np

    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{a.dtype} {a.shape} and {b.dtype} {b.shape}", 0.0
        if a.tobytes() == b.tobytes():
            return "", 0.0
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        far = np.where(same, 0.0, np.abs(x - y))
        apart = float(np.nan_to_num(far, nan=np.inf).max(initial=0.0))
        if a.dtype.kind == "f" and apart <= tolerance:
            return "", apart
        places = np.argwhere(~same)
        if not len(places):  # 0.0 and -0.0, or NaNs of other bits
            return "equal numbers of other bits", 0.0
        place = tuple(places[0].tolist())
        return f"{len(places)} of {a.size} differ, first at {list(place)}: {a[place]} and {b[place]}", apart
    if a == b and type(a) is type(b):
        return "", 0.0
    if isinstance(a, list) and isinstance(b, list):
        for number, (one, other) in enumerate(zip(a, b)):
            if one != other:
                return (
                    f"lengths {len(a)} and {len(b)}, first at {number}: {_short(one)} and {_short(other)}",
                    0.0,
                )
        return f"lengths {len(a)} and {len(b)}", 0.0
    return f"{_short(a)} and {_short(b)}", 0.0


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _digest(values: dict[str, Any]) -> str:
    """Of all values of a part."""
    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(values):
        value = values[name]
        digest.update(name.encode())
        digest.update(value.tobytes() if isinstance(value, np.ndarray) else json.dumps(value).encode())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
