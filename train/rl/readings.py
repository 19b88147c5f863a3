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
    """What the packaged recognizer reads in each picture, in batches of one width; "" without a picture."""
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


def strip_of(picture: Image.Image) -> Tensor:
    """A picture -> the strip that the recognizer takes, (1, 32, W) in [-1, 1], W a multiple of 32.

    A lower picture is surrounded by the median of its outermost pixels, a higher one is scaled down.
    """
    gray = picture.convert("L")
    if gray.height > HEIGHT:
        width = max(1, round(gray.width * HEIGHT / gray.height))
        gray = gray.resize((width, HEIGHT), Image.Resampling.BICUBIC)
    pixels = np.asarray(gray)  # (H, W)
    H, W = pixels.shape
    edge = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]))
    strip = np.full((HEIGHT, -(-(W + 2 * MARGIN) // 32) * 32), edge, np.float32)
    top, left = (HEIGHT - H) // 2, (strip.shape[1] - W) // 2
    strip[top : top + H, left : left + W] = pixels
    return torch.from_numpy(strip)[None] / 127.5 - 1


@cache
def _recognizer(device: str) -> Recognizer:
    with torch.random.fork_rng(devices=[]):  # a network draws numbers before its weights are read
        return Recognizer.load(SHIPPED).to(device)
