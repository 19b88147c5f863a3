"""Encode and decode pages of any size tile by tile, so that the tile bounds the memory.

A network with norms per position (``norm="layer"``) and without attention is *local*: a code only depends on
the pixels around it. Tiles that overlap by the receptive field then give exactly the codes and pixels of the
whole page. GroupNorm and attention see the whole image, so with them codes and pixels of tiles only come
close to those of the page, and the decoder blends overlapping tiles linearly to hide edges.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..image import ImageTokenizer
from ..image_config import ImageTokenizerConfig


class Margins(NamedTuple):
    """Positions around a tile that its network reads."""

    before: int
    """To the left and above."""
    after: int
    """To the right and below."""


class Tile(NamedTuple):
    """One axis of a tile, in positions."""

    start: int
    """First position of the network's input."""
    stop: int
    """One past the last position of the network's input."""
    first: int
    """First position of the kept result."""
    last: int
    """One past the last position of the kept result."""


def is_local(config: ImageTokenizerConfig) -> bool:
    """Whether tiles give exactly the result of the whole page."""
    attention = config.architecture == "vqgan" and (config.mid_attention or bool(config.attention_levels))
    return config.norm == "layer" and not attention


def encoder_margins(config: ImageTokenizerConfig) -> Margins:
    """Positions around a code whose pixels the encoder reads, without norms and attention.

    Along each axis, code i reads the pixels i * factor - before .. i * factor + after. Every 3 x 3
    convolution widens both sides by the spacing of its inputs; a step to the next level (2 x 2, or taming's 3
    x 3 that is padded on one side) only widens the side after the code.
    """
    vqgan = config.architecture == "vqgan"
    spacing, before, after = config.stem, 0, config.stem - 1
    for level in range(len(config.channels)):
        if level:
            after += (2 if vqgan else 1) * spacing
            spacing *= 2
        convs = 2 * config.res_blocks + (level == 0)  # and the first one
        if vqgan and level == len(config.channels) - 1:
            convs += 5  # the middle's, and the last one
        before += convs * spacing
        after += convs * spacing
    return Margins(_ceil(before, spacing), _ceil(after - (spacing - 1), spacing))


def decoder_margins(config: ImageTokenizerConfig) -> Margins:
    """Positions around a code that the decoder reads for the pixels of that code.

    From the pixels backwards: a 3 x 3 convolution reads one more position on both sides, and r positions of a
    level read ceil(r / 2) positions of the coarser level.
    """
    vqgan = config.architecture == "vqgan"
    reach = 1  # the last convolution, whose output the stem shuffles into pixels
    for level in range(len(config.channels)):
        reach += 2 * (config.decoder_blocks + vqgan)
        if level < len(config.channels) - 1:
            reach = _ceil(reach + vqgan, 2)  # taming's upsampling has a convolution of its own
    reach += 5 if vqgan else 1  # the middle and the first one
    return Margins(reach, reach)


