"""What the packaged recognizer reads in the pictures of samples."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...data.strips import HEIGHT, MARGIN
from ...tokenizers.batches import equal_batches
from ..image.recognizer import SHIPPED, Recognizer
from .samples import Sample

BATCH = 64
"""Most strips that the recognizer reads at once."""
HIGHEST = 28
"""Height in px of the highest ink that it reads at its own size."""
FAINTEST = 8
"""Least difference in gray levels, of 255, between ink and ground."""

_latest: tuple[tuple[Sample, ...], list[str]] = (), []
"""The samples that were read last, and their texts: both writing rewards use one reading."""


def read_pictures(samples: Sequence[Sample], device: torch.device | str = "cpu") -> list[str]:
    """What the packaged recognizer reads in the picture of each sample of a written word; else ""."""
    global _latest
    before, texts = _latest
    if len(samples) != len(before) or any(a is not b for a, b in zip(samples, before)):
        pictures = [sample.picture if sample.prompt.kind == "write" else None for sample in samples]
        texts = read(pictures, device)
        _latest = tuple(samples), texts
    return texts


def read(pictures: Sequence[Image.Image | None], device: torch.device | str = "cpu") -> list[str]:
    """What the packaged recognizer reads in each picture, in batches of one width; "" without ink."""
    device = torch.device(device)
    net, texts = _recognizer(str(device)), [""] * len(pictures)
    strips = [None if picture is None else strip_of(picture) for picture in pictures]
    for some in equal_batches([None if s is None else s.shape for s in strips], BATCH):
        batch = torch.stack([strip for i in some if (strip := strips[i]) is not None])
        with torch.autocast(device.type, enabled=False):  # a training's precision does not change the reading
            found = net.read(batch.to(device))
        for i, text in zip(some, found, strict=True):
            texts[i] = text
    return texts


def strip_of(picture: Image.Image) -> Tensor | None:
    """A picture -> the strip that the recognizer takes, (1, 32, W) in [-1, 1], W a multiple of 32.

    The ink is in the center of the strip, as in the recognizer's training, at its own size unless it is
    higher than ``HIGHEST``. Around it is the median of the outermost pixels of the picture.

    Returns:
        None if the picture has one color.
    """
    gray = picture.convert("L")
    pixels = np.asarray(gray)  # (H, W)
    edge = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]))
    contrast = np.abs(pixels - edge)
    if contrast.max() < FAINTEST:
        return None
    ink = contrast > contrast.max() / 4
    rows, columns = np.flatnonzero(ink.any(1)).tolist(), np.flatnonzero(ink.any(0)).tolist()
    gray = gray.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    if gray.height > HIGHEST:
        width = max(1, round(gray.width * HIGHEST / gray.height))
        gray = gray.resize((width, HIGHEST), Image.Resampling.BICUBIC)
    W, H = gray.size
    strip = np.full((HEIGHT, -(-(W + 2 * MARGIN) // 32) * 32), edge, np.float32)
    y, x = (HEIGHT - H) // 2, (strip.shape[1] - W) // 2
    strip[y : y + H, x : x + W] = np.asarray(gray)
    return torch.from_numpy(strip)[None] / 127.5 - 1


@cache
def _recognizer(device: str) -> Recognizer:
    with torch.random.fork_rng(devices=[]):  # a network draws numbers before its weights are read
        return Recognizer.load(SHIPPED).to(device)
