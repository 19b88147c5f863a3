"""Pages about images, text and tokens: pure functions that return HTML.

A page is one file that loads nothing: images are data URIs, curves (``charts``) are inline SVG, and one small
script (``html_script``) adds what HTML cannot do, such as values on hover. Everything is there without it,
and the page's policy lets no other script run. Colors follow the reader's light or dark setting. Text is
escaped here; captions and arguments named ``html`` are not.
"""

import base64
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

from PIL import Image

from .html_script import SCRIPT
from .html_style import STYLE

SIDE = 256
"""Longer side of an enlarged image in px, about."""


class Part(NamedTuple):
    """A segment of a document."""

    content: Any
    """A string, a PIL image, or what another codec shows."""
    prompt: bool = False
    """Part of the prompt, not written by the model."""


class TokenCell(NamedTuple):
    """A token of a strip."""

    kind: str
    """``structure``, or the name of a modality."""
    says: str
    detail: str = ""
    """Shown on hover."""
    level: float | None = None
    """Its probability, drawn as a bar."""
    block: int | None = None
    """The block (an image, ...) that it is a code of."""
    place: tuple[int, ...] | None = None
    """Its place there, such as row and column."""
    given: bool = False
    """Part of the prompt."""


class Mark(NamedTuple):
    """A value to compare a card's figure with: a notch on its bar."""

    name: str
    share: float
    """0..1"""
    kind: str = "reference"
    """Its color: ``floor``, ``reference``, ``other`` or ``ceiling``."""


class Card(NamedTuple):
    """A figure at the top of the page."""

    value: str
    label: str
    note: str = ""
    share: float | None = None
    """0..1, drawn as a bar."""
    marks: Sequence[Mark] = ()


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
    """An image enlarged by a whole number, its pixels as squares; ``uri`` gives its address."""
    width, height = image.width * scale, image.height * scale
    alt = alt or f"image of {image.width} x {image.height} pixels"
    return (
        f'<img class="px" src="{uri(image)}" width="{width}" height="{height}" alt="{escape(alt)}" '
        f'title="{escape(title or alt)}">'
    )


def figure(html: str, caption: str = "", *, right: bool | None = None) -> str:
    """Pictures with a caption; ``right`` marks it as correct or wrong."""
    kind = "" if right is None else f' class="{"right" if right else "wrong"}"'
    return f"<figure{kind}>{html}{f'<figcaption>{caption}</figcaption>' if caption else ''}</figure>"


def sheet(figures: Iterable[str], width: int = 0) -> str:
    """Figures side by side, wrapping; ``width`` is their least width in px."""
    style = f' style="--cell:{width}px"' if width else ""
    kind = "sheet small" if width <= 240 else "sheet"  # two beside each other on a phone
    return f'<div class="{kind}"{style}>{"".join(figures)}</div>'


def beside(images: Sequence[tuple[str, Image.Image]], scale: int = 3, *, stacked: bool = False) -> str:
    """Images side by side, or ``stacked``, each above its small label (if not empty)."""
    cells = (
        f'<span class="labelled" style="width:{max(image.width * scale, 60)}px">'
        f"{picture(image, scale, title=name)}{f'<small>{escape(name)}</small>' if name else ''}</span>"
        for name, image in images
    )
    return f'<span class="{"stacked" if stacked else "beside"}">{"".join(cells)}</span>'


