"""Reads the texts and images of a command line or a file as prompts, and says documents in words."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..storage.nearest import similar_path
from .terminal_image import Show

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..eval.report.page.html import Part
    from ..fusion_lm.stream import Event
    from ..tokenizers.documents import DocumentTokenizer, Mark

IMAGE_SUFFIXES = tuple(
    ".avif .bmp .gif .heic .jfif .jpeg .jpg .pbm .pgm .png .pnm .ppm .svg .tga .tif .tiff .webp".split()
)
"""An argument that ends in one of these (in any case) is an image, whether the file exists or not."""


def read_segments(arguments: Sequence[str]) -> "list[str | Image]":
    """Read command line segments: images as images, everything else as text.

    Without arguments the list is empty, and the model starts a new document.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: an image is broken, or the prompt consists of empty texts.
    """
    from ..tokenizers.pixels import load_image

    for argument in arguments:
        if is_image(argument) and not os.path.exists(argument):
            raise FileNotFoundError(f"{argument} not found: {similar_path(argument)}expected an image")
    segments: list[str | Image] = [load_image(a) if is_image(a) else a for a in arguments]
    if segments and not any(segments):
        raise ValueError(
            "the prompt is empty: give a text or an image, or leave out all segments to start a new document"
        )
    return segments


def read_prompts(file: str) -> "list[list[str | Image]]":
    """Read a file of prompts, one a line: a text, or the path of an image. Empty lines are skipped.

    Raises:
        ValueError: There is none, or the file is not text in UTF-8.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {file} is not a text file in UTF-8: {error}") from None
    if not any(map(str.strip, lines)):
        raise ValueError(f"--prompts {file} has no prompt: write one in each line")
    return [read_segments([line]) for line in lines if line.strip()]


def are_joined(arguments: Sequence[str]) -> bool:
    """Whether two texts stand side by side without a space between them, as if each were a prompt."""
    pairs = zip(arguments, arguments[1:])
    return any(a[-1:].strip() and b[:1].strip() and not (is_image(a) or is_image(b)) for a, b in pairs)


def is_image(argument: str) -> bool:
    """Whether a segment is an image: by its suffix, or because such a file exists and is one."""
    from ..tokenizers.pixels import open_pixels

    if argument.lower().endswith(IMAGE_SUFFIXES):
        return True
    if not os.path.isfile(argument):  # False, not an error, for texts that cannot be file names
        return False
    try:
        with open_pixels(Path(argument)):
            return True
    except (OSError, SyntaxError):  # of another kind, or a named pipe, ...
        return False
    except Exception:  # `load_image` reports it: too large, damaged, ...
        return True


def prompt_as_seen(
    prompt: "Sequence[str | Image | Mark]", tokens: "Tensor", tokenizer: "DocumentTokenizer"
) -> "list[Part]":
    """The prompt's segments, images scaled to the size at which the model sees them."""
    from PIL import Image

    from ..eval.report.page.html import Part
    from ..tokenizers.documents import split

    grids = iter(p.values.shape for p in split(tokens, tokenizer.vocab) if p.kind == "image")
    segments: list[Part] = []
    for segment in prompt:
        if isinstance(segment, str):
            segments.append(Part(segment, prompt=True))
        elif isinstance(segment, Image.Image):
            rows, columns = next(grids)[:2]  # the third axis holds a position's codes
            factor = tokenizer.image.factor
            size = columns * factor, rows * factor
            segments.append(Part(segment.resize(size, Image.Resampling.LANCZOS), prompt=True))
    return segments


def in_words(part: "Part") -> str:
    """A part of a document for a terminal: its text, the size of its image, or else its type."""
    from PIL.Image import Image

    from ..eval.report.samples import printable

    if isinstance(part.content, str):
        return printable(part.content)
    if not isinstance(part.content, Image):
        return f" [{type(part.content).__name__}] "
    return f" [image {part.content.width} x {part.content.height}] "


def news(event: "Event", show: Show | None) -> str:
    """What to print on a terminal for an event."""
    from ..eval.report.page.html import Part
    from ..fusion_lm.stream import SegmentDone, TextDelta

    if isinstance(event, TextDelta):
        return in_words(Part(event.text))
    return said(Part(event.value), show) if isinstance(event, SegmentDone) else ""


def said(part: "Part", show: Show | None) -> str:
    """A part of a document in words, and if ``show`` is given, its picture below."""
    from PIL.Image import Image

    picture = f"\n{show(part.content)}" if show is not None and isinstance(part.content, Image) else ""
    return in_words(part) + picture
