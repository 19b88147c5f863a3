"""Draw the study's figures and print its means, from cells.csv and the time series (see study.py).

- sensitivity.png: loss against learning rate, a line per recipe, with its LR sensitivity; below, plain and
  default on the four streams. Lines are means over seeds, bands range from the best seed to the worst.
- norms.png: loss, output norm, largest attention logit and log Z over the steps, a column per learning rate.
- streams.png: the same for the plain recipe, a line per stream.
- divergence.png: when the loss of each cell rose or diverged.
- summary.csv: a row per recipe and stream.
- series.csv: the time series of seed 0, the data of norms.png and streams.png.
"""

import csv
import io
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from grid import DEFAULT, LEARNING_RATES, MIXED, PLAIN, QK_NORM, RECIPES, STREAMS
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from results import (
    CURVES,
    Point,
    Sweep,
    gather,
    mean_and_range,
    rank_correlation,
    read,
    read_series,
    spread,
)
from rich.console import Console
from rich.table import Table

from earlyfusion.storage.files import write_bytes, write_text

SERIES = "series.csv"
TITLES = {
    "loss": "training loss (nats)",
    "output_norm": "output norm",
    "attention_logit": "largest attention logit",
    "log_z": "log Z",
}
SHOWN_RATES = (3e-3, 3e-2, 3e-1)
LOOK: dict[str, tuple[str, str]] = {
    PLAIN: ("#d1491b", "s"),
    QK_NORM: ("#138a72", "^"),
    "+ re-ordered norms": ("#b8860b", "D"),
    "+ z-loss": ("#8b5fbf", "v"),
    "+ dropout": ("#8a8a8a", "P"),
    "+ soft-cap": ("#c2649a", "X"),
    DEFAULT: ("#1a5fb4", "o"),
    "Chameleon 7B": ("#5aa9e6", "<"),
    "Chameleon 34B": ("#1f7a8c", ">"),
}
STREAM_LOOK = dict(zip(STREAMS, ("#d1491b", "#8b5fbf", "#1a5fb4", "#138a72"), strict=True))
INK, PALE = "#222222", "#d9d9d9"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 9.5,
    "legend.frameon": False,
}


def plot(cells: Path, series: Path) -> None:
    """Draw all figures into the folder of ``cells`` and print the means.

    Args:
        cells: The table of results, cells.csv.
        series: Folder of the time series; for cells without one there, series.csv keeps its lines.

    Raises:
        ValueError: There are no rows yet.
    """
    sweeps, out = read(cells), cells.parent
    gather(sweeps, series, out / SERIES)
    curves = read_series(out / SERIES)
    with plt.rc_context(STYLE):
        draw_sensitivity(sweeps, out / "sensitivity.png")
        draw_norms(curves, out / "norms.png")
        draw_streams(curves, out / "streams.png")
        draw_divergence(sweeps, out / "divergence.png")
    write_summary(sweeps, out / "summary.csv")
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=130)
    print_means(sweeps, console)
    print_prediction(sweeps, curves, console)


# --- figures -----------------------------------------------------------------------------------------------


