"""Fits pictures from elsewhere to what a model was trained on: a word, black on white, or a drawing on white.

A word has no scale of its own: "ace" and "dog" are cut to different parts of a line. So a picture is fitted
in several ways, the model reads each, and the way that goes best with its reading is taken.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..eval.tasks.continuations import image_prompts, texts_after
from ..fusion_lm.folder import Model
from ..fusion_lm.scores import both_ways

INK = 0.3
"""Pixels that differ from the ground by this part of the largest difference are ink."""
FAINT = 40
"""Smaller differences (of 255) are never ink."""
RIGHT = 3
"""Least margin on the right of a word in px."""
WORD = 1.6
"""Ink in one color that is so much wider than high is a word; other ink is a drawing."""
WIDEST = 1024
"""Px of a fitted word: longer lines are left as they are."""
COLORFUL = 0.15
"""Part of the ink that is in other colors than most of it, from which on it is a drawing."""
READING = 24
"""Maximum number of tokens of a reading."""


def fits(picture: Image.Image, known: Mapping[str, Any]) -> list[Image.Image]:
    """The picture in every way that a model knows; [] if it knows its size, or it is blank.

    Args:
        picture: RGB.
        known: ``Showcase.fits``: "words" is a list of [height of the picture, left margin, top margin, height
            of the ink], "drawings" is a list of [side of the picture, side of the ink], all in px.
    """
    words, drawings = known.get("words", ()), known.get("drawings", ())
    if picture.height in {one[0] for one in words} or picture.size in {(one[0], one[0]) for one in drawings}:
        return []
    pixels = np.asarray(picture, dtype=np.float32)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(rim, axis=0)
    away = np.abs(pixels - ground).max(axis=-1)
    if not (away > FAINT).any():
        return []
    spots = np.argwhere(away > max(FAINT, INK * float(away.max())))
    (top, left), (bottom, right) = spots.min(axis=0), spots.max(axis=0) + 1
    box = left, top, right, bottom
    colors = pixels[away > away.max() / 2]
    other = np.abs(colors - np.median(colors, axis=0)).max(axis=-1) > 2 * FAINT
    if right - left >= WORD * (bottom - top) and other.mean() < COLORFUL:
        black = Image.fromarray((255 * (1 - away / away.max())).astype(np.uint8)).crop(box)
        width, height = black.size
        return [_word(black, *one) for one in words if width * one[3] <= WIDEST * height]
    white = Image.fromarray(np.clip(pixels + (255 - ground), 0, 255).astype(np.uint8)).crop(box)
    return [_drawing(white, *one) for one in drawings]


def _word(ink: Image.Image, height: int, left: int, top: int, tall: int) -> Image.Image:
    width = max(1, round(ink.width * tall / ink.height))
    picture = Image.new("L", (-(-(left + width + RIGHT) // 8) * 8, height), 255)
    picture.paste(ink.resize((width, tall), Image.Resampling.LANCZOS), (left, top))
    return picture.convert("RGB")


def _drawing(ink: Image.Image, side: int, inner: int) -> Image.Image:
    ink = ink.copy()
    scale = inner / max(ink.size)
    ink = ink.resize(
        (max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.LANCZOS
    )
    picture = Image.new("RGB", (side, side), "white")
    picture.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return picture


def best_fit(model: Model, picture: Image.Image, known: Mapping[str, Any]) -> Image.Image:
    """The way of fitting the picture that goes best with what the model reads in it."""
    lm, tokenizer = model
    prompts, usable = [], []
    for fitted in fits(picture, known):
        [prompt] = image_prompts(tokenizer, [fitted])
        if len(prompt) + READING <= lm.config.context_length:
            prompts.append(prompt)
            usable.append(fitted)
    if len(usable) < 2:
        return usable[0] if usable else picture
    texts = texts_after(model.lm, tokenizer, prompts, max_new_tokens=READING, what="")
    scores = [_score(model, prompt, text) for prompt, text in zip(prompts, texts)]
    return usable[scores.index(max(scores))]


def _score(model: Model, prompt: torch.Tensor, text: str) -> float:
    tokenizer = model.tokenizer
    ids = torch.tensor(tokenizer.text.encode(text), dtype=torch.int64)
    if not len(ids):
        return float("-inf")
    document = torch.cat([prompt, tokenizer.vocab.to_tokens("text", ids)])
    return both_ways(model.lm, tokenizer.vocab, document, len(prompt))


def fit_all(
    model: Model, segments: Sequence[str | Image.Image], known: Mapping[str, Any]
) -> list[str | Image.Image]:
    """``segments`` with every picture fitted."""
    return [s if isinstance(s, str) else best_fit(model, s, known) for s in segments]
