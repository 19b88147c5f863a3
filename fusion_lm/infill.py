"""Infilling: a region of a block, such as an image, drawn again by a model that only ever sees the prefix.

The codes before the region are the prompt, and those behind it are given. What the model draws for the region
cannot see them, so a single drawing fits them by luck alone. Of several drawings, the best is the one with
which the rest of the block is likeliest: drawing and the codes behind it together.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..tokenizers.documents import Mark, Segment, split
from ..tokenizers.layout import Cursor
from .folder import Model
from .generate import generate_steps


class Infilled(NamedTuple):
    """A drawing of the region."""

    image: Any
    """The whole block as its codec shows it: a PIL image."""
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
    """Draw a region of the last image of ``segments`` again; the likeliest drawing first.

    Args:
        model: The transformer and its tokenizers.
        segments: A document that ends with the image.
        box: Left, top, right and bottom of the region, as fractions of the image's width and height. Every
            code that it touches is drawn again, all others stay. The encoder looked beyond the squares of its
            codes (a convolutional network): codes beside the region know a little of what was in it.
        candidates: Drawings in one batch.
        options: ``sampling``, ``seed``, ``guidance`` and ``negative`` of ``prompts.Options``.

    Raises:
        ValueError: The last segment is not an image, the box is invalid, or the document does not fit.
    """
    lm, tokenizer = model
    vocab = tokenizer.vocab
    if not segments or isinstance(segments[-1], str | Mark):
        raise ValueError("the last segment must be the image of which a region is to be drawn again")
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"invalid region {left:g}, {top:g}, {right:g}, {bottom:g}: need 0 <= left < right <= 1 and "
            "0 <= top < bottom <= 1"
        )
    tokens = tokenizer.encode(segments, eos=False).tokens
    span = Cursor(vocab).take_all(tokens).spans[-1]
    layout = vocab.layout(span.name)
    if layout.axes != 2:
        raise ValueError(f"a region is of a grid of codes, but {span.name} has none")
    rows, columns = span.shape
    region = torch.zeros(rows, columns, dtype=torch.bool)
    region[int(top * rows) : ceil(bottom * rows), int(left * columns) : ceil(right * columns)] = True
    again = layout.in_order(region).flatten().repeat_interleave(layout.slots)
    codes_start = span.start + layout.head
    first = codes_start + int(again.nonzero()[0])
    given = tokens[first:].clone()
    given[: codes_start + len(again) - first][again[first - codes_start :]] = -1
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
    prefix = tokens[span.start : first]
    grids = [split(torch.cat([prefix, written[row]]), vocab)[0].values for row in order]
    pictures = tokenizer.decode_codes(span.name, grids)
    codec = tokenizer.codecs[span.name]
    found = zip(pictures, grids, likelihoods[order].tolist(), strict=True)
    return [Infilled(codec.show(picture), codes, log_p) for picture, codes, log_p in found]
