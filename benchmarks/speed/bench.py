"""The speed of everything, in one table: `make bench`, at most ten minutes on two idle cores.

    .venv/bin/python benchmarks/speed/bench.py --out benchmarks/speed/bench.json
    .venv/bin/python benchmarks/speed/bench.py --quick --only busy

Runs training.py, decoding.py, image_tokenizer.py and busy.py with few runs. Each compares ours with
transformers in turns, in float32 and, if this CPU has instructions for it, in bfloat16. The table takes the
faster type of each side: its ratio is our best median divided by theirs. Weights in int8, which change the
numbers, do not take part. The documents have the lengths of the demo's, from runs/demo/tokens or else from
the quantiles in training.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import machine

from earlyfusion.tokenizers.vqvae.cpu import has_bfloat16

HERE = Path(__file__).parent


NAMES = {
    "equal": "full windows",
    "equal, compiled": "full windows, both compiled",
    "padded": "documents, theirs padded",
    "grouped": "documents, theirs sorted by length",
}
"""Rows of training.py in words."""


class Line(NamedTuple):
    """A line of the table: runs of both sides by type, more is faster."""

    name: str
    unit: str
    ours: dict[str, list[float]]
    theirs: dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    types = ["float32", "bfloat16"] if has_bfloat16() or args.quick else ["float32"]
    about = machine.facts() | {"threads": args.threads, "types": types}
    print("\n".join(f"{name:<9} {about[name]}" for name in ("machine", "cpus", "load", "threads", "commit")))
    lines: list[Line] = []
    for name in args.only:
        lines += list(PARTS[name](args, types))
    print(f"\n{'':<46}{'ours':>10}{'type':>18}{'theirs':>10}{'type':>18}{'ratio':>8}")
    rows = [row_of(line) for line in lines]
    for row in rows:
        (ours, kind), (theirs, other) = row["ours_best"], row["theirs_best"]
        print(
            f"{row['name']:<46}{ours:>10.3g}{kind:>18}{theirs:>10.3g}{other:>18}{row['ratio']:>8.2f}"
            f"  {row['unit']}"
        )
    if args.out:
        machine.write_figures(args.out, {**about, "results": rows})
    return 0


def parser() -> argparse.ArgumentParser:
    made = machine.described_parser(__doc__)
    add = made.add_argument
    add("--only", metavar="PART", nargs="*", choices=list(PARTS), default=list(PARTS), help="only these")
    add("--threads", metavar="N", type=int, default=os.cpu_count() or 1, help="threads of torch")
    add("--runs", metavar="N", type=int, default=3, help="runs per side (default: 3)")
    add("--quick", action="store_true", help="tiny networks, to check the scripts: the figures mean nothing")
    add("--out", metavar="FILE", help="JSON file to write")
    return made


def row_of(line: Line) -> dict[str, Any]:
    """A line with the best type of each side."""
    best = [
        max((statistics.median(runs), kind) for kind, runs in side.items())
        for side in (line.ours, line.theirs)
    ]
    return {**line._asdict(), "ours_best": best[0], "theirs_best": best[1], "ratio": best[0][0] / best[1][0]}


def training(args: argparse.Namespace, types: Sequence[str]) -> Iterator[Line]:
    """Full windows, eager and compiled, and documents."""
    settings = ["--size", "tiny", "--windows", "2"] if args.quick else []
    found = {
        kind: script(
            "training", args, *settings, "--runs", args.runs, "--steps", 1, "--compile", "--dtype", kind
        )
        for kind in types
    }
    for n, row in enumerate(found[types[0]]["results"]):
        sides = ({kind: found[kind]["results"][n][side] for kind in types} for side in ("ours", "theirs"))
        yield Line(f"training, {NAMES[row['name'].partition(', runs')[0]]}", "tokens/s", *sides)


def decoding(args: argparse.Namespace, types: Sequence[str]) -> Iterator[Line]:
    """Text, one row and eight, and guidance."""
    tiny = ["--size", "tiny", "--new", 4, "--prompt", 8, "--grid", 2, 2] if args.quick else []
    found = {}
    for kind in types:
        weights = ["float32", "float16"] if kind == "float32" else ["bfloat16"]
        common = [*tiny, "--runs", args.runs, "--dtype", kind, "--weights", *weights]
        found[kind] = script("decoding", args, *common)
    for batch in (1, 8):
        ours, theirs = {}, {}
        for kind, one in found.items():
            for row in one["results"]:
                if row["batch"] == batch and "theirs" in row:
                    theirs[kind] = row["theirs"]
                elif row["batch"] == batch:
                    name = kind if row["weights"] == "as they are" else f"{row['weights']}, packed"
                    ours[name] = row["ours"]
        yield Line(f"decoding, {batch} {'row' if batch == 1 else 'rows'}", "tokens/s", ours, theirs)
    guided, unguided = ({kind: one["image"][n] for kind, one in found.items()} for n in (1, 0))
    yield Line("a guided image, theirs: unguided", "codes/s", guided, unguided)


def image_tokenizer(args: argparse.Namespace, types: Sequence[str]) -> Iterator[Line]:
    """Encoding and decoding in all types, one line each."""
    size = 32 if args.quick else 256
    halves = ["--bfloat16-sizes", *([size] if "bfloat16" in types else [])]
    more = ["--channels", 32] if args.quick else []
    found = script("image_tokenizer", args, "--repeats", args.runs, "--sizes", size, *halves, *more)
    for row in found["results"]:
        name, kind = f"images, {row['name']}, {row['size']} x {row['size']}, {row['dtype']}", row["dtype"]
        yield Line(name, "images/s", {kind: row["ours"]}, {kind: row["theirs"]})


def busy(args: argparse.Namespace, types: Sequence[str]) -> Iterator[Line]:
    """A training step beside other processes."""
    tiny = ["--size", "tiny", "--steps", 2, "--others", 1] if args.quick else []
    rows = script("busy", args, *tiny)["results"]
    speeds = {(row["policy"], row["others"]): [1 / s for s in row["seconds"]] for row in rows}
    for (policy, others), runs in speeds.items():
        if policy == "package":
            theirs = {"libgomp": speeds["libgomp", others]}
            name = f"training step beside {others}, theirs: libgomp's waiting"
            yield Line(name, "steps/s", {policy: runs}, theirs)


def script(name: str, args: argparse.Namespace, *options: Any) -> dict[str, Any]:
    """What a script of this folder writes with these options; it prints to standard error."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [
            sys.executable,
            str(HERE / f"{name}.py"),
            "--threads",
            args.threads,
            *options,
            "--out",
            out,
        ]
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
        return json.loads(out.read_text(encoding="utf-8"))


PARTS = {"training": training, "decoding": decoding, "image_tokenizer": image_tokenizer, "busy": busy}
"""The parts of the table, in order."""


if __name__ == "__main__":
    sys.exit(main())
