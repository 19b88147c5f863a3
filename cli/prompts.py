"""Reads texts and images of a command line as a prompt, and shows documents on a terminal."""

import base64
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..eval.report.page.html import Part
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

    segments: list[str | Image] = [load_image(a) if is_image(a) else a for a in arguments]
    if segments and not any(segments):
        raise ValueError(
            "the prompt is empty: give a text or an image, or leave out all segments to start a new document"
        )
    return segments


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
    factor = tokenizer.image.factor
    segments: list[Part] = []
    for segment in prompt:
        if isinstance(segment, str):
            segments.append(Part(segment, prompt=True))
        elif isinstance(segment, Image.Image):
            rows, columns = next(grids)[:2]  # the third axis holds a position's codes
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


def inline_image(image: "Image") -> str:
    """The control sequence that shows an image in the terminal; empty if the terminal cannot.

    Uses the graphics protocol of kitty (kitty, Ghostty) or of iTerm2 (iTerm2, WezTerm, VS Code).
    """
    from PIL.Image import Resampling

    if not sys.stdout.isatty():
        return ""
    file = io.BytesIO()
    scale = max(1, 128 // max(image.size))
    image.resize((image.width * scale, image.height * scale), Resampling.NEAREST).save(file, "PNG")
    data = base64.standard_b64encode(file.getvalue()).decode()
    if "KITTY_WINDOW_ID" in os.environ or os.environ.get("TERM_PROGRAM") == "ghostty":
        parts = [data[i : i + 4096] for i in range(0, len(data), 4096)]
        keys = ["a=T,f=100,", *[""] * (len(parts) - 1)]
        more = [*[1] * (len(parts) - 1), 0]
        return "".join(f"\x1b_G{k}m={m};{p}\x1b\\" for k, m, p in zip(keys, more, parts, strict=True))
    if os.environ.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm", "vscode"):
        return f"\x1b]1337;File=inline=1;size={len(file.getvalue())}:{data}\a"
    return ""
