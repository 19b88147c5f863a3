"""Drawing: the model draws a thing from its name; is the nearest picture one of that thing?

The document is ["A red apple:", picture]. The ceiling is the score of real pictures after the image
tokenizer: no model can draw more faithfully.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image

from ...data.render.openmoji import Concept, render_drawing
from ...data.render.split import DRAW, sentence
from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import Sampling
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.progress import Progress, silent
from .continuations import pictures_after
from .naming import SIDE, nearest_of
from .reconstruction import reconstruct_pictures

SAMPLING = Sampling(temperature=0.4)


class Drawn(NamedTuple):
    """The result of ``evaluate_drawing``."""

    figures: dict[str, Any]
    pictures: list[Image.Image | None]
    """One per thing; None if unfinished."""


def evaluate_drawing(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    things: Sequence[Concept],
    *,
    sampling: Sampling = SAMPLING,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress = silent,
) -> Drawn:
    """Have the model draw each thing once.

    Returns:
        The figures, {"items", "nearest": fraction of drawings whose nearest picture, among those of all
        things, shows their thing, "nearest_5": the same for one of the five nearest, "ceiling": {"nearest",
        "nearest_5"} of real pictures after the image tokenizer, "chance", "unfinished", "sampling", "rows":
        [{"text", "nearest", "rank"}]}, and the drawings.

    Raises:
        ValueError: ``things`` is empty.
    """
    if not things:
        raise ValueError("things is empty: give at least one thing to draw")
    prompts = [tokenizer.encode([sentence(DRAW, thing.name)], eos=False).tokens for thing in things]
    drawings = pictures_after(
        model,
        tokenizer,
        prompts,
        sampling=sampling,
        batch_size=batch_size,
        seed=seed,
        what="drawing",
        progress=progress,
    )
    gallery = [(thing.name, render_drawing(stem, SIDE)) for thing in things for stem in thing.drawings]
    names, pictures = [name for name, _ in gallery], [picture for _, picture in gallery]
    blank = Image.new("RGB", (SIDE, SIDE), "white")
    wanted = [thing.name for thing in things]
    rows = _rows(wanted, [drawing or blank for drawing in drawings], names, pictures)
    real = [render_drawing(thing.drawings[0], SIDE) for thing in things]
    figures = {
        "items": len(things),
        **_shares(rows),
        "ceiling": _shares(_rows(wanted, reconstruct_pictures(tokenizer.image, real), names, pictures)),
        "chance": 1 / len(things),
        "unfinished": drawings.count(None),
        "sampling": {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p},
        "rows": rows,
    }
    return Drawn(figures, drawings)


def _rows(
    wanted: Sequence[str], drawn: Sequence[Image.Image], names: Sequence[str], pictures: Sequence[Image.Image]
) -> list[dict[str, Any]]:
    """The nearest picture to each drawing, and the rank (from 1) of the first picture of the wanted thing."""
    rows = []
    for name, indices in zip(wanted, nearest_of(drawn, pictures).tolist(), strict=True):
        ranked = [names[i] for i in indices]
        rows.append({"text": name, "nearest": ranked[0], "rank": ranked.index(name) + 1})
    return rows


def _shares(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        "nearest": sum(row["rank"] == 1 for row in rows) / len(rows),
        "nearest_5": sum(row["rank"] <= 5 for row in rows) / len(rows),
    }
