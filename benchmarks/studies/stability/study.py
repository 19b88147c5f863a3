"""When does early fusion become unstable, and which part of the recipe keeps it stable?

    .venv/bin/python benchmarks/studies/stability/study.py run --out runs/stability --jobs 2
    .venv/bin/python benchmarks/studies/stability/study.py plot --out runs/stability

A cell is a small transformer with one recipe, one learning rate and one stream of tokens (all are in
grid.py): 400 steps, under a minute on one core. ``run`` prepares the demo's windows, or takes ``--data``, and
trains each cell without a row in cells.csv, ``--jobs`` at a time with one thread each. Each adds its row when
it ends; run the same command again to resume, which loses only unfinished cells. ``list`` shows the cells
that are left. ``plot`` gathers the time series of seed 0 in series.csv, draws the figures and prints the
means.

Learning rates far above the best one cause early, in small models, the instabilities that large models have
late (Wortsman et al., arXiv:2309.14322). CPUs compute in float32 here; on a GPU add ``--precision
bf16-mixed``, and another ``--csv``.
"""

import argparse
import csv
import json
import multiprocessing
import os
import re
import signal
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from grid import BATCH, STEPS, Cell, cells

HERE = Path(__file__).parent
CSV = HERE / "cells.csv"
RECORD = "prepare.json"
PRECISIONS = ("32-true", "bf16-mixed")


def run(args: argparse.Namespace) -> None:
    """Train the cells that have no row yet.

    Raises:
        ValueError: The rows in ``args.csv`` were made with other settings.
    """
    data = prepared(args.data, args.out).absolute()
    key = json.loads((data / RECORD).read_text(encoding="utf-8"))["key"]
    settings = {"steps": args.steps, "batch": BATCH, "precision": args.precision, "data": key}
    done = rows(args.csv)
    check_settings(done, settings, args.csv)
    left = chosen(args, done)
    print(f"{len(left)} cells, {args.jobs} at a time", flush=True)
    if not left:
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # of the workers
    began, failed = time.monotonic(), 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, context, initializer=_begin) as pool:
        try:
            work = {}
            for cell in left:
                series = series_folder(args) / cell.file
                work[pool.submit(_train, cell, data, settings, series)] = cell
            for number, future in enumerate(as_completed(work), start=1):
                try:
                    row = future.result()
                except Exception as error:  # the next run tries this cell again
                    failed += 1
                    print(f"FAILED {work[future].key}: {type(error).__name__}: {error}", flush=True)
                    continue
                add_row({**row, **settings, "commit": commit()}, args.csv)
                outlook = (time.monotonic() - began) / number * (len(left) - number) / 60
                print(
                    f"[{number}/{len(left)}] {line_of(work[future], row)}, {outlook:.0f} min left", flush=True
                )
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():  # else the pool would wait for all cells
                worker.terminate()
            print("stopped; run the same command again to resume", flush=True)
            raise SystemExit(130) from None
    if failed:
        raise SystemExit(f"{failed} cells failed")


def prepared(data: Path | None, out: Path) -> Path:
    """The prepared folder ``data``; if it is None, run the demo's first four stages in ``out``/demo.

    Raises:
        FileNotFoundError: ``data`` is not a prepared folder.
    """
    folder = data or out / "demo/tokens"
    if (folder / RECORD).is_file():
        return folder
    if data is not None:
        raise FileNotFoundError(
            f"{folder / RECORD} not found: --data must be a folder of `earlyfusion prepare`"
        )
    from earlyfusion.cli.main import run_command
    from earlyfusion.train.demo.budget import CONFIGS
    from earlyfusion.train.demo.stages import Run, stages

    demo = Run(out / "demo", 0, CONFIGS / "full")
    for stage in stages(demo)[:4]:
        if stage.name != "image tokenizer" and all((demo.folder / name).exists() for name in stage.outputs):
            continue  # the training resumes where it stopped, or ends at once
        for step in stage.steps:
            step(demo) if callable(step) else run_command(step)
    return folder


