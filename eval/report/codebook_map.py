"""The codebook as a picture: what each code draws, with similar codes side by side."""

import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...tokenizers.image import ImageTokenizer
from ...tokenizers.pixels import to_pil

AROUND = 3
"""Positions per side of the image that a code is drawn in; its middle is shown."""
BATCH_PIXELS = 2**21


class CodebookMap(NamedTuple):
    """All codes of a slot in a square."""

    picture: Image.Image
    """Cells of ``factor`` x ``factor`` px."""
    codes: np.ndarray
    """The code in each cell (side, side) int64, -1 in empty cells."""


def codebook_map(tokenizer: ImageTokenizer, slot: int = 0) -> CodebookMap:
    """Draw each code of a slot among equal codes; the other slots are those of white.

    Codes are sorted by the two principal directions of their vectors (PCA), along the rows and along the
    columns, so that neighbors are similar.

    Raises:
        ValueError: The slot does not exist, or the tokenizer has no decoder.
    """
    n, K, factor = tokenizer.codes_per_position, tokenizer.codebook_size, tokenizer.factor
    if not 0 <= slot < n:
        raise ValueError(f"slot is {slot}, expected 0..{n - 1}")
    device = next(tokenizer.parameters()).device
    side = AROUND * factor
    white = tokenizer.encode(torch.ones(1, 3, side, side, device=device))  # (1, a, a) or (1, a, a, n)
    cells: list[Tensor] = []
    for codes in torch.arange(K, device=device).split(max(1, BATCH_PIXELS // side**2)):
        grid = white.expand(len(codes), *white.shape[1:]).clone()
        if n == 1:
            grid[:] = codes[:, None, None]
        else:
            grid[..., slot] = codes[:, None, None]
        middle = slice(side // 2 - factor // 2, side // 2 - factor // 2 + factor)
        cells += tokenizer.decode(grid)[:, :, middle, middle].cpu()
    places = _places(tokenizer.codebook[slot * K : (slot + 1) * K].detach().float().cpu())
    picture = Image.new("RGB", (places.shape[1] * factor, places.shape[0] * factor), "white")
    for (row, column), code in np.ndenumerate(places):
        if code >= 0:
            picture.paste(to_pil(cells[code]), (column * factor, row * factor))
    return CodebookMap(picture, places)


def _places(vectors: Tensor) -> np.ndarray:
    """Vectors (K, d) -> codes in a square, -1 in empty cells."""
    centred = vectors - vectors.mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    x, y = [*(centred @ directions.T).T.numpy(), np.zeros(len(vectors))][:2]
    side = math.ceil(math.sqrt(len(vectors)))
    places = np.full((side, side), -1)
    for column, codes in enumerate(np.array_split(np.argsort(x, kind="stable"), side)):
        places[: len(codes), column] = codes[np.argsort(y[codes], kind="stable")]
    return places
