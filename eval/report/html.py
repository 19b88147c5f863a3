"""Pages about images, text and tokens: pure functions that return HTML.

No scripts and no other files: images are data URIs, curves are inline SVG. Colors follow the reader's light
or dark setting. Text that is passed in is escaped here; captions and arguments named ``html`` are not.
"""

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

from PIL import Image

from .html_style import STYLE

SIDE = 256
"""Longer side of an enlarged image in px, about."""


class Part(NamedTuple):
    """A segment of a document."""

    content: str | Image.Image
    prompt: bool = False
    """Given, not written by the model."""


class Series(NamedTuple):
    """A curve."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str = "text"
    """``text``, ``image``, ``structure`` or ``all``; other modalities share one color."""
    dashed: bool = False


class TokenCell(NamedTuple):
    """A token of a strip."""

    kind: str
    """``structure``, or the name of a modality."""
    says: str
    detail: str = ""
    """What shows when it is pointed at."""
    level: float | None = None
    """Its probability, drawn as a bar."""
    block: int | None = None
    """The block (an image, ...) that it is a code of."""
    place: tuple[int, ...] | None = None
    """Its place there, such as row and column."""
    given: bool = False
    """Part of the prompt."""


class Card(NamedTuple):
    """A figure that stands at the top."""

    value: str
    label: str
    note: str = ""


def data_uri(image: Image.Image) -> str:
    """The image as a PNG in a URI."""
    file = io.BytesIO()
    gray = image.convert("L")
    image = gray if gray.convert("RGB").tobytes() == image.convert("RGB").tobytes() else image
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def picture(
    image: Image.Image,
    scale: int = 3,
    alt: str = "",
    title: str = "",
    uri: Callable[[Image.Image], str] = data_uri,
) -> str:
    """An image enlarged by a whole number, its pixels as squares; ``uri`` says where it is."""
    width, height = image.width * scale, image.height * scale
    alt = alt or f"image of {image.width} x {image.height} pixels"
    return (
        f'<img class="px" src="{uri(image)}" width="{width}" height="{height}" alt="{escape(alt)}" '
        f'title="{escape(title or alt)}">'
    )


def figure(html: str, caption: str = "", *, right: bool | None = None) -> str:
    """Pictures with a caption; ``right`` marks it as right or wrong."""
    kind = "" if right is None else f' class="{"right" if right else "wrong"}"'
    return f"<figure{kind}>{html}{f'<figcaption>{caption}</figcaption>' if caption else ''}</figure>"


def sheet(figures: Iterable[str], width: int = 0) -> str:
    """Figures side by side, wrapping; ``width`` gives all of them as many pixels at least."""
    style = f' style="--cell:{width}px"' if width else ""
    return f'<div class="sheet"{style}>{"".join(figures)}</div>'


def beside(images: Sequence[tuple[str, Image.Image]], scale: int = 3, *, stacked: bool = False) -> str:
    """Images side by side, or ``stacked``, each with its small label below; an empty label is left out."""
    cells = (
        f'<span class="labelled" style="width:{max(image.width * scale, 60)}px">'
        f"{picture(image, scale, title=name)}{f'<small>{escape(name)}</small>' if name else ''}</span>"
        for name, image in images
    )
    return f'<span class="{"stacked" if stacked else "beside"}">{"".join(cells)}</span>'


def mark(text: str, right: bool) -> str:
    """A text with a tick or a cross; an empty text is shown as such."""
    shown = f"<b>{escape(text)}</b>" if text.strip() else "<i>nothing</i>"
    return f'{shown} <span class="{"ok" if right else "no"}">{"✓" if right else "✗"}</span>'


def document(parts: Iterable[Part], scale: int = 3, uri: Callable[[Image.Image], str] = data_uri) -> str:
    """Text and images in their order; the prompt looks different from what was written.

    Args:
        scale: How much images are enlarged; 0: each to about ``SIDE`` px.
        uri: As for ``picture``; called once per image, in order.
    """
    out = []
    for part in parts:
        side = "given" if part.prompt else "made"
        if isinstance(part.content, str):
            out.append(f'<span class="said {side}">{escape(part.content)}</span>')
        else:
            enlarge = scale or max(1, SIDE // max(part.content.size))
            out.append(f'<span class="drawn {side}">{picture(part.content, enlarge, uri=uri)}</span>')
    return f'<div class="document">{"".join(out)}</div>'


def token_strip(cells: Iterable[TokenCell]) -> str:
    """Tokens as a row of cells, colored by modality; codes are bare and show their detail on hover.

    A page with a script can go further: each cell has its ``data-block`` and ``data-place`` ("row,column").
    """
    out = []
    for number, cell in enumerate(cells):
        written = cell.kind in ("structure", "text")
        says = escape(cell.says.replace(" ", "␣").replace("\n", "⏎")) if written else ""
        data = "" if cell.block is None else f' data-block="{cell.block}"'
        if cell.place is not None:
            data += f' data-place="{",".join(map(str, cell.place))}"'
        if cell.level is not None:
            data += f' style="--p:{cell.level:.3f}"'
        kind = _color(cell.kind) + (" given" if cell.given else "")
        detail = escape(cell.detail or cell.says)
        out.append(f'<i class="{kind}" data-token="{number}" title="{detail}"{data}>{says}</i>')
    return f'<div class="tokens">{"".join(out)}</div>'


def cards(items: Iterable[Card]) -> str:
    """Figures in large type."""
    return (
        '<div class="cards">'
        + "".join(
            f"<div><strong>{escape(c.value)}</strong><span>{escape(c.label)}</span><small>{escape(c.note)}</small></div>"
            for c in items
        )
        + "</div>"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table whose first column is text and the others figures; scrolls sideways where it is too wide."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    note = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{note}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in items) + "</dl>"


def section(title: str, *html: str, id: str = "") -> str:
    """A part of the page under a heading."""
    anchor = f' id="{escape(id)}"' if id else ""
    return f"<section{anchor}><h2>{escape(title)}</h2>{''.join(html)}</section>"


def page(title: str, *html: str) -> str:
    """A whole HTML page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(html)
        + "\n</main>\n</body>\n</html>\n"
    )


WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 46
"""Pixels of a chart and of what surrounds its curves."""


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "",
    log_y: bool = False,
    points: int = 240,
) -> str:
    """Curves over steps as an inline SVG with a legend; at most ``points`` points each, means of the rest."""
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
        svg.append(f'<polyline class="{_color(s.color)}{" dashed" if s.dashed else ""}" points="{line}"/>')
    legend = "".join(
        f'<span><i class="{_color(s.color)}{" dashed" if s.dashed else ""}"></i>{escape(s.name)} '
        f"<small>{s.points[-1][1]:.3g}</small></span>"
        for s in drawn
    )
    note = f" <small>{escape(y_label)}</small>" if y_label else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}{note}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(svg)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def charts(drawn: Iterable[str]) -> str:
    """Charts side by side, wrapping; empty ones are left out."""
    return f'<div class="charts">{"".join(chart for chart in drawn if chart)}</div>'


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most ``most`` points: neighbours are averaged; the last one stays where it is."""
    if len(points) <= most:
        return list(points)
    out = []
    for i in range(most):
        group = points[i * len(points) // most : (i + 1) * len(points) // most]
        out.append((group[-1][0], sum(y for _, y in group) / len(group)))
    return out


def _color(name: str) -> str:
    """The class of a color; modalities that the style does not know share one."""
    return name if name in ("structure", "text", "image", "all") else f"{escape(name)} other"


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
