"""The files in a model's folder that say what it knows and how to ask; ``playground.showcase`` reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...storage.files import write_json

FILE, THUMBNAILS = "showcase.json", "showcase.webp"
THUMBNAIL, COLUMNS = 48, 21
"""Side of a thumbnail in px, and thumbnails in a row of ``showcase.webp``."""


def write_showcase(
    folder: str | Path, values: Mapping[str, Any], drawings: Sequence[Image.Image | None]
) -> None:
    """Write both files into a model's folder.

    Args:
        folder: The model's folder.
        values: The fields of ``playground.showcase.Showcase``.
        drawings: One of each of its ``things``, in their order; None stays white.

    Raises:
        ValueError: There are not as many drawings as things.
    """
    if len(drawings) != len(values["things"]):
        raise ValueError(f"{len(drawings)} drawings of {len(values['things'])} things: give one of each")
    rows = -(-len(drawings) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * THUMBNAIL, rows * THUMBNAIL), "white")
    for number, drawn in enumerate(drawings):
        if drawn is not None:
            place = number % COLUMNS * THUMBNAIL, number // COLUMNS * THUMBNAIL
            sheet.paste(drawn.resize((THUMBNAIL, THUMBNAIL)), place)
    sheet.save(Path(folder) / THUMBNAILS, quality=80, method=6)
    write_json(Path(folder) / FILE, values)