def _begin() -> None:
    """Set up a worker: one thread; it exits when the command ends, for whatever reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the command decides
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    from earlyfusion.train.loop.process import tune_malloc

    tune_malloc()
    import torch

    torch.set_num_threads(1)


def _train(cell: Cell, data: Path, settings: dict[str, Any], series: Path) -> dict[str, Any]:
    from cell import train

    return train(cell, data, settings["steps"], settings["batch"], settings["precision"], series)


def chosen(args: argparse.Namespace, done: list[dict[str, str]]) -> list[Cell]:
    """The selected cells without a row."""
    keys = {Cell.of_row(row).key for row in done}
    parts = args.parts.split(",") if args.parts else None
    if unknown := set(parts or ()) - {cell.part for cell in cells()}:
        known = ", ".join(dict.fromkeys(cell.part for cell in cells()))
        raise ValueError(f"--parts names {', '.join(sorted(unknown))}, expected some of {known}")
    return [
        cell
        for cell in cells()
        if cell.key not in keys
        and (parts is None or cell.part in parts)
        and (args.only is None or re.search(args.only, cell.key))
    ]


def series_folder(args: argparse.Namespace) -> Path:
    """The folder of the time series of one table's cells."""
    return args.out / "series" / args.csv.stem


def check_settings(done: list[dict[str, str]], settings: dict[str, Any], path: Path) -> None:
    """Check that all rows of a file have the same data set, length and precision.

    Raises:
        ValueError: They differ from ``settings``.
    """
    for row in done:
        for name, value in settings.items():
            if row[name] != str(value):
                raise ValueError(f"{path} has rows with {name} {row[name]}, not {value}: give another --csv")


def rows(path: Path) -> list[dict[str, str]]:
    """The rows so far."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def add_row(row: dict[str, Any], path: Path) -> None:
    """Add a row; new columns come last."""
    new_row = {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}
    everything: list[dict[str, Any]] = [*rows(path), new_row]
    columns = list(dict.fromkeys(name for one in everything for name in one))
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(everything)
    os.replace(new, path)


def line_of(cell: Cell, row: dict[str, Any]) -> str:
    """A row as one line of text."""
    fate = f"diverged at step {row['diverged_at']}" if row["diverged_at"] is not None else "trained"
    figures = {name: row[name] for name in ("loss", "highest_output_norm", "highest_attention_logit")}
    return (
        f"{cell.key}: {fate}, "
        + ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        + (f", {row['seconds']:.0f} s")
    )


def commit() -> str:
    """The current commit."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return git.stdout.strip()


def show(args: argparse.Namespace) -> None:
    """Print the number of cells left, by part."""
    done = rows(args.csv)
    left = chosen(args, done)
    for part in dict.fromkeys(cell.part for cell in left):
        print(f"{part}: {sum(cell.part == part for cell in left)} cells")
    spent = [float(row["seconds"]) for row in done]
    each = f", {sum(spent) / len(spent):.0f} s each so far" if spent else ""
    print(f"{len(left)} cells left of {len(cells())}{each}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["run", "list", "plot"])
    parser.add_argument("--out", type=Path, default=Path("runs/stability"), help="working folder")
    parser.add_argument(
        "--data", type=Path, help="folder of `earlyfusion prepare` (default: prepare the demo's)"
    )
    parser.add_argument("--csv", type=Path, default=CSV, help="table of results")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time, one thread each (default: 2)")
    parser.add_argument("--parts", help="run only these parts, comma-separated")
    parser.add_argument("--only", metavar="REGEX", help="run only cells whose key matches")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="steps per cell; another number needs another --csv"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="default: 32-true")
    args = parser.parse_args(arguments)
    try:
        if args.command == "run":
            run(args)
        elif args.command == "list":
            show(args)
        else:
            from plot import plot

            plot(args.csv, series_folder(args))
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