def draw_sensitivity(sweeps: dict[tuple[str, str], Sweep], path: Path) -> None:
    """Draw loss against learning rate: all recipes on the mixed stream, plain and default on each stream."""
    figure = plt.figure(figsize=(9.5, 7), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    above, below = parts
    panel = above.subplots()
    for recipe in RECIPES:
        _sweep(panel, sweeps.get((recipe, MIXED)), recipe)
    panel.set_title("mixed stream; the numbers are the LR sensitivity (nats)", loc="left")
    panel.set_ylabel("validation loss (nats)")
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for place, (stream, one) in enumerate(zip(STREAMS, below.subplots(1, len(STREAMS), sharex=True))):
        for recipe in (PLAIN, DEFAULT):
            _sweep(one, sweeps.get((recipe, stream)), recipe)
        one.set_title(stream, loc="left")
        if one.lines:
            one.margins(y=0.22)
            one.legend(loc="upper left", fontsize=7, borderaxespad=0)
        if place == 0:
            one.set_ylabel("validation loss (nats)")
        one.set_xlabel("learning rate")
    _save(figure, path)


def _sweep(panel: Any, sweep: Sweep | None, recipe: str) -> None:
    """Draw a line, the mean over seeds at each learning rate, and the band from best to worst seed."""
    panel.set_xscale("log")
    if sweep is None:
        return
    color, marker = LOOK[recipe]
    by_seed = [sweep.losses(seed) for seed in sweep.seeds]
    by_rate = [spread([losses[lr] for losses in by_seed if lr in losses]) for lr in sweep.rates]
    low, mean, high = zip(*by_rate, strict=True)
    sensitivity = mean_and_range(sweep.over_seeds(sweep.sensitivity))
    label = f"{recipe}: {sensitivity}" if sensitivity else recipe
    wide = 1.8 if recipe in (PLAIN, DEFAULT) else 1.1
    panel.plot(sweep.rates, mean, color=color, marker=marker, markersize=4, linewidth=wide, label=label)
    if len(by_seed) > 1:
        panel.fill_between(sweep.rates, low, high, color=color, alpha=0.15, linewidth=0)
    panel.grid(color=PALE, linewidth=0.5)


def draw_norms(curves: dict[tuple[str, str, float], list[Point]], path: Path) -> None:
    """Draw quantities over the steps: a row per quantity, a column per learning rate, a line per recipe."""
    recipes = (PLAIN, QK_NORM, "+ re-ordered norms", "+ z-loss", DEFAULT)
    lines = {recipe: (LOOK[recipe][0], recipe, MIXED) for recipe in recipes}
    _grid_of_curves(curves, lines, path)


def draw_streams(curves: dict[tuple[str, str, float], list[Point]], path: Path) -> None:
    """Draw the same for the plain recipe, a line per stream."""
    _grid_of_curves(curves, {stream: (STREAM_LOOK[stream], PLAIN, stream) for stream in STREAMS}, path)


def _grid_of_curves(
    curves: dict[tuple[str, str, float], list[Point]], lines: dict[str, tuple[str, str, str]], path: Path
) -> None:
    """``lines``: label -> (color, recipe, stream)."""
    shape = len(CURVES), len(SHOWN_RATES)
    figure, panels = plt.subplots(*shape, figsize=(9.5, 8.5), sharex=True, sharey="row", layout="constrained")
    for column, lr in enumerate(SHOWN_RATES):
        panels[0, column].set_title(f"learning rate {lr:g}", loc="left")
        panels[-1, column].set_xlabel("step")
        for row, name in enumerate(CURVES):
            panel = panels[row, column]
            panel.grid(color=PALE, linewidth=0.5)
            if name in ("output_norm", "attention_logit"):
                panel.set_yscale("log")
            if column == 0:
                panel.set_ylabel(TITLES[name])
            for label, (color, recipe, stream) in lines.items():
                points = [p for p in curves.get((recipe, stream, lr), []) if math.isfinite(p[name])]
                xs, ys = [p["step"] for p in points], [p[name] for p in points]
                panel.plot(xs, ys, color=color, linewidth=1.2, label=label)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(lines))
    _save(figure, path)


def draw_divergence(sweeps: dict[tuple[str, str], Sweep], path: Path) -> None:
    """Draw the loss above the recipe's best, and when the loss rose or the training diverged.

    A row per recipe and stream, a column per learning rate. Losses are means over seeds, steps the earliest.
    """
    names = [name for name in ((r, s) for s in STREAMS for r in RECIPES) if name in sweeps]
    figure, panel = plt.subplots(figsize=(10.5, 0.9 + 0.33 * len(names)), layout="constrained")
    worst = 1e-9
    values: dict[tuple[int, int], tuple[float, str]] = {}
    for y, name in enumerate(names):
        sweep = sweeps[name]
        least = {seed: sweep.best(seed)[1] for seed in sweep.seeds}
        for x, lr in enumerate(LEARNING_RATES):
            lost = [losses[lr] - least[s] for s in sweep.seeds if lr in (losses := sweep.losses(s))]
            if not lost:
                continue
            mean = sum(lost) / len(lost)
            rows = [row for row in sweep.rows if float(row["lr"]) == lr]
            text = f"{mean:.2f}"
            for column, sign in (("risen_at", "↑"), ("diverged_at", "✕")):
                if steps := [int(row[column]) for row in rows if row[column]]:
                    text += f"  {sign}{min(steps)}"
            values[y, x], worst = (mean, text), max(worst, mean)
    for (y, x), (mean, text) in values.items():
        shade = plt.get_cmap("OrRd")(0.85 * mean / worst)
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=shade, linewidth=0))
        ink = "white" if mean > 0.75 * worst else INK
        panel.text(x, y, text, ha="center", va="center", fontsize=8, color=ink)
    panel.set_xticks(range(len(LEARNING_RATES)), [f"{lr:g}" for lr in LEARNING_RATES])
    panel.set_yticks(range(len(names)), [r if s == MIXED else f"{r}, {s}" for r, s in names])
    panel.set_xlim(-0.5, len(LEARNING_RATES) - 0.5)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.tick_params(length=0)
    panel.set_xlabel("learning rate")
    panel.set_title(
        "nats lost against the best learning rate; ↑ step at which the loss rose, ✕ diverged", loc="left"
    )
    _save(figure, path)


