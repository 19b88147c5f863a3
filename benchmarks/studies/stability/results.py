"""Read cells.csv and the time series: sweeps over learning rates, and their LR sensitivity."""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from grid import LEARNING_RATES, Cell

from earlyfusion.storage.files import write_text

CURVES = ("loss", "output_norm", "attention_logit", "log_z")
KEPT = (*CURVES, "output_norm_text", "output_norm_image", "row_norm_text", "row_norm_image", "grad_norm")
"""Columns of series.csv."""
Point = dict[str, float]


@dataclass(frozen=True)
class Sweep:
    """One recipe on one stream: all its learning rates and seeds."""

    recipe: str
    stream: str
    rows: list[dict[str, str]]

    @property
    def seeds(self) -> list[int]:
        """The seeds with at least one row."""
        return sorted({int(row["seed"]) for row in self.rows})

    @property
    def rates(self) -> list[float]:
        """The learning rates, ascending."""
        return sorted({float(row["lr"]) for row in self.rows})

    def losses(self, seed: int) -> dict[float, float]:
        """Learning rate -> min(final, initial validation loss); the initial loss if a cell did not finish."""
        out: dict[float, float] = {}
        for row in self.rows:
            if int(row["seed"]) == seed:
                final, initial = number(row["loss"]), number(row["initial_loss"])
                out[float(row["lr"])] = min(final, initial) if math.isfinite(final) else initial
        return out

    def sensitivity(self, seed: int) -> float:
        """Wortsman et al.'s LR sensitivity (arXiv:2309.14322, section 2.2), in nats.

        The mean over learning rates of min(loss, initial loss), minus the smallest loss; NaN until all
        learning rates are there.
        """
        losses = self.losses(seed)
        if set(losses) < set(LEARNING_RATES):
            return math.nan
        return sum(losses.values()) / len(losses) - min(losses.values())

    def of_learned(self, seed: int) -> float:
        """The LR sensitivity as a fraction of what is learned at the best learning rate.

        Streams differ in how much there is to learn.
        """
        initial = number(next(row["initial_loss"] for row in self.rows if int(row["seed"]) == seed))
        return self.sensitivity(seed) / (initial - self.best(seed)[1])

    def best(self, seed: int) -> tuple[float, float]:
        """(learning rate, loss) of the smallest loss."""
        return min(self.losses(seed).items(), key=lambda item: item[1])

    def over_seeds(self, value: Callable[[int], float]) -> list[float]:
        """``value(seed)`` of each seed, without NaN."""
        return [v for seed in self.seeds if math.isfinite(v := value(seed))]


def read(cells: Path) -> dict[tuple[str, str], Sweep]:
    """(recipe, stream) -> its rows, in order of first appearance.

    Raises:
        ValueError: There are no rows yet.
    """
    found: dict[tuple[str, str], Sweep] = {}
    for row in _lines(cells):
        name = row["recipe"], row["stream"]
        found.setdefault(name, Sweep(*name, [])).rows.append(row)
    if not found:
        raise ValueError(f"{cells} has no rows yet: run `study.py run` first")
    return found


def gather(sweeps: dict[tuple[str, str], Sweep], folder: Path, path: Path) -> None:
    """Write every second point of the time series of seed 0 to one file, ``path``.

    For cells whose series are not in ``folder``, the file keeps its lines.
    """
    about = ("recipe", "stream", "lr")
    before: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for line in _lines(path):
        before.setdefault(tuple(line[name] for name in about), []).append(line)
    lines: list[dict[str, str]] = []
    for row in (row for sweep in sweeps.values() for row in sweep.rows if row["seed"] == "0"):
        of = {name: row[name] for name in about}
        points = _lines(folder / Cell.of_row(row).file)[::2]
        new = [{**of, "step": p["step"], **{name: p.get(name, "") for name in KEPT}} for p in points]
        lines += new or before.get(tuple(of.values()), [])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*about, "step", *KEPT], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def read_series(path: Path) -> dict[tuple[str, str, float], list[Point]]:
    """(recipe, stream, learning rate) -> points."""
    curves: dict[tuple[str, str, float], list[Point]] = {}
    for line in _lines(path):
        key = line["recipe"], line["stream"], float(line["lr"])
        curves.setdefault(key, []).append({name: number(line[name]) for name in ("step", *KEPT)})
    return curves


def _lines(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rank_correlation(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Spearman's; equal values share their mean rank. NaN if all values of a side are equal."""
    first, second = (
        [sum(x < y for x in side) + sum(x == y for x in side) / 2 for y in side] for side in (one, other)
    )
    if len(set(first)) == 1 or len(set(second)) == 1:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def number(text: str | None) -> float:
    """Parse a number; NaN if it is missing."""
    return float(text or "nan")


def spread(values: list[float]) -> tuple[float, float, float]:
    """Minimum, mean and maximum."""
    if not values:
        return math.nan, math.nan, math.nan
    return min(values), sum(values) / len(values), max(values)


def mean_and_range(values: list[float], digits: int = 2) -> str:
    """The mean as text, with the range if there are several values."""
    low, mean, high = spread(values)
    if math.isnan(mean):
        return ""
    return f"{mean:.{digits}f}" + (f" ({low:.{digits}f}-{high:.{digits}f})" if len(values) > 1 else "")
