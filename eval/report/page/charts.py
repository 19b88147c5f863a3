"""Charts of curves as inline SVG: pure functions that return HTML."""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

from .html import color_class


class Series(NamedTuple):
    """A curve."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str = "text"
    """``text``, ``image``, ``structure`` or ``all``; other modalities share one color."""
    dashed: bool = False
    faint: bool = False

    @property
    def kind(self) -> str:
        """The classes of its line."""
        return color_class(self.color) + " dashed" * self.dashed + " faint" * self.faint


WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 46
"""Pixels of a chart, and of the margins around its curves."""


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "",
    log_y: bool = False,
    note: str = "",
    points: int = 240,
) -> str:
    """Curves over steps as an inline SVG with a legend; "" without points.

    Each curve holds its values as ``data-x`` and ``data-y``, which ``html_script`` shows on hover.

    Args:
        series: The curves.
        title: The caption.
        x_label: What the horizontal axis counts.
        y_label: Unit of the values.
        log_y: Whether the vertical axis is logarithmic; the caption says so.
        note: One or two sentences below the chart: what it shows.
        points: Most points of a curve; neighbors are averaged.
    """
    drawn = [s._replace(points=thinned(_finite(s.points, log_y), points)) for s in series]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return ""
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    x_low, x_high = min(xs), max(xs)
    y_marks = _log_ticks(min(ys), max(ys)) if log_y else _ticks(min(ys), max(ys))
    y_low, y_high = min([*y_marks, *ys]), max([*y_marks, *ys])
    warp: Callable[[float], float] = math.log if log_y else float

    def x_at(x: float) -> float:
        return LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        share = (warp(y) - warp(y_low)) / ((warp(y_high) - warp(y_low)) or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    svg = []
    for y in y_marks:
        svg.append(f'<path class="grid" d="M{LEFT} {y_at(y):.1f}H{WIDTH - RIGHT}"/>')
        svg.append(f'<text x="{LEFT - 6}" y="{y_at(y) + 5:.1f}" text-anchor="end">{_number(y)}</text>')
    for x in (x for x in _ticks(x_low, x_high) if x_low <= x <= x_high):
        svg.append(
            f'<text x="{x_at(x):.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{_number(x)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    svg.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    for s in drawn:
        line = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in s.points)
        steps, values = (" ".join(one) for one in zip(*((f"{x:.12g}", f"{y:.3g}") for x, y in s.points)))
        svg.append(f'<polyline class="{s.kind}" points="{line}" data-x="{steps}" data-y="{values}"/>')
        if len(s.points) == 1:  # a line of one point is invisible
            x, y = s.points[0]
            svg.append(
                f'<circle class="{color_class(s.color)}" cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3"/>'
            )
    legend = "".join(
        f'<span><i class="{s.kind}"></i>{escape(s.name)} <small>{s.points[-1][1]:.3g}</small></span>'
        for s in drawn
    )
    unit = ", ".join(part for part in (y_label, "logarithmic scale" if log_y else "") if part)
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)} <small>{escape(unit)}</small> '
        f'<small class="at" data-label="{escape(x_label)}" aria-live="polite"></small></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" aria-label="{escape(title)}">'
        f'{"".join(svg)}</svg><div class="legend">{legend}</div>{told}</figure>'
    )


def charts_grid(drawn: Iterable[str]) -> str:
    """Charts side by side, wrapping; empty ones are left out."""
    return f'<div class="charts">{"".join(chart for chart in drawn if chart)}</div>'


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most ``most`` points: neighbors are averaged; the last point keeps its place."""
    if len(points) <= most:
        return list(points)
    out = []
    for i in range(most):
        group = points[i * len(points) // most : (i + 1) * len(points) // most]
        out.append((group[-1][0], sum(y for _, y in group) / len(group)))
    return out


def _finite(points: Sequence[tuple[float, float]], positive: bool) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not positive)]


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from below ``low`` to above ``high``."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / wanted))
    step *= next((m for m in (1, 2, 5, 10) if span / (m * step) <= wanted), 10)
    return [i * step for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten (powers alone over many of them) around low..high."""
    few = math.log10(high / low) < 3
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in ((1, 2, 5) if few else (1,))]
    below = [t for t in ticks if t <= low * (1 + 1e-9)][-1:]
    return [t for t in ticks if low < t < high or t in below] + [t for t in ticks if t >= high][:1]


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
