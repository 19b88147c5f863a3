"""A sheet of reconstructions, sorted from worst to best, as a PNG or as an HTML page.

Images are sorted by the first reader's T-NED (over the texts that it reads correctly in the original, or, on
images without a transcript, against its reading of the original), then by PSNR. Images without such a text
come last.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops

from ...storage.files import write_bytes, write_text
from ...tokenizers.pixels import fit
from ..tasks.reconstruction import Reading, Reconstruction
from .glossary import how_to_read
from .page import html
from .page.canvas import INK, RIGHT, SOFT, WRONG, Piece, column, framed, line, padded, page, row, wrapped

SUFFIXES = (".png", ".html")
CELL, COLUMNS, GAP = 640, 2, 24
"""Width of a cell, number of columns, space between cells, in px."""
LARGEST = 1280
"""Longest side of a picture on an HTML page, in px: five pictures of a scan would have 50 MB."""
ACROSS = 3
"""Narrow pictures side by side."""
TEXTS = 6
"""Most texts listed per image, the worst first."""
LEGEND = "Original, reconstruction, difference x 2."

Ranked = Sequence[tuple[int, Reconstruction]]
"""Reconstructions with their rank, from 1."""


def check_sheet(path: str | Path) -> None:
    """Refuse a file that ``write_sheet`` cannot make.

    Raises:
        ValueError: The suffix is neither .png nor .html.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"--sheet {path}: expected a file name ending in {' or '.join(SUFFIXES)}")


