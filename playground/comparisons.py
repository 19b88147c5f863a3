"""HTML of a reconstruction: before and after, a JPEG of equal size, and what OCR reads."""

import difflib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..eval.metrics.ceilings import squared_error
from ..eval.report.page import html
from ..eval.report.page.numbers import figure
from .pages import SIDE, wrapped

if TYPE_CHECKING:
    from ..eval.tasks.comparison import Comparison

PALE = 8
"""Levels of 255 by which a ground must change before a word is said about it."""


def compared(comparisons: "Sequence[Comparison]", note: str = "") -> str:
    """Each tokenizer's figures, reconstruction, error, and JPEG at equal bits, and what OCR reads in it."""
    from ..eval.report.reconstruction_sheet import difference  # slow import, as in api.reconstruct

    parts = []
    header = ("", "bits per pixel", "codes", "PSNR, dB", "SSIM", "L1", "lines read the same", "seconds")
    rows = []
    for one in comparisons:
        f, sample = one.figures, one.result
        readings = _readings(one)
        alike = sum(before == after for before, after in readings)
        rows.append(
            (
                one.name,
                f"{f['bits_per_pixel']:.3f}",
                f"{f['tokens']:,}",
                figure(f["psnr"], 1),
                figure(f["ssim"]),
                figure(f["l1"]),
                f"{alike} of {len(readings)}" if readings else "–",
                f"{f['seconds']:.2f}",
            )
        )
        wide = sample.original.width > 2 * sample.original.height
        scale = max(1, SIDE * (2 if wide else 1) // max(sample.original.size))
        size = sample.original.width * sample.original.height
        psnr = _psnr_of_jpeg(one)
        quality = f", PSNR {psnr:.1f} dB" if psnr else ""
        spent = f"{one.jpeg.bits / size:.3f} bits per pixel{quality}"
        images = [
            (f"JPEG, {spent}" if one.jpeg.fits else "no JPEG has so few bits", one.jpeg.image),
            ("error x 2", difference(sample)),
        ]
        lines = "".join(f"<tr><td>{_kept(b, a)}</td><td>{_came(b, a)}</td></tr>" for b, a in readings)
        table = (
            '<div class="scroll"><table class="read"><caption>What OCR reads, differences marked</caption>'
            f"<thead><tr><th>original</th><th>reconstruction</th></tr></thead><tbody>{lines}</tbody></table></div>"
            if readings
            else ""
        )
        beside = html.beside(images, scale, stacked=wide)
        shown = f'<div class="pictures">{_versus(sample.original, sample.reconstruction)}{beside}</div>'
        parts.append(f"<h3>{html.escape(one.name)}</h3><p>{html.escape(verdict(one))}</p>{shown}{table}")
    notes = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return wrapped(html.table(header, rows), notes, *parts, kind="compared")


def verdict(one: "Comparison") -> str:
    """A comparison in words."""
    readings = _readings(one)
    alike = sum(before == after for before, after in readings)
    said = [f"OCR reads {alike} of {len(readings)} lines the same."] if readings else []
    psnr, other = one.figures["psnr"], _psnr_of_jpeg(one)
    if not one.jpeg.fits:
        said.append("No JPEG of this picture has so few bits.")
    elif psnr and other:
        side = "above" if psnr > other else "below"
        said.append(f"Its PSNR is {abs(psnr - other):.1f} dB {side} that of a JPEG with as many bits.")
    before, after = (_ground(image) for image in (one.result.original, one.result.reconstruction))
    if np.abs(before - after).max() > PALE:
        colors = f"from rgb({_levels(before)}) to rgb({_levels(after)})"
        said.append(f"The ground went {colors}: codes keep the colors that they were trained on.")
    return " ".join(said)


def _readings(one: "Comparison") -> list[tuple[str, str]]:
    """Each line as it was read before and after."""
    return [next(iter(read.values())) for _, read in one.result.readings if read]


def _psnr_of_jpeg(one: "Comparison") -> float | None:
    """PSNR in dB; None if nothing was lost."""
    loss = squared_error(one.jpeg.image, one.result.original)
    return 10 * math.log10(255**2 / loss) if loss else None


def _ground(image: Image.Image) -> np.ndarray:
    """The usual color (3,) of a picture's edge, 0..255."""
    pixels = np.asarray(image.convert("RGB"), np.float64)
    edge = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return np.median(np.concatenate(edge), axis=0)


def _levels(color: np.ndarray) -> str:
    return ", ".join(f"{level:.0f}" for level in color)


def _versus(before: Image.Image, after: Image.Image) -> str:
    """Two pictures of a size, one over the other, with a slider between them, which a script moves."""
    scale = max(1, (4 if before.width > 2 * before.height else 2) * SIDE // max(before.size))
    over, under = (
        html.picture(one, scale, name) for one, name in ((before, "original"), (after, "reconstruction"))
    )
    buttons = " or the ".join(
        f'<button type="button" data-enlarge="{name}">{name}</button>'
        for name in ("original", "reconstruction")
    )
    return (
        f'<span class="labelled"><span class="versus" style="--at:50%">{under}{over}'
        '<input type="range" value="50" step="0.5" '
        'aria-label="Original to the left of this, reconstruction to the right"></span>'
        f"<small>original | reconstruction: drag the line; enlarge the {buttons}</small></span>"
    )


def _kept(before: str, after: str) -> str:
    """``before`` as HTML; text missing in ``after`` is marked."""
    blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return "".join(
        html.escape(before[a:b]) if kind == "equal" else f"<del>{html.escape(before[a:b])}</del>"
        for kind, a, b, _, _ in blocks
        if b > a
    )


def _came(before: str, after: str) -> str:
    """``after`` as HTML; text missing in ``before`` is marked."""
    blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    shown = "".join(
        html.escape(after[a:b]) if kind == "equal" else f"<ins>{html.escape(after[a:b])}</ins>"
        for kind, _, _, a, b in blocks
        if b > a
    )
    return shown or "<i>nothing</i>"
