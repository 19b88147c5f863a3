"""Figures of an image's codes, drawn over the picture."""

import numpy as np
from PIL import Image

SCALE = np.array([(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], np.float64)
"""Five colors of matplotlib's "plasma", from low to high."""
STRENGTH = 0.62
"""Opacity of the colors over the picture, which is shown in gray."""


def heat_map(picture: Image.Image, values: np.ndarray, low: float, high: float) -> Image.Image:
    """Draw values over a picture.

    Args:
        picture: Its size is a multiple of (w, h).
        values: (h, w); NaN stays gray.
        low: Value of the first color.
        high: Value of the last color.

    Raises:
        ValueError: The picture cannot be divided into h x w equal cells.
    """
    height, width = values.shape
    if picture.width % width or picture.height % height:
        raise ValueError(
            f"cannot divide {picture.width} x {picture.height} px into {width} x {height} equal cells"
        )
    share = ((values - low) / ((high - low) or 1)).clip(0, 1)
    gray = np.asarray(picture.convert("L").convert("RGB"), np.float64)
    colors = color(np.nan_to_num(share))
    colors[np.isnan(values)] = 160
    cells = colors.repeat(picture.height // height, axis=0).repeat(picture.width // width, axis=1)
    return Image.fromarray(((1 - STRENGTH) * gray + STRENGTH * cells).round().astype(np.uint8))


def color(share: np.ndarray) -> np.ndarray:
    """Shares in 0..1 of any shape -> RGB (..., 3) in 0..255."""
    place = share * (len(SCALE) - 1)
    below = np.floor(place).astype(int).clip(0, len(SCALE) - 2)
    part = (place - below)[..., None]
    return SCALE[below] * (1 - part) + SCALE[below + 1] * part


def legend(width: int = 160, height: int = 10) -> Image.Image:
    """The colors from low to high."""
    row = color(np.linspace(0, 1, width)).round().astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row, (height, width, 3)).copy())
