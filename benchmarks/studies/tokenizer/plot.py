"""Draw the study's figures and print its means, from cells.csv (see study.py).

    .venv/bin/python benchmarks/studies/tokenizer/plot.py --best "ours"

- rate_fidelity.png: bits per pixel against T-ACC, a point per recipe, with bars from its worst seed to its
  best, small points for single seeds. A recipe that would cover another one is moved slightly off its rate,
  unless it is on a curve. Recipes of part ``ladder`` only are left to the other figure.
- ladder.png: the rows of part ``ladder``, from the plain recipe to the default.
- summary.csv: a row per recipe, with mean, minimum and maximum over its seeds.

A recipe is all rows of one name. Without ``--best``, the best recipe of part ``leader`` is the one with the
smallest ``select_cer``, and likewise for the plain one: the two readers measure, they do not select.
"""

import argparse
import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox
from rich.console import Console
from rich.table import Table

from earlyfusion.storage.files import write_bytes, write_text

HERE = Path(__file__).parent
READERS = ("rapidocr", "tesseract")
FIGURES = ("rapidocr_t_acc", "tesseract_t_acc", "psnr", "codebook_usage", "cpu_seconds", "select_cer")
SAME_RATE = 0.02
"""Rates that differ by less than this share count as equal: FSQ's 2,000 codes beside VQ's 2,048."""
FAMILIES = {
    "plain recipe": ("#d1491b", "s"),
    "ours": ("#1a5fb4", "o"),
    "other quantizers": ("#b8860b", "^"),
    "several codes per position": ("#138a72", "D"),
    "ceilings": ("#5a5a5a", "X"),
}
"""Color and marker of each family; the markers distinguish them in gray, too."""
INK, PALE = "#222222", "#d9d9d9"
DASHES = (0, (4, 3))
STYLE: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


@dataclass(frozen=True)
class Recipe:
    """All rows of one name."""

    name: str
    rows: list[dict[str, str]]

    def values(self, column: str) -> list[float]:
        """The values of the seeds in this column; rows without a number are left out."""
        return [value for row in self.rows if math.isfinite(value := _number(row.get(column)))]

    def mean(self, column: str) -> float:
        """The mean over seeds; NaN if no row has a number."""
        values = self.values(column)
        return sum(values) / len(values) if values else math.nan

    @property
    def parts(self) -> set[str]:
        """The parts of the study its rows belong to."""
        return {row["part"] for row in self.rows}

    @property
    def bits(self) -> float:
        """Bits per pixel; NaN for a ceiling without a rate."""
        return self.mean("bits_per_pixel")

    @property
    def rated(self) -> bool:
        """Whether it is a point; the original, without a rate or with 24 bits per pixel, is a line."""
        return self.bits < 8

    @property
    def curve(self) -> str:
        """What the recipes of one curve share: the name up to " @ "."""
        return self.name.split(" @ ")[0]

    @property
    def plain(self) -> bool:
        """Whether it is the plain recipe, at any rate and with any learning rate."""
        return self.name.startswith("plain")

    @property
    def family(self) -> str:
        """Its key in ``FAMILIES``."""
        if "ceiling" in self.parts:
            return "ceilings"
        if self.plain:
            return "plain recipe"
        if self.name.startswith(("ours", "default")):
            return "ours"
        if max([1.0, *self.values("groups"), *self.values("residual")]) > 1:
            return "several codes per position"
        return "other quantizers"


def plot(best: str | None = None, cells: Path = HERE / "cells.csv", out: Path = HERE) -> None:
    """Draw the figures, write summary.csv and print the means.

    Raises:
        ValueError: There are no rows yet, or no recipe has the name ``best``.
    """
    recipes = read(cells)
    if best is not None and best not in recipes:
        raise ValueError(f"{cells} has no recipe {best!r}, expected one of {', '.join(recipes)}")
    ladder = [recipe for recipe in recipes.values() if "ladder" in recipe.parts]
    with plt.rc_context(STYLE):
        draw_rate_fidelity(list(recipes.values()), out / "rate_fidelity.png")
        if ladder:
            draw_ladder(ladder, out / "ladder.png")
    write_summary(list(recipes.values()), out / "summary.csv")
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=120)
    print_means(list(recipes.values()), console)
    print_ratio(recipes, best, console)