# --- the means ---------------------------------------------------------------------------------------------


def write_summary(sweeps: dict[tuple[str, str], Sweep], path: Path) -> None:
    """Write a row per recipe and stream: best learning rate and loss, LR sensitivity in nats and as a
    fraction of what is learned at the best, with the spread over seeds."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    kinds = ("mean", "min", "max")
    figures = ("best_loss", "sensitivity", "sensitivity_of_learned")
    head = ["recipe", "stream", "seeds", "cells", "diverged", "risen", "best_lr"]
    writer.writerow([*head, *(f"{figure}_{kind}" for figure in figures for kind in kinds)])
    for sweep in sweeps.values():
        diverged, risen = (sum(bool(row[n]) for row in sweep.rows) for n in ("diverged_at", "risen_at"))
        rates = " ".join(dict.fromkeys(f"{sweep.best(seed)[0]:g}" for seed in sweep.seeds))
        row: list[Any] = [
            sweep.recipe,
            sweep.stream,
            len(sweep.seeds),
            len(sweep.rows),
            diverged,
            risen,
            rates,
        ]
        for values in (
            [sweep.best(seed)[1] for seed in sweep.seeds],
            sweep.over_seeds(sweep.sensitivity),
            sweep.over_seeds(sweep.of_learned),
        ):
            low, mean, high = spread(values)
            row += ["" if math.isnan(v) else f"{v:.4f}" for v in (mean, low, high)]
        writer.writerow(row)
    write_text(path, file.getvalue())


def print_means(sweeps: dict[tuple[str, str], Sweep], console: Console) -> None:
    """Print the same as a table, and default compared with plain."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (
        "stream",
        "recipe",
        "seeds",
        "best lr",
        "best loss",
        "LR sensitivity",
        "of learned",
        "diverged",
    ):
        table.add_column(name, justify="left" if name in ("stream", "recipe") else "right")
    for sweep in sorted(sweeps.values(), key=lambda one: list(STREAMS).index(one.stream)):
        diverged = sum(bool(row["diverged_at"]) for row in sweep.rows)
        table.add_row(
            *(sweep.stream, sweep.recipe, str(len(sweep.seeds))),
            " ".join(dict.fromkeys(f"{sweep.best(seed)[0]:g}" for seed in sweep.seeds)),
            mean_and_range([sweep.best(seed)[1] for seed in sweep.seeds], 3),
            mean_and_range(sweep.over_seeds(sweep.sensitivity)),
            mean_and_range(sweep.over_seeds(sweep.of_learned)),
            f"{diverged} of {len(sweep.rows)}",
        )
    console.print(table)
    for stream in STREAMS:
        plain, ours = sweeps.get((PLAIN, stream)), sweeps.get((DEFAULT, stream))
        if plain is None or ours is None:
            continue
        console.print(f"{stream}: default / plain", end="")
        (_, mean, most), (least, other, _) = (
            spread(one.over_seeds(one.sensitivity)) for one in (ours, plain)
        )
        if math.isfinite(mean) and math.isfinite(other):
            console.print(f", LR sensitivity {mean / other:.2f}", end="")
            console.print(f" (worst seed / best seed {most / least:.2f})", end="")
        best, other = (spread([one.best(seed)[1] for seed in one.seeds])[1] for one in (ours, plain))
        console.print(f", best loss {best:.3f} / {other:.3f} ({100 * (best / other - 1):+.1f} %)")


def print_prediction(
    sweeps: dict[tuple[str, str], Sweep], curves: dict[tuple[str, str, float], list[Point]], console: Console
) -> None:
    """Print how well a quantity after a quarter of the steps ranks the recipes by their final loss.

    Spearman's correlation within each learning rate, on the mixed stream, seed 0.
    """
    console.print(
        "rank correlation, over recipes, of a quantity after a quarter of the steps and the final loss"
    )
    for name in CURVES:
        found = []
        for lr in LEARNING_RATES:
            pairs = []
            for recipe in RECIPES:
                points, sweep = curves.get((recipe, MIXED, lr), []), sweeps.get((recipe, MIXED))
                losses = sweep.losses(0) if sweep else {}
                if points and lr in losses:
                    early = points[len(points) // 4][name]
                    pairs.append((early, losses[lr]))
            if len(pairs) > 4 and all(math.isfinite(early) for early, _ in pairs):
                found.append(f"{lr:g}: {rank_correlation(*zip(*pairs, strict=True)):+.2f}")
        console.print(f"  {TITLES[name]}: {', '.join(found) or 'too few cells yet'}")


def _save(figure: Any, path: Path) -> None:
    """Write the PNG atomically, without matplotlib's version, so that equal figures are equal files."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, png.getvalue())
