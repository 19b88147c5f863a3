"""A sheet of reconstructions to look at, sorted from the worst to the best: as a PNG or as an HTML page.

Worst first by the first reader's T-NED of each image (of the texts that it reads right in the original), and
among equals by PSNR. Images without such a text come behind all others.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from ...tokenizers.files import write_bytes, write_text
from ..tasks.reconstruction import Sample
from . import html

SUFFIXES = (".png", ".html")
CELL, COLUMNS, GAP, LINE = 640, 2, 24, 17
"""Width of a cell, columns of cells, space between them, height of a line of text, in px."""
LABEL, ACROSS = 96, 3
"""Space for the name beside a wide picture, in px; narrow pictures side by side."""
INK, SOFT, FRAME, PAPER, RIGHT, WRONG = "#1d2330", "#5d6678", "#d5dae3", "#ffffff", "#0a7d4f", "#c02b3c"
TEXTS = 6
"""Texts that are listed of an image, the worst first."""


def check_sheet(path: str | Path) -> None:
    """Refuse a file that `write_sheet` cannot make. Raises ValueError."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"--sheet {path}: expected a name that ends in {' or '.join(SUFFIXES)}")


def write_sheet(path: str | Path, samples: Sequence[Sample], readers: Sequence[str], most: int = 60) -> None:
    """Write the sheet of at most `most` images: the worst half of them, and as many spread over the rest.

    Raises ValueError for a name that ends in neither .png nor .html.
    """
    check_sheet(path)
    ranked = ranking(samples, readers)
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


def ranking(samples: Sequence[Sample], readers: Sequence[str]) -> list[Sample]:
    """The samples from the worst to the best."""

    def key(sample: Sample) -> tuple[float, float]:
        t_ned = sample.t_ned(readers[0]) if readers else None
        return (math.inf if t_ned is None else t_ned), (math.inf if sample.psnr is None else sample.psnr)

    return sorted(samples, key=key)


def difference(sample: Sample) -> Image.Image:
    """Black where the reconstruction equals the original, twice the absolute difference elsewhere."""
    once = ImageChops.difference(sample.original, sample.reconstruction)
    return ImageChops.add(once, once)


Ranked = Sequence[tuple[int, Sample]]
"""Samples with their rank, from 1."""


def png_sheet(samples: Ranked, readers: Sequence[str], title: str) -> Image.Image:
    """The sheet as one picture, RGB; green and red mark what was read right and wrong."""
    order = f"; by {readers[0]}'s T-NED, then PSNR" if readers else "; by PSNR"
    columns: list[list[tuple[int, Image.Image]]] = [[] for _ in range(COLUMNS)]
    bottoms = [3 * GAP] * COLUMNS
    for rank, sample in samples:
        cell = _cell(rank, sample, readers)
        shortest = bottoms.index(min(bottoms))
        columns[shortest].append((bottoms[shortest], cell))
        bottoms[shortest] += cell.height + GAP
    sheet = Image.new("RGB", (GAP + COLUMNS * (CELL + GAP), max(bottoms)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), f"{title}{order}. {_legend()}", fill=SOFT, font=_face(14))
    for i, column in enumerate(columns):
        for y, cell in column:
            sheet.paste(cell, (GAP + i * (CELL + GAP), y))
    return sheet


def html_sheet(samples: Ranked, readers: Sequence[str], title: str) -> str:
    """The sheet as one self-contained HTML page."""
    figures = []
    for rank, sample in samples:
        scale = max(1, min(3, 380 // sample.original.width))
        pictures = html.beside(list(_pictures(sample).items()), scale, stacked=True)
        lines = [html.escape(_headline(rank, sample, readers))]
        for text, read in _worst_texts(sample, readers):
            seen = "; ".join(
                f"{html.escape(name)} {html.mark(after, after == text)}"
                + ("" if before == text else f" (before: {html.escape(before) or '<i>nothing</i>'})")
                for name, (before, after) in read.items()
            )
            lines.append(f"<b>{html.escape(text)}</b> → {seen}" if seen else f"<b>{html.escape(text)}</b>")
        figures.append(html.figure(pictures, "<br>".join(lines)))
    order = f"Sorted by {readers[0]}'s T-NED, then by PSNR." if readers else "Sorted by PSNR."
    note = f'<p class="note">{html.escape(order)} {html.escape(_legend())}</p>'
    return html.page(title, f"<h1>{html.escape(title)}</h1>", note, html.sheet(figures, 390))


def _legend() -> str:
    return "Original, reconstruction, difference x 2."


def _pictures(sample: Sample) -> dict[str, Image.Image]:
    return {
        "original": sample.original,
        "reconstruction": sample.reconstruction,
        "difference": difference(sample),
        **sample.ceilings,
    }


def _headline(rank: int, sample: Sample, readers: Sequence[str]) -> str:
    parts = [f"#{rank}", sample.kind, sample.name]
    parts.append("lossless" if sample.psnr is None else f"{sample.psnr:.1f} dB")
    for reader in readers:
        t_ned = sample.t_ned(reader)
        parts.append(f"{reader} {'-' if t_ned is None else f'{t_ned:.2f}'}")
    return "  ".join(part for part in parts if part)


def _worst_texts(sample: Sample, readers: Sequence[str]) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """The texts that most readers misread come first."""

    def wrong(reading: tuple[str, dict[str, tuple[str, str]]]) -> int:
        text, read = reading
        return -sum(after != text for _, after in read.values())

    return sorted(sample.readings, key=wrong)[:TEXTS]


def _cell(rank: int, sample: Sample, readers: Sequence[str]) -> Image.Image:
    """The pictures of a sample, wide ones stacked and others in rows, and the readings under them."""
    pictures = list(_pictures(sample).items())
    width, height = sample.original.size
    stacked = width > 2 * height
    across = 1 if stacked else ACROSS
    room = CELL - LABEL if stacked else CELL // ACROSS - 6
    scale = min(4.0, room / width)
    scale = float(int(scale)) if scale >= 1 else scale  # whole pixels where it grows
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    step = size[1] + (4 if stacked else LINE + 4)
    above = step * -(-len(pictures) // across)
    lines = _lines(rank, sample, readers)
    cell = Image.new("RGB", (CELL, above + 4 + LINE * len(lines)), PAPER)
    draw = ImageDraw.Draw(cell)
    for i, (name, picture) in enumerate(pictures):
        x, y = i % across * (size[0] + 6), i // across * step
        cell.paste(picture.resize(size, resample), (x, y))
        draw.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), outline=FRAME)
        place = (x + size[0] + 6, y + size[1] // 2 - 7) if stacked else (x, y + size[1] + 1)
        draw.text(place, name, fill=SOFT, font=_face(12))
    for i, line in enumerate(lines):
        x = 0
        for text, colour in line:
            draw.text((x, above + 2 + i * LINE), text, fill=colour, font=_face(13))
            x += math.ceil(_face(13).getlength(text))
    return cell


def _lines(rank: int, sample: Sample, readers: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Lines of coloured pieces of text."""
    lines = [[(_headline(rank, sample, readers), SOFT)]]
    for text, read in _worst_texts(sample, readers):
        line = [(_short(text), INK)]
        for name, (before, after) in read.items():
            line += [(f"   {name} ", SOFT), (_short(after) or "nothing", RIGHT if after == text else WRONG)]
            if before != text:
                line.append((f" (before: {_short(before) or 'nothing'})", SOFT))
        lines.append(line)
    if (more := len(sample.readings) - TEXTS) > 0:
        lines.append([(f"and {more} more texts", SOFT)])
    return lines


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _face(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
