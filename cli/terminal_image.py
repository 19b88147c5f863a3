"""Shows images in a terminal: with its graphics protocol if it has one, else as colored half blocks."""

import base64
import io
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 192
"""Longer side of an enlarged image in px, about, where the terminal draws pixels."""
HALF_BLOCK = "▀"
"""A character cell with its upper half filled: two pixels."""
ROWS = 24
"""Rows that a picture may have even if the terminal has fewer."""
TIMEOUT = 0.5
"""Seconds in which a terminal says what it can do."""

Show = Callable[["Image"], str]
"""What to print so that an image appears."""


def viewer(asked: bool | None = None) -> Show | None:
    """How to show images on stdout; None if they are not shown.

    Args:
        asked: Whether the user wants them; None: if stdout is a terminal with colors.
    """
    if asked is False or not (asked or sys.stdout.isatty()):
        return None
    if sys.stdout.isatty() and (show := protocol(os.environ, _attributes)):
        return show
    if not asked:
        from rich.console import Console

        if (console := Console()).no_color or console.color_system is None:
            return None
    try:
        HALF_BLOCK.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return None
    return half_blocks


def protocol(environ: Mapping[str, str], attributes: Callable[[], str]) -> Show | None:
    """The terminal's graphics protocol: kitty's, iTerm2's or sixel; None if it has none.

    Args:
        environ: Environment variables.
        attributes: Asks the terminal for its device attributes, such as "62;4;22" (4: sixel).
    """
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    inside = "TMUX" in environ or term.startswith(("screen", "tmux"))  # passes no graphics on but its own
    if not inside and ("KITTY_WINDOW_ID" in environ or term == "xterm-kitty" or program == "ghostty"):
        return kitty
    if not inside and program in ("iTerm.app", "WezTerm"):
        return iterm
    return sixel if "4" in attributes().split(";")[1:] else None


def kitty(image: "Image") -> str:
    """For kitty, Ghostty (https://sw.kovidgoyal.net/kitty/graphics-protocol)."""
    data = base64.standard_b64encode(_png(image)).decode()
    parts = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    keys = ["a=T,f=100,", *[""] * (len(parts) - 1)]
    more = [*[1] * (len(parts) - 1), 0]
    return "".join(f"\x1b_G{k}m={m};{p}\x1b\\" for k, m, p in zip(keys, more, parts, strict=True)) + "\n"


def iterm(image: "Image") -> str:
    """For iTerm2, WezTerm (https://iterm2.com/documentation-images.html)."""
    png = _png(image)
    return f"\x1b]1337;File=inline=1;size={len(png)}:{base64.standard_b64encode(png).decode()}\a\n"


def sixel(image: "Image") -> str:
    """For foot, xterm, Windows Terminal, ...: bands of six rows, each once for every color in it."""
    import numpy as np

    reduced = _enlarged(image).convert("RGB").quantize(255)
    pixels, palette = np.asarray(reduced), np.reshape(reduced.getpalette() or [], (-1, 3))
    colors = [f"#{c};2;{r};{g};{b}" for c, (r, g, b) in enumerate((palette / 2.55).round().astype(int))]
    bands = []
    for top in range(0, len(pixels), 6):
        band = pixels[top : top + 6]
        bits = np.uint8(1) << np.arange(len(band), dtype=np.uint8)[:, None]
        lines = ((c, 63 + ((band == c) * bits).sum(0, dtype=np.uint8)) for c in np.unique(band))
        bands.append("$".join(f"#{c}{_runs(line.tobytes().decode())}" for c, line in lines))
    size = f'"1;1;{reduced.width};{reduced.height}'
    return f"\x1bPq{size}{''.join(colors[: pixels.max() + 1])}{'-'.join(bands)}\x1b\\\n"


def half_blocks(image: "Image") -> str:
    """For every terminal with colors: a cell shows two pixels, one above the other."""
    import numpy as np
    from PIL.Image import Resampling
    from rich.color import Color
    from rich.console import Console
    from rich.segment import Segment, Segments
    from rich.style import Style

    piped = {} if sys.stdout.isatty() else {"force_terminal": True, "color_system": "truecolor"}
    console = Console(**piped)
    scale = min(1.0, console.width / image.width, 2 * max(ROWS, console.height - 4) / image.height)
    width, rows = max(1, round(image.width * scale)), max(1, round(image.height * scale / 2))
    pixels = np.asarray(image.convert("RGB").resize((width, 2 * rows), Resampling.LANCZOS)).tolist()
    cells = []
    for uppers, lowers in zip(pixels[::2], pixels[1::2], strict=True):
        for upper, lower in zip(uppers, lowers, strict=True):
            style = Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))
            cells.append(Segment(HALF_BLOCK, style))
        cells.append(Segment.line())
    with console.capture() as printed:
        console.print(Segments(Segment.simplify(cells)), end="")
    return printed.get()


def _attributes() -> str:
    """The terminal's answer to "which device are you?"; "" if it cannot be asked."""
    import select

    try:
        import termios
        import tty

        fd = sys.stdin.fileno()
        if not sys.stdin.isatty() or os.tcgetpgrp(fd) != os.getpgrp():  # piped, or in the background
            return ""
        before = termios.tcgetattr(fd)
    except (ImportError, OSError, ValueError, termios.error):  # Windows, or no stdin
        return ""
    answer = b""
    try:
        tty.setcbreak(fd)
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"\x1b[c")
        while not answer.endswith(b"c") and select.select([fd], [], [], TIMEOUT)[0]:
            answer += os.read(fd, 1)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
    found = re.search(rb"\x1b\[\?([\d;]+)c", answer)
    return found[1].decode() if found else ""


def _runs(line: str) -> str:
    """Run-length encode a line of a sixel image."""
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", line)


def _png(image: "Image") -> bytes:
    file = io.BytesIO()
    _enlarged(image).save(file, "PNG")
    return file.getvalue()


def _enlarged(image: "Image") -> "Image":
    from PIL.Image import Resampling

    scale = max(1, SIDE // max(image.size))
    return image.resize((image.width * scale, image.height * scale), Resampling.NEAREST)
