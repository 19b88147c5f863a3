"""The columns that tell what a data set holds. Imports the standard library alone, so that help is quick."""

from collections.abc import Sequence

MESSAGES, IMAGES = "messages", "images"
"""Columns of conversations."""

SHAPES: dict[str, tuple[str, ...]] = {
    "conversations": (MESSAGES,),
    "placed": ("text_list", "image_info"),
    "parallel": ("images", "texts"),
    "pairs": ("image", "text"),
    "texts": ("text",),
    "images": ("image",),
    "lists of texts": ("texts",),
    "lists of images": ("images",),
}
"""Shape -> its columns. A data set has the first shape whose columns are all there. ``placed`` is MMC4's."""

COLUMNS = tuple(dict.fromkeys(name for names in (*SHAPES.values(), (IMAGES,)) for name in names))
"""All columns that are read."""


def shape_of(columns: Sequence[str], source: str) -> str:
    """Which of ``SHAPES`` a data set with these columns has.

    Raises:
        ValueError: It has none of them.
    """
    for shape, needed in SHAPES.items():
        if all(name in columns for name in needed):
            return shape
    raise ValueError(
        f"{source} has no columns of images or texts, only {', '.join(columns)}: name those to read with "
        f"`columns`, which maps {', '.join(COLUMNS)} to the names in the data set"
    )


def used_columns(shape: str, columns: Sequence[str]) -> list[str]:
    """Those of ``columns`` that are read from a data set of this shape."""
    extra = (IMAGES,) if shape == "conversations" else ()
    return [name for name in (*SHAPES[shape], *extra) if name in columns]