def read(cells: Path) -> dict[str, Recipe]:
    """The recipes by name, in the order of their first rows."""
    if not cells.exists():
        raise ValueError(f"{cells} not found: run `study.py run` first")
    recipes: dict[str, Recipe] = {}
    with cells.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            recipes.setdefault(row["name"], Recipe(row["name"], [])).rows.append(row)
    if not recipes:
        raise ValueError(f"{cells} has no rows yet: run `study.py run` first")
    return recipes


def by_rate(recipes: list[Recipe]) -> list[list[Recipe]]:
    """The recipes in groups of equal bits per pixel, the lowest rate first, those without a rate last."""
    groups: list[list[Recipe]] = []
    for recipe in sorted(recipes, key=lambda one: one.bits if math.isfinite(one.bits) else math.inf):
        if groups and _same_rate(groups[-1][0], recipe):
            groups[-1].append(recipe)
        else:
            groups.append([recipe])
    return groups


# --- rate and fidelity -------------------------------------------------------------------------------------


def draw_rate_fidelity(recipes: list[Recipe], path: Path) -> None:
    """Draw bits per pixel against T-ACC, a panel per reader."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.7), sharex=True, sharey=True)
    figure.subplots_adjust(left=0.065, right=0.99, top=0.9, bottom=0.115, wspace=0.13)
    recipes = [recipe for recipe in recipes if recipe.parts != {"ladder"}]
    rated = [recipe for recipe in recipes if recipe.rated]
    rates = [group[0].bits for group in by_rate(rated)]
    for reader, panel in zip(READERS, panels, strict=True):
        panel.set_xscale("log")
        panel.set_xlim(min(rates, default=1) / 1.35, max(rates, default=1) * 1.6)
        panel.xaxis.set_major_locator(FixedLocator(_apart(rates)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.2g}"))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel("bits per pixel")
        panel.set_ylabel(f"T-ACC as {reader} reads (%)", labelpad=3)
        panel.tick_params(labelleft=True, length=3)
        panel.grid(axis="y", color=PALE, linewidth=0.6)
        panel.set_axisbelow(True)
        column = f"{reader}_t_acc"
        highest = max((v for r in recipes for one in READERS for v in r.values(f"{one}_t_acc")), default=1)
        panel.set_ylim(-1.5, min(104, 100 * highest * 1.12 + 2))
        _draw_panel(figure, panel, [recipe for recipe in recipes if recipe.values(column)], column)
    shown = {recipe.family for recipe in recipes}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", markersize=6, label=family)
        for family, (color, marker) in FAMILIES.items()
        if family in shown
    ]
    figure.legend(handles=handles, loc="upper center", ncols=5, frameon=False, handletextpad=0.2)
    _save(figure, path)


def _draw_panel(figure: Any, panel: Any, recipes: list[Recipe], column: str) -> None:
    """Draw points, bars, curves and labels of one reader."""
    curves: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        if recipe.rated:
            curves.setdefault(recipe.curve, []).append(recipe)
    curves = {
        name: sorted(members, key=lambda one: one.bits)
        for name, members in curves.items()
        if len(members) > 1 and any("rate" in one.parts or "ceiling" in one.parts for one in members)
    }
    on_curve = {one.name for members in curves.values() for one in members}
    # The first ones keep their places and get their labels: curves, leaders, then by T-ACC.
    recipes = sorted(
        recipes,
        key=lambda one: (one.name not in on_curve, "leader" not in one.parts, -one.mean(column)),
    )
    places = _side_by_side(panel, [one for one in recipes if one.rated], on_curve, column)
    taken: list[Bbox] = []
    for recipe in recipes:
        color, marker = FAMILIES[recipe.family]
        low, mean, high = (100 * v for v in _spread(recipe.values(column)))
        if recipe.name not in places:
            panel.axhline(mean, color=color, linewidth=1, linestyle=DASHES, zorder=1)
            taken.append(_box(panel, panel.get_xlim()[0], mean, panel.get_xlim()[1], mean, 1))
            continue
        x = places[recipe.name]
        single = len(recipe.rows) == 1 and recipe.family != "ceilings"
        style = {"color": color, "markeredgecolor": "white", "markeredgewidth": 0.7}
        style["zorder"] = 2.8 if recipe.family == "ceilings" else 3
        panel.plot([x], [mean], marker, markersize=5 if single else 7, **style)
        if high > low:
            bar = {"ecolor": color, "elinewidth": 1.4, "capsize": 3.5, "capthick": 1.4, "zorder": 2.5}
            panel.errorbar(x, mean, [[mean - low], [high - mean]], fmt="none", **bar)
        taken.append(_box(panel, x, low, x, high, 5))
    for members in curves.values():
        color = FAMILIES[members[0].family][0]
        line = [(places[one.name], 100 * one.mean(column)) for one in members]
        dashes = DASHES if members[0].family == "ceilings" else "-"
        panel.plot(*zip(*line, strict=True), color=color, lw=1.4, linestyle=dashes, alpha=0.75, zorder=2)
        for (x0, y0), (x1, y1) in zip(line, line[1:], strict=False):
            steps = [i / 24 for i in range(25)]
            points = [(x0 ** (1 - t) * x1**t, y0 + (y1 - y0) * t) for t in steps]
            taken += [_box(panel, x, y, x, y, 2) for x, y in points]
    labeled: set[str] = set()
    for recipe in recipes:
        label, anchors = recipe.name, [recipe]
        if recipe.curve in curves:  # named once, at its upper end if there is room
            label, anchors = recipe.curve, curves[recipe.curve][::-1]
        if label in labeled or recipe.parts == {"plain"}:  # trials of its learning rate: color is enough
            continue
        labeled.add(label)
        left: float = panel.get_xlim()[0]
        points = [(places.get(one.name, left), 100 * one.mean(column)) for one in anchors]
        weight = "bold" if recipe.curve in curves else "normal"
        _label(figure, panel, label, points, taken, color=FAMILIES[recipe.family][0], fontweight=weight)


def _side_by_side(panel: Any, recipes: list[Recipe], fixed: set[str], column: str) -> dict[str, float]:
    """The position of each recipe on the x axis: its rate, or next to it if another one's bar is there.

    The ``fixed`` ones come first and keep their rates.
    """
    low_x, high_x = panel.get_xlim()
    low_y, high_y = panel.get_ylim()
    step = math.log(high_x / low_x) * 9 / panel.bbox.width * panel.figure.dpi / 72
    gap = (high_y - low_y) * 7 / panel.bbox.height * panel.figure.dpi / 72
    places: dict[str, float] = {}
    taken: list[tuple[float, float, float]] = []
    for recipe in recipes:
        low, _, high = (100 * v for v in _spread(recipe.values(column)))
        for k in range(2 * len(recipes) + 1):
            x = math.log(recipe.bits) + step * (-1) ** k * ((k + 1) // 2)
            if recipe.name in fixed or all(
                abs(x - x1) > 0.9 * step or low > h + gap or high < b - gap for x1, b, h in taken
            ):
                break
        taken.append((x, low, high))
        places[recipe.name] = math.exp(x)
    return places


NEAR = [(8, 0), (-8, 0), (0, 10), (0, -10), (6, 9), (-6, 9), (6, -9), (-6, -9)]
FAR = [(s * dx, t * dy) for dx in (14, 22, 34) for dy in (8, 16, 26, 36) for t in (1, -1) for s in (1, -1)]
"""Possible offsets of a label from its point, in typographic points; far ones get a thin line."""


def _label(
    figure: Any, panel: Any, text: str, points: list[tuple[float, float]], taken: list[Bbox], **style: Any
) -> None:
    """Write ``text`` next to one of the points, where it covers nothing; omit it if nothing is free."""
    renderer = figure.canvas.get_renderer()
    frame = panel.get_window_extent()
    scale = figure.dpi / 72
    for offsets, arrow in ((NEAR, None), (FAR, {"arrowstyle": "-", "color": style["color"], "lw": 0.6})):
        for point, (dx, dy) in ((point, offset) for point in points for offset in offsets):
            note = panel.annotate(text, point, (dx, dy), textcoords="offset points", arrowprops=arrow)
            note.set(va="center", ha="center" if dx == 0 else "left" if dx > 0 else "right", **style)
            note.set(fontsize=8.5, zorder=4)
            note.update_positions(renderer)
            box = Text.get_window_extent(note, renderer)  # an annotation's own would hold its line, too
            inside = box.x0 > frame.x0 and box.x1 < frame.x1 + 2 and box.y0 > frame.y0 and box.y1 < frame.y1
            wanted = [box]
            if arrow:
                x, y = panel.transData.transform(point)
                way = [(x + dx * scale * t, y + dy * scale * t) for t in (0.5, 0.625, 0.75, 0.875)]
                wanted += [Bbox.from_extents(x - 1, y - 1, x + 1, y + 1) for x, y in way]
            if inside and not any(one.overlaps(other) for one in wanted for other in taken):
                taken += wanted
                return
            note.remove()


def _box(panel: Any, x0: float, y0: float, x1: float, y1: float, margin: float) -> Bbox:
    """The box from one point of the data to another, in pixels, with a margin in points."""
    margin *= panel.figure.dpi / 72
    (left, bottom), (right, top) = panel.transData.transform([(x0, y0), (x1, y1)])
    return Bbox.from_extents(left - margin, bottom - margin, right + margin, top + margin)


def _apart(rates: list[float]) -> list[float]:
    """The rates that are far enough from each other for readable ticks."""
    ticks: list[float] = []
    span = math.log(rates[-1] / rates[0]) if rates else 0.0
    for rate in rates:
        if not ticks or math.log(rate / ticks[-1]) > 0.09 * span:
            ticks.append(rate)
    return ticks


# --- the ladder --------------------------------------------------------------------------------------------


def draw_ladder(recipes: list[Recipe], path: Path) -> None:
    """Draw T-ACC of both readers, a pair of bars per recipe, the first on top, a dot per seed."""
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.56 * len(recipes)), layout="constrained")
    highest = 0.0
    for reader, color, shift in zip(READERS, ("#4a7fb0", "#b3cee6"), (-0.19, 0.19), strict=True):
        for place, recipe in enumerate(recipes):
            values = [100 * value for value in recipe.values(f"{reader}_t_acc")]
            if not values:
                continue
            low, mean, high = _spread(values)
            y = place + shift
            highest = max(highest, high)
            axes.barh(y, mean, 0.36, color=color, label=reader if place == 0 else None)
            if len(values) > 1:
                axes.hlines(y, low, high, color=INK, linewidth=1)
                axes.plot(values, [y] * len(values), "o", color="white", markeredgecolor=INK, markersize=3.5)
            style = {"textcoords": "offset points", "va": "center", "fontsize": 8.5, "color": INK}
            axes.annotate(f"{mean:.0f}", (high, y), (6, 0), **style)
    axes.set_yticks(range(len(recipes)), [recipe.name for recipe in recipes])
    axes.set_ylim(len(recipes) - 0.45, -0.55)
    axes.set_xlim(0, highest * 1.06 or 1)
    axes.set_xlabel("T-ACC (%)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    _save(figure, path)


# --- the means ---------------------------------------------------------------------------------------------


def write_summary(recipes: list[Recipe], path: Path) -> None:
    """Write a row per recipe, in the order of the cells; missing figures are empty."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    kinds = ("mean", "min", "max")
    head = ["name", "part", "seeds", "bits_per_pixel"]
    writer.writerow([*head, *(f"{figure}_{kind}" for figure in FIGURES for kind in kinds)])
    for recipe in recipes:
        row = [recipe.name, " ".join(sorted(recipe.parts)), len(recipe.rows), _text(recipe.bits, 4)]
        for figure in FIGURES:
            low, mean, high = _spread(recipe.values(figure))
            row += [_text(value, 0 if figure == "cpu_seconds" else 4) for value in (mean, low, high)]
        writer.writerow(row)
    write_text(path, file.getvalue())


