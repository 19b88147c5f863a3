"""Reading: the model sees the image of a word and writes its letters.

The document is [image, text]; the text is decoded greedily and compared without white space at both ends.

An image can be read in several views, each shifted sideways by a pixel: a stroke that the border of a code
cuts in one view is inside a code in another. Each view is read greedily and a few times by sampling. The
reading with the highest mean log p(text | image) + log p(image | text), summed over the views, wins.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import Sampling
from ...fusion_lm.scores import both_ways
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.progress import Progress, silent
from ..items import Item
from ..metrics.text import row_scores
from .continuations import GREEDY, image_prompts, texts_after

SAMPLED = 3
"""Sampled readings per view (temperature 1) in addition to the greedy one, if there are several views."""


def evaluate_reading(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    items: Sequence[Item],
    *,
    views: int = 1,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Have the model read each item's image.

    Args:
        items: Images with their texts.
        views: Shifted views per image, see :func:`shifted`.
        batch_size: Rows generated together.
        max_new_tokens: Maximum length of a reading. Default: twice the longest text, at least 32.
        seed: Random seed of the sampled readings.
        progress: Called as work proceeds.

    Returns:
        A JSON object: {"exact_match", "cer", "items", "by_kind", "by_length": the same for each kind and each
        number of characters, "views", "rows": [{"text", "read", "correct", "kind", "name"}], "skipped":
        [reasons, for items without a text and for images that leave no room in the context]}.

    Raises:
        ValueError: No item can be used, or ``views`` exceeds the width of a code.
    """
    factor = tokenizer.image.factor
    if not 1 <= views <= factor:
        raise ValueError(f"views is {views}, expected 1 to {factor} (the width of a code in px)")
    skipped = [f"{item.name or 'an image'}: no text to compare with" for item in items if not _text(item)]
    wanted = [item for item in items if _text(item)]
    pixels = [tokenizer.prepare("image", item.image) for item in wanted]
    prompts = image_prompts(tokenizer, pixels)
    context = model.config.context_length
    usable = []
    for item, image, prompt in zip(wanted, pixels, prompts):
        if len(prompt) < context:
            usable.append((item, image, prompt))
        else:
            skipped.append(f"{item.name}: {len(prompt)} tokens leave no room in the context of {context}")
    if not usable:
        raise ValueError(f"no image can be read: {skipped[0] if skipped else 'items is empty'}")
    if max_new_tokens is None:
        longest = max(len(tokenizer.text.encode(_text(item))) for item, *_ in usable)
        max_new_tokens = max(32, 2 * longest)
    images, prompts = [image for _, image, _ in usable], [prompt for *_, prompt in usable]
    found = readings(
        model,
        tokenizer,
        images,
        prompts,
        views=views,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
    )
    rows = [
        {
            "text": _text(item),
            "read": read,
            "correct": _text(item) == read,
            "kind": item.kind,
            "name": item.name,
        }
        for (item, *_), read in zip(usable, found, strict=True)
    ]
    return {"kind": "reading", "views": views, **row_scores(rows, "read"), "rows": rows, "skipped": skipped}


def readings(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    images: Sequence[Tensor],
    prompts: Sequence[Tensor],
    *,
    views: int,
    max_new_tokens: int,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress = silent,
) -> list[str]:
    """What the model reads in each image.

    Args:
        images: Pixels (3, H, W).
        prompts: Their ``image_prompts``.
        views: As the other arguments, see ``evaluate_reading``.
    """
    seen, found = [], []  # prompts of each view, and all readings
    for view in range(views):
        moved = [shifted(image, view) for image in images]
        seen.append(image_prompts(tokenizer, moved) if view else [*prompts])
        for number in range(1 + SAMPLED if views > 1 else 1):
            what = f"reading, view {view + 1}, {number + 1} of {1 + SAMPLED}" if views > 1 else "reading"
            texts = texts_after(
                model,
                tokenizer,
                seen[-1],
                max_new_tokens=max_new_tokens,
                sampling=Sampling() if number else GREEDY,
                batch_size=batch_size,
                seed=seed + len(images) * (view * SAMPLED + number),
                what=what,
                progress=progress,
            )
            found.append(texts)
    best = []
    for number in range(len(images)):
        texts = list(dict.fromkeys(some[number] for some in found))
        of_image = [some[number] for some in seen]
        best.append(texts[0] if len(texts) == 1 else _best(model, tokenizer, of_image, texts))
        if views > 1:
            progress("comparing the readings", number + 1, len(images))
    return best


def shifted(pixels: Tensor, view: int) -> Tensor:
    """A view of an image (3, H, W): unchanged, right by 1 px, left by 1, right by 2, ...; edges repeat."""
    by = (view + 1) // 2 * (1 if view % 2 else -1)
    padded = F.pad(pixels[None], (abs(by), abs(by), 0, 0), mode="replicate")[0]
    return padded[..., abs(by) - by :][..., : pixels.shape[-1]]


def _best(
    model: FusionLM, tokenizer: DocumentTokenizer, prompts: Sequence[Tensor], texts: Sequence[str]
) -> str:
    """The text with the highest score in both directions, summed over the views (``prompts``) of an image."""

    def score(text: str) -> float:
        ids = tokenizer.vocab.to_tokens("text", torch.tensor(tokenizer.text.encode(text), dtype=torch.int64))
        documents = [torch.cat([prompt, ids])[: model.config.context_length] for prompt in prompts]
        return sum(both_ways(model, tokenizer.vocab, d, len(p)) for d, p in zip(documents, prompts))

    return max(texts, key=score)


def _text(item: Item) -> str:
    return (item.text or "").strip()