def mark(text: str, right: bool) -> str:
    """A text with a tick or a cross; "nothing" if it is empty."""
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
        elif not isinstance(part.content, Image.Image):
            out.append(f'<span class="said {side}">[{escape(type(part.content).__name__)}]</span>')
        else:
            enlarge = scale or max(1, SIDE // max(part.content.size))
            out.append(f'<span class="drawn {side}">{picture(part.content, enlarge, uri=uri)}</span>')
    return f'<div class="document">{"".join(out)}</div>'


def token_strip(cells: Iterable[TokenCell], pictures: Sequence[Image.Image] = ()) -> str:
    """Tokens as a row of cells, colored by modality, with their detail on hover.

    With ``pictures``, those of the blocks in their order, each code of an image shows the piece of the
    picture at its place. A script can go further: each cell has its ``data-block`` and ``data-place``
    ("row,column").
    """
    cells = list(cells)
    last: dict[int, list[int]] = {}  # block -> largest row and column
    for cell in cells:
        if cell.block is not None and cell.place is not None and len(cell.place) == 2:
            last[cell.block] = [*map(max, cell.place, last.get(cell.block, (0, 0)))]
    out = []
    for number, cell in enumerate(cells):
        written = cell.kind in ("structure", "text")
        says = escape(cell.says.replace(" ", "␣").replace("\n", "⏎")) if written else ""
        data, style = "" if cell.block is None else f' data-block="{cell.block}"', []
        if cell.place is not None:
            data += f' data-place="{",".join(map(str, cell.place))}"'
        if cell.level is not None:
            style.append(f"--p:{cell.level:.3f}")
        kind = color_class(cell.kind) + (" given" if cell.given else "")
        if cell.block in last and cell.block < len(pictures):
            kind += " piece"
            style.append(_piece(cell, *last[cell.block]))
        data += f' style="{";".join(style)}"' if style else ""
        detail = escape(cell.detail or cell.says)
        out.append(f'<i class="{kind}" data-token="{number}" title="{detail}"{data}>{says}</i>')
    sources = ";".join(f"--b{n}:url({data_uri(image)})" for n, image in enumerate(pictures))
    style = f' style="{sources}"' if sources else ""
    return f'<div class="tokens"{style}>{"".join(out)}</div>'


def _piece(cell: TokenCell, last_row: int, last_column: int) -> str:
    """The CSS that shows the piece of its picture at a cell's place."""
    row, column = cell.place or (0, 0)
    x, y = 100 * column / (last_column or 1), 100 * row / (last_row or 1)
    size = f"{100 * (last_column + 1)}% {100 * (last_row + 1)}%"
    return f"background:var(--b{cell.block}) {x:.4g}% {y:.4g}% / {size}"


def cards(items: Iterable[Card]) -> str:
    """Figures in large type, each with its bar and what to compare it with."""
    return f'<div class="cards">{"".join(map(_card, items))}</div>'


def _card(card: Card) -> str:
    bar = ""
    if card.share is not None:
        notches = "".join(
            f'<b class="{escape(m.kind)}" style="left:{100 * m.share:.1f}%"></b>' for m in card.marks
        )
        bar = f'<div class="meter"><i style="width:{100 * card.share:.1f}%"></i>{notches}</div>'
    keys = "".join(
        f'<li><i class="{escape(m.kind)}"></i>{escape(m.name)} <b>{100 * m.share:.0f}%</b></li>'
        for m in card.marks
    )
    return (
        f"<div><span>{escape(card.label)}</span><strong>{escape(card.value)}</strong>{bar}"
        f"{f'<ul>{keys}</ul>' if keys else ''}<small>{escape(card.note)}</small></div>"
    )


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str = "",
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """A table with text in the first column and figures in the others; scrolls sideways if too wide.

    Args:
        header: Names of the columns.
        rows: Cells.
        caption: Above the table.
        groups: Names above several columns, with their numbers of columns.
    """
    above = "".join(f'<th colspan="{n}" scope="colgroup">{escape(name)}</th>' for name, n in groups)
    above = f"<tr>{above}</tr>" if above else ""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    note = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table>{note}<thead>{above}<tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in items) + "</dl>"


def details(title: str, *html: str) -> str:
    """A part that is folded until the reader opens it; "" without content."""
    return f"<details><summary>{escape(title)}</summary>{''.join(html)}</details>" if any(html) else ""


def command(text: str, note: str = "") -> str:
    """A command to copy, below what it does."""
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<div class="command">{told}<pre><code class="copy">{escape(text)}</code></pre></div>'


def section(title: str, *html: str, id: str = "") -> str:
    """A part of the page under a heading, which folds it."""
    anchor = f' id="{escape(id)}"' if id else ""
    return (
        f"<section{anchor}><details open><summary><h2>{escape(title)}</h2></summary>"
        f"{''.join(html)}</details></section>"
    )


def contents(sections: Iterable[tuple[str, str]]) -> str:
    """Links to the sections (id, title) of a page: beside it on a wide screen, a line above it on others."""
    links = "".join(f'<a href="#{escape(id)}">{escape(title)}</a>' for id, title in sections)
    return f'<nav class="contents" aria-label="Contents">{links}</nav>' if links else ""


def page(title: str, *html: str, contents: str = "") -> str:
    """A whole HTML page; ``contents`` is what the function of that name returns."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data: file: 'self'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{contents}<main>\n"
        + "\n".join(html)
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def color_class(name: str) -> str:
    """The class of a color; modalities that the style does not know share one."""
    return name if name in ("structure", "text", "image", "all") else f"{escape(name)} other"
