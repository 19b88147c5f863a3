"""Infilling: a region of an image drawn anew, by a model that only ever sees what came before.

The codes before the region are its prompt, those behind it are given. What the model draws for the region
cannot see them, so that a single drawing fits them by luck alone; of several drawings the one is taken with
which the rest of the image is likeliest, drawing and what stands behind it together.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..tokenizers.documents import Mark, Segment, split
from ..tokenizers.pixels import to_pil
from ..tokenizers.vocab import SharedVocab
from .folder import Model
from .generate import decode


class Infilled(NamedTuple):
    """A drawing of the region."""

    image: Image.Image
    codes: Tensor
    """(h, w) or (h, w, n)."""
    log_likelihood: float
    """log p of the drawing and of the codes behind it, nats."""


def infill(
    model: Model,
    segments: Sequence[Segment],
    box: tuple[float, float, float, float],
    *,
    candidates: int = 8,
    **options: Any,
) -> list[Infilled]:
    """Draw a region of the last image of ``segments`` anew; the likeliest drawing first.

    :param segments: a document that ends with the image.
    :param box: left, top, right and bottom of the region, as parts of the image's width and height; every
        code that it touches is drawn anew, all others stay. The encoder looked beyond the squares of its
        codes (a convolutional network): codes beside the region know a little of what stood in it.
    :param candidates: drawings in one batch.
    :param options: ``image``, ``seed``, ``guidance`` and ``negative`` of
        :func:`earlyfusion.fusion_lm.generate.decode`.
    :raises ValueError: no image is last, the box is empty or lies outside, or the document does not fit.
    """
    lm, tokenizer = model
    vocab = tokenizer.vocab
    if not segments or isinstance(segments[-1], str | Mark):
        raise ValueError("the document must end with the image of which a region is to be drawn anew")
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"the region {left:g}, {top:g}, {right:g}, {bottom:g} is none: left and right must rise within "
            "0 to 1, and so must top and bottom"
        )
    tokens = tokenizer.encode(segments, eos=False)
    start = int((tokens == vocab.begin_image).nonzero()[-1])
    codes_start = start + (1 if vocab.fixed_grid else 3)
    rows, columns = _codes(tokens[start:], vocab).shape[:2]
    region = torch.zeros(rows, columns, dtype=torch.bool)
    region[int(top * rows) : ceil(bottom * rows), int(left * columns) : ceil(right * columns)] = True
    scanned = region if vocab.scan == "rows" else region.T
    anew = scanned.flatten().repeat_interleave(vocab.codes_per_position)
    first = codes_start + int(anew.nonzero()[0])
    given = tokens[first:].clone()
    given[: codes_start + len(anew) - first][anew[first - codes_start :]] = -1
    steps = list(
        decode(
            lm,
            vocab,
            [tokens[:first]] * candidates,
            max_new_tokens=len(given),
            stop_after_image=True,
            given=[given] * candidates,
            **options,
        )
    )
    written = torch.stack([step.tokens for step in steps], dim=1).cpu()  # (candidates, T)
    log_p = torch.stack([step.log_p for step in steps], dim=1).cpu()
    likelihoods = log_p.sum(dim=1)
    order = likelihoods.argsort(descending=True, stable=True)
    grids = torch.stack([_codes(torch.cat([tokens[start:first], written[row]]), vocab) for row in order])
    with torch.no_grad():
        pictures = tokenizer.image.decode(grids.to(lm.embedding.weight.device)).cpu()
    found = zip(pictures, grids, likelihoods[order].tolist(), strict=True)
    return [Infilled(to_pil(picture), codes, log_p) for picture, codes, log_p in found]


def _codes(image: Tensor, vocab: SharedVocab) -> Tensor:
    """The codes of an image's tokens."""
    return split(image, vocab)[0][1]