@torch.no_grad()
def encode_tiled(tokenizer: ImageTokenizer, image: Tensor, tile: int = 1024) -> Tensor:
    """Encode ``image`` in tiles.

    Args:
        tokenizer: If ``is_local(tokenizer.config)``, the codes equal ``tokenizer.encode(image)``.
        image: (1, 3, H, W) or (3, H, W) in [-1, 1], sides multiples of the factor.
        tile: Longest side of the network's input in pixels, overlap included.

    Returns:
        Codes (1, h, w) or (1, h, w, n), without the first axis if the image has none.

    Raises:
        ValueError: The image has another shape, or the tile is smaller than the overlap and one position.
    """
    factor = tokenizer.factor
    batched = image if image.ndim == 4 else image[None]
    if (
        batched.ndim != 4
        or batched.shape[:2] != (1, 3)
        or any(s % factor or not s for s in batched.shape[2:])
    ):
        raise ValueError(
            f"an image must have the shape (1, 3, H, W) or (3, H, W) with H and W multiples of {factor}, got "
            f"{tuple(image.shape)}; pixels.fit resizes or pads"
        )
    margins = encoder_margins(tokenizer.config)
    h, w = (side // factor for side in batched.shape[2:])
    codes: Tensor | None = None
    for row in _tiles(h, tile, factor, margins):
        for column in _tiles(w, tile, factor, margins):
            piece = batched[
                :, :, row.start * factor : row.stop * factor, column.start * factor : column.stop * factor
            ]
            found = tokenizer.encode(piece)
            if codes is None:
                codes = found.new_empty(1, h, w, *found.shape[3:])
            kept = found[:, row.first - row.start : row.last - row.start]
            kept = kept[:, :, column.first - column.start : column.last - column.start]
            codes[:, row.first : row.last, column.first : column.last] = kept
    assert codes is not None
    return codes if image.ndim == 4 else codes[0]


@torch.no_grad()
def decode_tiled(tokenizer: ImageTokenizer, codes: Tensor, tile: int = 1024) -> Tensor:
    """Decode ``codes`` in tiles.

    Args:
        tokenizer: If ``is_local(tokenizer.config)``, the image equals ``tokenizer.decode(codes)``; otherwise
            overlapping tiles are blended linearly.
        codes: (1, h, w) or (1, h, w, n), or without the first axis.
        tile: Longest side of the network's output in pixels, overlap included.

    Returns:
        Image (1, 3, H, W) in [-1, 1], without the first axis if the codes have none.

    Raises:
        ValueError: The codes have another shape, one is outside 0..K-1, or the tile is smaller than the
            overlap and one position.
    """
    factor, axes = tokenizer.factor, 3 if tokenizer.codes_per_position == 1 else 4
    batched = codes if codes.ndim == axes else codes[None]
    if batched.ndim != axes or len(batched) != 1 or not batched.numel():
        slots = "" if axes == 3 else f", {tokenizer.codes_per_position}"
        raise ValueError(
            f"codes must have the shape (1, h, w{slots}) or (h, w{slots}), got {tuple(codes.shape)}"
        )
    margins = decoder_margins(tokenizer.config)
    blend = not is_local(tokenizer.config)
    rows = list(_tiles(batched.shape[1], tile, factor, margins))
    columns = list(_tiles(batched.shape[2], tile, factor, margins))
    shares = [_shares(tiles, factor, blend) for tiles in (rows, columns)]
    image: Tensor | None = None
    for row, high in zip(rows, shares[0]):
        for column, wide in zip(columns, shares[1]):
            piece = tokenizer.decode(batched[:, row.start : row.stop, column.start : column.stop])
            if image is None:
                image = piece.new_zeros(1, 3, batched.shape[1] * factor, batched.shape[2] * factor)
            place = image[
                :, :, row.start * factor : row.stop * factor, column.start * factor : column.stop * factor
            ]
            place += piece * high.to(piece)[:, None] * wide.to(piece)
    assert image is not None
    return image if codes.ndim == axes else image[0]


def _tiles(length: int, tile: int, factor: int, margins: Margins) -> Iterator[Tile]:
    """Tiles of an axis with ``length`` positions; none is longer than ``tile`` pixels."""
    most = tile // factor
    if length <= most:
        yield Tile(0, length, 0, length)
        return
    kept = most - margins.before - margins.after
    if kept < 1:
        raise ValueError(
            f"tile is {tile}, expected at least {(margins.before + margins.after + 1) * factor}: the overlap "
            f"of {margins.before} and {margins.after} positions of {factor} pixels, and one position"
        )
    pieces = _ceil(length, kept)
    for i in range(pieces):  # of equal length, to within one position
        first, last = length * i // pieces, length * (i + 1) // pieces
        yield Tile(max(0, first - margins.before), min(length, last + margins.after), first, last)


def _shares(tiles: list[Tile], factor: int, blend: bool) -> list[Tensor]:
    """The weight of each tile of an axis at each of its pixels; the weights of a pixel add up to 1."""
    weights = []
    for i, tile in enumerate(tiles):
        at = torch.arange(tile.start * factor, tile.stop * factor) + 0.5
        if not blend:
            weights.append(((at > tile.first * factor) & (at < tile.last * factor)).float())
            continue
        weight = torch.ones(len(at))
        if i:  # rises from 0 at its own edge to 1 at the edge of the previous tile
            start, end = tile.start * factor, tiles[i - 1].stop * factor
            weight = weight.minimum((at - start) / (end - start))
        if i + 1 < len(tiles):
            start, end = tiles[i + 1].start * factor, tile.stop * factor
            weight = weight.minimum((end - at) / (end - start))
        weights.append(weight)
    total = torch.zeros(tiles[-1].stop * factor)
    for tile, weight in zip(tiles, weights):
        total[tile.start * factor : tile.stop * factor] += weight
    return [w / total[t.start * factor : t.stop * factor] for t, w in zip(tiles, weights)]


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
