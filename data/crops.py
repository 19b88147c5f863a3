"""Windows of training images around their texts: less blank paper, more letters for the same computing."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LOOSE = 4
"""Pixels by which a window may miss the end of a text that fits into it."""


def window_size(size: tuple[int, int], window: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) of what is cut from an image of ``size``: ``window``, where the image is as large as that."""
    return size if window is None else (min(size[0], window[0]), min(size[1], window[1]))


def cut(
    images: Tensor, boxes: Sequence[np.ndarray], window: tuple[int, int], rng: np.random.Generator
) -> tuple[Tensor, list[np.ndarray]]:
    """A window of each of ``images`` (B, 3, H, W), and what lies in it of the image's ``boxes`` (n, 4).

    The window holds one of the boxes, drawn at random, or as much of it as fits, at a place drawn at random;
    of an image without boxes it may hold anything.
    """
    height, width = window_size((images.shape[2], images.shape[3]), window)
    windows, inside = [], []
    for image, corners in zip(images, boxes, strict=True):
        around = corners[rng.integers(len(corners))] if len(corners) else None
        left, top = (
            _place(side, length, None if around is None else (around[axis], around[axis + 2]), rng)
            for axis, (side, length) in enumerate(((image.shape[2], width), (image.shape[1], height)))
        )
        windows.append(image[:, top : top + height, left : left + width])
        moved = (corners - [left, top, left, top]).clip(0, [width, height, width, height])
        inside.append(moved[(moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])])
    return torch.stack(windows), inside


def _place(side: int, length: int, text: tuple[float, float] | None, rng: np.random.Generator) -> int:
    """Where a window of ``length`` pixels begins on a ``side``, so that it holds ``text`` (first, last)."""
    first, last = 0, side - length
    if text is not None:
        start, end = int(text[0]), int(np.ceil(text[1]))
        fits = end - start <= length
        low, high = (end - length - LOOSE, start + LOOSE) if fits else (start, end - length)
        first, last = max(first, min(low, last)), min(last, max(high, first))
    return int(rng.integers(first, last + 1))
