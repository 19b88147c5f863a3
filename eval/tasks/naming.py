"""Naming: the model sees a picture and says what it is, beside the name of the nearest picture that it knows.

The document is [picture, "A red apple."]; the text is taken greedily. Right is the thing's name with its
article, whatever the case; of a longer text its first sentence counts, and "This is" before it does not.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from ...data.render.openmoji import Concept, place_drawing, render_drawing
from ...data.render.split import demo_concepts, described
from ...fusion_lm.model import FusionLM
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.pixels import to_tensor
from ...tokenizers.progress import Progress
from ..items import Item
from ..metrics.text import grouped, mean
from .reading import continue_prompts, image_prompts, written_text

SIDE = 48
"""Pixels of the demo's pictures."""
SIZES = range(35, SIDE, 2)
"""Pixels of the drawings that are named: odd ones, at odd places, which no training picture has."""
KNOWN, HELD_OUT = "known things", "held-out things"


def naming_items(seed: int = 0) -> list[Item]:
    """Each of the demo's things once, in a size and at a place that no training picture has.

    :raises ImportError: the extra ``demo`` is missing.
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
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Let the model name each item's picture; a JSON object.

    {"items", "exact_match", "token_f1", "nearest": the same two of the baseline, "by_kind": the same for each
    kind, "rows": [{"text", "named", "nearest", "kind", "name"}]}. ``text`` of an item is the thing's name;
    ``known`` are the things whose pictures the baseline compares with, pixel by pixel (mean squared
    difference of ``SIDE`` x ``SIDE`` pixels).

    :raises ValueError: there are no items.
    """
    if not items:
        raise ValueError("there are no pictures to name")
    results = continue_prompts(
        model,
        tokenizer,
        image_prompts(tokenizer, [item.image for item in items]),
        then="text",
        max_new_tokens=48,
        max_images=0,
        batch_size=batch_size,
        progress=progress and (lambda done, total: progress("naming", done, total)),
    )
    gallery = [(thing.name, render_drawing(stem, SIDE)) for thing in known for stem in thing.drawings]
    nearest = nearest_of([item.image for item in items], [image for _, image in gallery])
    rows = [
        {
            "text": item.text or "",
            "named": said(written_text(tokenizer, result)),
            "nearest": gallery[index][0],
            "kind": item.kind,
            "name": item.name,
        }
        for item, result, index in zip(items, results, nearest[:, 0].tolist(), strict=True)
    ]
    kinds = grouped(rows, lambda row: row["kind"])
    return {**scores(rows), "by_kind": {kind: scores(some) for kind, some in kinds.items()}, "rows": rows}


def said(text: str) -> str:
    """The thing that a caption names, with its article: "This is a red apple. Here ..." -> "a red apple"."""
    first = text.strip().split(".")[0].strip()
    return first.removeprefix("This is ").casefold()


def scores(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of some rows."""
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
    """F1 of the words that two texts share, as often as they do; the articles do not count (SQuAD,
    arXiv:1606.05250, section 6.1)."""
    a, b = ([w for w in text.split() if w not in ("a", "an", "the")] for text in (reference, hypothesis))
    shared = sum(min(a.count(word), b.count(word)) for word in set(a))
    if not shared:
        return float(a == b)
    return 2 * shared / (len(a) + len(b))


@torch.no_grad()
def nearest_of(images: Sequence[Image.Image], gallery: Sequence[Image.Image], side: int = SIDE) -> Tensor:
    """Indices into ``gallery`` (N, len(gallery)), the nearest first: by the mean squared difference of pixels
    at ``side`` x ``side``."""

    def pixels(some: Sequence[Image.Image]) -> Tensor:
        return torch.stack([to_tensor(image.resize((side, side))) for image in some]).flatten(1)

    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(pixels(images), pixels(gallery), compute_mode=exact).argsort(dim=1, stable=True)


def table(result: dict[str, Any]) -> Table:
    """The result of ``evaluate_naming`` for a terminal."""
    out = Table(title=f"Naming {result['items']} pictures", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "pictures", "exact", "token F1", "nearest: exact", "token F1"):
        out.add_column(name, justify="right" if name else "left")
    for name, row in (("all", result), *result["by_kind"].items()):
        figures = [
            f"{side[key]:.3f}" for side in (row, row["nearest"]) for key in ("exact_match", "token_f1")
        ]
        out.add_row(escape(name), str(row["items"]), *figures)
    return out
