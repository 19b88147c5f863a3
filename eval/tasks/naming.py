"""Naming: the model names what a picture shows; the baseline is the name of the nearest training picture.

The document is [picture, "A red apple."]; the text is decoded greedily. A name is correct if it equals the
thing's name with its article, regardless of case. Only the first sentence counts, without "This is".
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...data.render.openmoji import Concept, place_drawing, render_drawing
from ...data.render.split import demo_concepts, described
from ...fusion_lm.model import FusionLM
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.pixels import to_tensor
from ...tokenizers.progress import Progress, silent
from ..items import Item
from ..metrics.text import grouped, mean
from .continuations import image_prompts, texts_after

SIDE = 48
"""Side of the demo's pictures in px."""
SIZES = range(35, SIDE, 2)
"""Sides of the drawings to name in px. They are odd, at odd places; training pictures have even ones."""
KNOWN, HELD_OUT = "known things", "held-out things"


def naming_items(seed: int = 0) -> list[Item]:
    """Each of the demo's things once, with a size and a place that occur in no training picture.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    rng = random.Random(f"naming {seed}")
    items = []
    for kind, things in ((KNOWN, demo_concepts().train), (HELD_OUT, demo_concepts().held_out)):
        for thing in things:
            size = rng.choice(SIZES)
            left, top = (rng.randrange(1, SIDE - size + 1, 2) for _ in range(2))
            picture = place_drawing(rng.choice(thing.drawings), size, SIDE, left, top)
            items.append(Item(picture, thing.name, kind=kind, name=f"{size} px at {left}, {top}"))
    return items


def evaluate_naming(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    items: Sequence[Item],
    known: Sequence[Concept],
    *,
    batch_size: int = 64,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Have the model name each item's picture.

    Args:
        items: Pictures with the names of their things.
        known: The things among whose pictures the baseline finds the nearest, by mean squared difference of
            pixels at ``SIDE`` x ``SIDE``.

    Returns:
        A JSON object: {"items", "exact_match", "token_f1", "nearest": the same two of the baseline,
        "by_kind": the same for each kind, "rows": [{"text", "named", "nearest", "kind", "name"}]}.

    Raises:
        ValueError: ``items`` is empty.
    """
    if not items:
        raise ValueError("items is empty: give at least one picture to name")
    images = [item.image for item in items]
    names = names_of(model, tokenizer, images, batch_size=batch_size, progress=progress)
    gallery = [(thing.name, render_drawing(stem, SIDE)) for thing in known for stem in thing.drawings]
    nearest = nearest_of(images, [image for _, image in gallery])
    rows = [
        {
            "text": item.text or "",
            "named": named,
            "nearest": gallery[index][0],
            "kind": item.kind,
            "name": item.name,
        }
        for item, named, index in zip(items, names, nearest[:, 0].tolist(), strict=True)
    ]
    kinds = grouped(rows, lambda row: row["kind"])
    return {**_scores(rows), "by_kind": {kind: _scores(some) for kind, some in kinds.items()}, "rows": rows}


def names_of(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    images: Sequence[Image.Image],
    *,
    batch_size: int = 64,
    progress: Progress = silent,
) -> list[str]:
    """The thing that the model names in each image, see ``thing_of``."""
    prompts = image_prompts(tokenizer, images)
    texts = texts_after(
        model, tokenizer, prompts, max_new_tokens=48, batch_size=batch_size, what="naming", progress=progress
    )
    return [thing_of(text) for text in texts]


def thing_of(text: str) -> str:
    """The thing that a caption names, with its article: "This is a red apple. Here ..." -> "a red apple"."""
    first = text.strip().split(".")[0].strip()
    return first.removeprefix("This is ").casefold()


def is_named(row: dict[str, Any]) -> bool:
    """Whether the model named the thing of a row."""
    return row["named"] == described(row["text"]).casefold()


def _scores(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = [described(row["text"]).casefold() for row in rows]
    by_nearest = [described(row["nearest"]).casefold() for row in rows]

    def both(answers: Sequence[str]) -> dict[str, float | None]:
        pairs = list(zip(names, answers, strict=True))
        return {
            "exact_match": mean(float(a == b) for a, b in pairs),
            "token_f1": mean(token_f1(a, b) for a, b in pairs),
        }

    return {"items": len(rows), **both([row["named"] for row in rows]), "nearest": both(by_nearest)}


def token_f1(reference: str, hypothesis: str) -> float:
    """F1 of the words that two texts share, with multiplicity, without articles (SQuAD, arXiv:1606.05250)."""
    a, b = ([w for w in text.split() if w not in ("a", "an", "the")] for text in (reference, hypothesis))
    shared = sum(min(a.count(word), b.count(word)) for word in set(a))
    if not shared:
        return float(a == b)
    return 2 * shared / (len(a) + len(b))


@torch.no_grad()
def nearest_of(images: Sequence[Image.Image], gallery: Sequence[Image.Image], side: int = SIDE) -> Tensor:
    """Indices into ``gallery`` (N, len(gallery)), nearest first.

    The distance is the mean squared difference of pixels at ``side`` x ``side``.
    """

    def pixels(some: Sequence[Image.Image]) -> Tensor:
        return torch.stack([to_tensor(image.resize((side, side))) for image in some]).flatten(1)

    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(pixels(images), pixels(gallery), compute_mode=exact).argsort(dim=1, stable=True)
