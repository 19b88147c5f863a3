"""Infilling: redraw a region of a block, such as an image, with a model that only sees the prefix.

The codes before the region are the prompt, and those after it are given. While the model draws the region it
cannot see the codes after it, so one drawing fits them only by chance. Of several drawings, the best is the
one that makes the drawn and the following codes together the most likely.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..tokenizers.documents import Mark, Segment, split
from ..tokenizers.layout import Cursor
from .folder import Model
from .generate import NOT_FINITE, generate_steps
from .sampling import WHOLE, check_number


class Infilled(NamedTuple):
    """One drawing of the region."""

    image: Any
    """The whole decoded block, a PIL image."""
    codes: Tensor
    """Codes of the whole block, (h, w) or (h, w, n)."""
    log_likelihood: float
    """log p of the drawn and the following codes, in nats."""


def infill(
    model: Model,
    segments: Sequence[Segment],
    region: tuple[float, float, float, float] | Tensor,
    *,
    candidates: int = 8,
    **options: Any,
) -> list[Infilled]:
    """Redraw a region of the last image of ``segments``.

    Args:
        model: The transformer and its tokenizers.
        segments: A document that ends with the image.
        region: Left, top, right and bottom of a box, as fractions of the image's width and height, or a mask
            (rows, columns) bool of any size, stretched over the image. Every code that it touches is redrawn,
            all others stay. The encoder is convolutional, so that codes next to the region still contain a
            little of what was in it.
        candidates: Number of drawings, made in one batch.
        options: ``sampling``, ``seed``, ``guidance`` and ``negative`` of ``prompts.Options``.

    Returns:
        All drawings, the most likely first, without those for which the model's logits are not finite.

    Raises:
        ValueError: The last segment is not an image, the region is invalid or empty, the document does not
            fit, or the logits of no drawing are finite.
    """
    lm, tokenizer = model
    vocab = tokenizer.vocab
    if not segments or isinstance(segments[-1], str | Mark):
        found = type(segments[-1]).__name__ if segments else "an empty document"
        raise ValueError(f"the last segment must be the image to redraw, got {found}")
    check_number("candidates", candidates, 1, WHOLE, whole=True)
    _check_region(region)
    tokens = tokenizer.encode(segments, eos=False).tokens
    span = Cursor(vocab).take_all(tokens).spans[-1]
    layout = vocab.layout(span.name)
    if layout.axes != 2:
        raise ValueError(f"infilling needs a grid of codes, but the codes of {span.name} have 1 axis")
    rows, columns = span.shape
    of_each = layout.in_order(_codes_of(region, rows, columns)).flatten()
    redrawn = of_each.repeat_interleave(layout.slots)  # of each code
    codes_start = span.start + layout.head
    first = codes_start + int(redrawn.nonzero()[0])  # the first redrawn code; the prompt ends before it
    given = tokens[first:].clone()
    given[: codes_start + len(redrawn) - first][redrawn[first - codes_start :]] = -1
    steps = list(
        generate_steps(
            lm,
            vocab,
            [tokens[:first]] * candidates,
            max_new_tokens=len(given),
            stop_after=span.name,
            given=[given] * candidates,
            **options,
        )
    )
    written = torch.stack([step.tokens for step in steps], dim=1).cpu()  # (candidates, T)
    log_p = torch.stack([step.log_p for step in steps], dim=1).cpu()
    likelihoods = log_p.sum(dim=1)
    order = likelihoods.argsort(descending=True, stable=True)
    stops = torch.stack([step.stop for step in steps], dim=1).cpu()
    order = order[(stops != NOT_FINITE).all(dim=1)[order]]
    if not len(order):
        raise ValueError(
            "the region cannot be redrawn: the model's logits are not finite, so its weights are probably "
            "damaged, or its dtype is too narrow"
        )
    prefix = tokens[span.start : first]
    grids = [split(torch.cat([prefix, written[row]]), vocab)[0].values for row in order]
    pictures = tokenizer.decode_codes(span.name, grids)
    codec = tokenizer.codecs[span.name]
    found = zip(pictures, grids, likelihoods[order].tolist(), strict=True)
    return [Infilled(codec.show(picture), codes, log_p) for picture, codes, log_p in found]


def _check_region(region: tuple[float, float, float, float] | Tensor) -> None:
    if isinstance(region, Tensor):
        if region.ndim != 2 or region.dtype != torch.bool or not region.any():
            raise ValueError(
                f"invalid region: a mask of shape {tuple(region.shape)} with {int(region.sum())} marks, "
                "expected (rows, columns) bool with at least one"
            )
        return
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"invalid region {left:g}, {top:g}, {right:g}, {bottom:g}: need 0 <= left < right <= 1 and "
            "0 <= top < bottom <= 1"
        )


def _codes_of(region: tuple[float, float, float, float] | Tensor, rows: int, columns: int) -> Tensor:
    """The codes (rows, columns) bool that a region touches."""
    codes = torch.zeros(rows, columns, dtype=torch.bool)
    if isinstance(region, Tensor):
        height, width = region.shape
        for y, x in region.nonzero().tolist():  # whole numbers: -(-a // b) rounds up
            down = slice(y * rows // height, -(-(y + 1) * rows // height))
            codes[down, x * columns // width : -(-(x + 1) * columns // width)] = True
    else:
        left, top, right, bottom = region
        codes[int(top * rows) : ceil(bottom * rows), int(left * columns) : ceil(right * columns)] = True
    return codes