def write_sheet(
    path: str | Path, results: Sequence[Reconstruction], readers: Sequence[str], most: int = 60
) -> None:
    """Write a sheet of at most ``most`` images: the worst ``most / 2``, and as many spread over the rest.

    Raises:
        ValueError: The suffix is neither .png nor .html.
    """
    check_sheet(path)
    ranked = ranking(results, readers)
    shown = list(enumerate(ranked, start=1))
    if len(shown) > most:
        worst = (most + 1) // 2
        rest, n = shown[worst:], most - worst
        shown = shown[:worst] + [rest[(i + 1) * len(rest) // n - 1] for i in range(n)]
    title = f"{len(shown)} of {len(ranked)} images, from the worst to the best"
    if Path(path).suffix.lower() == ".html":
        write_text(path, html_sheet(shown, readers, title))
        return
    file = io.BytesIO()
    png_sheet(shown, readers, title).save(file, "PNG", optimize=True)
    write_bytes(path, file.getvalue())


def ranking(results: Sequence[Reconstruction], readers: Sequence[str]) -> list[Reconstruction]:
    """Reconstructions from worst to best."""

    def key(one: Reconstruction) -> tuple[float, float]:
        t_ned = one.t_ned(readers[0]) if readers else None
        return (math.inf if t_ned is None else t_ned), (math.inf if one.psnr is None else one.psnr)

    return sorted(results, key=key)


def difference(one: Reconstruction) -> Image.Image:
    """Twice the absolute difference of original and reconstruction; black if they are equal."""
    once = ImageChops.difference(one.original, one.reconstruction)
    return ImageChops.add(once, once)


def png_sheet(ranked: Ranked, readers: Sequence[str], title: str) -> Image.Image:
    """The sheet as one RGB picture; green and red mark correct and wrong readings."""
    order = f"; by {readers[0]}'s T-NED, then PSNR" if readers else "; by PSNR"
    columns: list[list[Image.Image]] = [[] for _ in range(COLUMNS)]
    for rank, one in ranked:
        shortest = min(columns, key=lambda cells: sum(cell.height + GAP for cell in cells))
        shortest.append(_cell(rank, one, readers))
    head = line([(f"{title}{order}. {LEGEND}", SOFT)], 14)
    body = row([padded(column(cells, GAP), CELL) for cells in columns], GAP)
    return page(column([head, body], GAP), GAP)


def html_sheet(ranked: Ranked, readers: Sequence[str], title: str) -> str:
    """The sheet as one self-contained HTML page."""
    figures = []
    for rank, one in ranked:
        scale = max(1, min(3, 380 // one.original.width))
        shown = [(name, fit(picture, 1, "resize", LARGEST)) for name, picture in _pictures(one).items()]
        pictures = html.beside(shown, scale, stacked=True)
        lines = [html.escape(_headline(rank, one, readers))]
        for text, read in _worst_texts(one):
            seen = "; ".join(
                f"{html.escape(name)} {html.mark(after, after == (text if one.transcript else before))}"
                + ("" if before == text else f" (before: {html.escape(before) or '<i>nothing</i>'})")
                for name, (before, after) in read.items()
            )
            lines.append(f"<b>{html.escape(text)}</b> → {seen}" if seen else f"<b>{html.escape(text)}</b>")
        figures.append(html.figure(pictures, "<br>".join(lines)))
    order = f"Sorted by {readers[0]}'s T-NED, then by PSNR." if readers else "Sorted by PSNR."
    marks = " ✓ and ✗ mark what OCR reads after the tokenizer, right or wrong." if readers else ""
    note = f'<p class="lead">{html.escape(order + " " + LEGEND + marks)}</p>'
    terms = ("PSNR", "T-NED") if readers else ("PSNR",)
    return html.page(
        title, f"<h1>{html.escape(title)}</h1>", note, how_to_read(terms), html.sheet(figures, 390)
    )


def _pictures(one: Reconstruction) -> dict[str, Image.Image]:
    return {
        "original": one.original,
        "reconstruction": one.reconstruction,
        "difference": difference(one),
        **one.ceilings,
    }


def _headline(rank: int, one: Reconstruction, readers: Sequence[str]) -> str:
    parts = [f"#{rank}", one.kind, one.name]
    parts.append("lossless" if one.psnr is None else f"{one.psnr:.1f} dB")
    for reader in readers:
        t_ned = one.t_ned(reader)
        parts.append(f"{reader} {'-' if t_ned is None else f'{t_ned:.2f}'}")
    if not one.transcript:
        parts.append("against the OCR of the original, no transcript")
    return "  ".join(part for part in parts if part)


def _worst_texts(one: Reconstruction) -> list[Reading]:
    """The texts that most readers misread, first."""

    def wrong(reading: Reading) -> int:
        text, read = reading
        return -sum(after != (text if one.transcript else before) for before, after in read.values())

    return sorted(one.readings, key=wrong)[:TEXTS]


def _cell(rank: int, one: Reconstruction, readers: Sequence[str]) -> Image.Image:
    """The pictures, wide ones below and others beside each other, above the readings."""
    width, height = one.original.size
    stacked = width > 2 * height
    room = CELL - 96 if stacked else CELL // ACROSS - 8  # wide ones have their name beside them
    scale = min(4.0, room / width)
    scale = float(int(scale)) if scale >= 1 else scale  # whole pixels if enlarged
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    shown = []
    for name, picture in _pictures(one).items():
        parts = [framed(picture.resize(size, resample)), line([(name, SOFT)], 12)]
        shown.append(row(parts, 6, middle=True) if stacked else column(parts, 2))
    pictures = column(shown, 4) if stacked else wrapped(shown, CELL, 4)
    return column([pictures, *(line(pieces) for pieces in _lines(rank, one, readers))], 2)


def _lines(rank: int, one: Reconstruction, readers: Sequence[str]) -> list[list[Piece]]:
    """Rank and scores, then each text with its readings."""
    lines = [[(_headline(rank, one, readers), SOFT)]]
    for text, read in _worst_texts(one):
        pieces = [(_short(text), INK)]
        for name, (before, after) in read.items():
            pieces += [(f"   {name} ", SOFT), (_short(after) or "nothing", RIGHT if after == text else WRONG)]
            if before != text:
                pieces.append((f" (before: {_short(before) or 'nothing'})", SOFT))
        lines.append(pieces)
    if (more := len(one.readings) - TEXTS) > 0:
        lines.append([(f"and {more} more texts", SOFT)])
    return lines


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