def print_means(recipes: list[Recipe], console: Console) -> None:
    """Print a table of means, best to worst for rapidocr within each rate, with the spread over seeds."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("bits/px", justify="right")
    table.add_column("recipe", overflow="fold")
    names = ("seeds", "rapidocr T-ACC", "tesseract T-ACC", "PSNR", "usage %", "select CER", "CPU s")
    for name in names:
        table.add_column(name, justify="right")
    for group in by_rate(recipes):
        group.sort(key=lambda one: -_or(one.mean("rapidocr_t_acc"), -1.0))
        for place, recipe in enumerate(group):
            table.add_row(
                _text(recipe.bits, 3) or "-",
                *[recipe.name, str(len(recipe.rows))],
                *(_percent(recipe.values(f"{reader}_t_acc")) for reader in READERS),
                _text(recipe.mean("psnr"), 2),
                _text(100 * recipe.mean("codebook_usage"), 1),
                _text(recipe.mean("select_cer"), 3),
                _text(recipe.mean("cpu_seconds"), 0),
                end_section=place == len(group) - 1,
            )
    console.print(table)


def print_ratio(recipes: dict[str, Recipe], best: str | None, console: Console) -> None:
    """Print the ratio of the best recipe's T-ACC to the plain one's: means over seeds, and the extremes."""
    leaders = [recipe for recipe in recipes.values() if "leader" in recipe.parts]
    plain = min((one for one in leaders if one.plain), key=_errors, default=None)
    others = [one for one in leaders if not one.plain and plain and _same_rate(one, plain)]
    winner = recipes[best] if best else min(others, key=_errors, default=None)
    if plain is None or winner is None:
        console.print("No ratio yet: part leader needs a plain recipe and another one at its bits per pixel.")
        return
    console.print(f"\n{winner.name} ({len(winner.rows)} seeds) / {plain.name} ({len(plain.rows)} seeds):")
    for reader in READERS:
        ours, theirs = (one.values(f"{reader}_t_acc") for one in (winner, plain))
        if not ours or not theirs:
            continue
        (low, mean, high), (least, middle, most) = _spread(ours), _spread(theirs)
        console.print(
            f"  T-ACC, {reader}: {100 * mean:.1f} % / {100 * middle:.1f} % = {_ratio(mean, middle)} "
            f"(worst seed / best seed {_ratio(low, most)}, best / worst {_ratio(high, least)})"
        )
    console.print(f"  PSNR: {winner.mean('psnr') - plain.mean('psnr'):+.2f} dB", end="")
    console.print(f"   CPU seconds: {_ratio(winner.mean('cpu_seconds'), plain.mean('cpu_seconds'))}")
    if not _same_rate(winner, plain):
        console.print(f"  NOT at equal rate: {winner.bits:.4f} and {plain.bits:.4f} bits per pixel")


# --- numbers -----------------------------------------------------------------------------------------------


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _spread(values: list[float]) -> tuple[float, float, float]:
    """Minimum, mean and maximum."""
    if not values:
        return math.nan, math.nan, math.nan
    return min(values), sum(values) / len(values), max(values)


def _same_rate(one: Recipe, other: Recipe) -> bool:
    if math.isnan(one.bits) or math.isnan(other.bits):
        return math.isnan(one.bits) and math.isnan(other.bits)
    return abs(one.bits - other.bits) <= SAME_RATE * min(one.bits, other.bits)


def _errors(recipe: Recipe) -> float:
    return _or(recipe.mean("select_cer"), math.inf)


def _or(value: float, instead: float) -> float:
    return value if math.isfinite(value) else instead


def _text(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _percent(values: list[float]) -> str:
    """The mean in percent, with the range over seeds."""
    low, mean, high = (100 * value for value in _spread(values))
    span = f" ({low:.1f}-{high:.1f})" if high > low else ""
    return f"{mean:.1f} %{span}" if values else ""


def _ratio(above: float, below: float) -> str:
    return f"{above / below:.2f}x" if below else "-"


def _save(figure: Any, path: Path) -> None:
    """Write the PNG atomically, without matplotlib's version, so that equal figures are equal files."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, png.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--best", help="recipe to compare with the plain one (default: the best)")
    plot(parser.parse_args().best)
