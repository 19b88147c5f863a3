"""Fonts, and images of words in type as OCR sees them.

Training and evaluation share this file, so both render a word the same way. The fonts come from ordinary
Python packages in the extra ``demo``: matplotlib (DejaVu and STIX) and the ``font-*`` packages.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

STRIP_HEIGHT = 16
"""Height in px that fits type of 13 to 15 px with its ascenders and descenders."""
SIZES = (13, 14, 15)
"""Font sizes (px per em) on a strip of ``STRIP_HEIGHT``; higher strips scale them in proportion."""
_X_HEIGHT = 0.547
"""x-height of DejaVu Sans in em. Other fonts are scaled to it, so that equal sizes look equally large."""

# (family, package, file)
_TRAIN_FAMILIES = (
    ("DejaVu Sans", "matplotlib", "DejaVuSans.ttf"),
    ("DejaVu Serif", "matplotlib", "DejaVuSerif.ttf"),
    ("DejaVu Sans Mono", "matplotlib", "DejaVuSansMono.ttf"),
    ("Roboto", "font_roboto", "Roboto-Regular.ttf"),
    ("Source Sans Pro", "font_source_sans_pro", "SourceSansPro-Regular.ttf"),
    ("Source Serif Pro", "font_source_serif_pro", "SourceSerifPro-Regular.ttf"),
)
_HELD_OUT_FAMILIES = (
    ("Lato", "font_lato", "Lato-Regular.ttf"),
    ("Caladea", "font_caladea", "Caladea-Regular.ttf"),
)
_MORE_TRAIN_FACES = (
    ("DejaVu Sans Bold", "matplotlib", "DejaVuSans-Bold.ttf"),
    ("DejaVu Sans Oblique", "matplotlib", "DejaVuSans-Oblique.ttf"),
    ("DejaVu Serif Bold", "matplotlib", "DejaVuSerif-Bold.ttf"),
    ("DejaVu Serif Italic", "matplotlib", "DejaVuSerif-Italic.ttf"),
    ("STIX General", "matplotlib", "STIXGeneral.ttf"),
    ("STIX General Italic", "matplotlib", "STIXGeneralItalic.ttf"),
    ("STIX General Bold", "matplotlib", "STIXGeneralBol.ttf"),
    ("Roboto Light", "font_roboto", "Roboto-Light.ttf"),
    ("Roboto Italic", "font_roboto", "Roboto-Italic.ttf"),
    ("Roboto Bold", "font_roboto", "Roboto-Bold.ttf"),
    ("Source Sans Pro Italic", "font_source_sans_pro", "SourceSansPro-It.ttf"),
    ("Source Sans Pro Semibold", "font_source_sans_pro", "SourceSansPro-Semibold.ttf"),
    ("Source Serif Pro Italic", "font_source_serif_pro", "SourceSerifPro-It.ttf"),
    ("Source Serif Pro Semibold", "font_source_serif_pro", "SourceSerifPro-Semibold.ttf"),
)


class Font(NamedTuple):
    """A font file, and its name in reports."""

    family: str
    path: str


def _package_folder(package: str) -> Path:
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"the fonts of {package!r} are not installed: pip install 'earlyfusion[demo]'"
        ) from error
    folder = Path(str(module.__file__)).parent
    return folder / ("mpl-data/fonts/ttf" if package == "matplotlib" else "files")


def _fonts(families: Sequence[tuple[str, str, str]]) -> list[Font]:
    return [Font(family, str(_package_folder(package) / file)) for family, package, file in families]


def train_fonts() -> list[Font]:
    """The six training families."""
    return _fonts(_TRAIN_FAMILIES)


def train_faces() -> list[Font]:
    """Twenty training faces: ``train_fonts``, their bold and italic faces, and STIX."""
    return _fonts((*_TRAIN_FAMILIES, *_MORE_TRAIN_FACES))


def held_out_fonts() -> list[Font]:
    """Two families that training images never use."""
    return _fonts(_HELD_OUT_FAMILIES)


@lru_cache(maxsize=64)
def _x_height_of(path: str) -> float:
    """The font's x-height in em."""
    return -ImageFont.truetype(path, 200).getbbox("x", anchor="ls")[1] / 200


@lru_cache(maxsize=2048)
def load_face(path: str, size: float) -> ImageFont.FreeTypeFont:
    """The font scaled to the x-height of DejaVu Sans at ``size`` px per em.

    Ligatures are off: only some builds of Pillow draw them, and pictures must be the same everywhere.
    """
    pixels = max(1, round(size * _X_HEIGHT / _x_height_of(path)))
    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=256)
def _load_font(path: str, size: int, ascent: int) -> ImageFont.FreeTypeFont:
    """The font scaled to the x-height of DejaVu Sans at ``size``, or smaller to fit ``ascent`` px."""
    large = ImageFont.truetype(path, 200)
    x_height, highest = (-large.getbbox(letters, anchor="ls")[1] / 200 for letters in ("x", "bdfhkl"))
    return ImageFont.truetype(path, min(round(size * _X_HEIGHT / x_height), int((ascent + 0.5) / highest)))


def render_word(
    text: str, font: Font, size: int, height: int = STRIP_HEIGHT, multiple: int = 8
) -> Image.Image:
    """Render black type on a white strip as wide as the text needs.

    The baseline is at three quarters of the height, the left margin is 2 px on a strip 16 px high (in
    proportion on others), and the width is rounded up to a multiple of ``multiple`` px.

    Args:
        size: Pixels per em of DejaVu Sans; other fonts get the same x-height.
        height: Height of the strip in pixels.

    Returns:
        An RGB image (height, width).
    """
    baseline = height * 3 // 4
    face = _load_font(font.path, size, baseline)
    margin = 2 * height // STRIP_HEIGHT
    right = face.getbbox(text, anchor="ls")[2]
    width = -(-(int(right) + 2 * margin) // multiple) * multiple
    strip = Image.new("L", (width, height), 255)
    ImageDraw.Draw(strip).text((margin, baseline), text, fill=0, font=face, anchor="ls")
    return strip.convert("RGB")


@dataclass(frozen=True)
class TypeSample:
    """A text to render, with all properties that tables group by."""

    text: str
    kind: str
    font: Font
    size: int
    height: int

    def render(self, multiple: int = 8) -> Image.Image:
        return render_word(self.text, self.font, self.size, self.height, multiple)
