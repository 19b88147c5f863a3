"""Pages about images, text and tokens: pure functions that return HTML.

No scripts and no other files: images are data URIs, curves (``charts``) are inline SVG. Colors follow the
reader's light or dark setting. Text is escaped here; captions and arguments named ``html`` are not.
"""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

from PIL import Image

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


class Card(NamedTuple):
    """A figure at the top of the page."""

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
    return f'<div class="sheet"{style}>{"".join(figures)}</div>'


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
        kind = color_class(cell.kind) + (" given" if cell.given else "")
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
    """A table with text in the first column and figures in the others; scrolls sideways if too wide."""
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


def color_class(name: str) -> str:
    """The class of a color; modalities that the style does not know share one."""
    return name if name in ("structure", "text", "image", "all") else f"{escape(name)} other"
