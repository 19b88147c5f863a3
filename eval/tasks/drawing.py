"""Drawing: the model gets a thing's name and draws it; is the drawing nearest to the picture of that thing?

The document is ["A red apple:", picture]. Beside the drawings stand real pictures after the image tokenizer,
which is as well as any model can draw.
"""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ...data.render.openmoji import Concept, render_drawing
from ...data.render.split import DRAW, sentence
from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import Sampling
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.progress import Progress
from .naming import SIDE, nearest_of
from .reconstruction import reconstruct_pictures
from .writing import draw_after

SAMPLING = Sampling(temperature=0.4)


def evaluate_drawing(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    things: Sequence[Concept],
    *,
    sampling: Sampling = SAMPLING,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[Image.Image | None]]:
    """Let the model draw each thing once; a JSON object, and the drawings, None where one was not finished.

    {"items", "nearest": share of drawings that are nearest to a picture of their thing among those of all
    things, "nearest_5": to one of the five nearest, "ceiling": {"nearest", "nearest_5"} of the real pictures
    after the image tokenizer, "chance", "unfinished", "sampling", "rows": [{"text", "nearest", "rank"}]}.

    :raises ValueError: there are no things.
    """
    if not things:
        raise ValueError("there is nothing to draw")
    prompts = [tokenizer.encode([sentence(DRAW, thing.name)], eos=False) for thing in things]
    told = progress and (lambda done, total: progress("drawing", done, total))
    drawings = draw_after(
        model, tokenizer, prompts, sampling, batch_size=batch_size, seed=seed, progress=told
    )
    gallery = [(thing.name, render_drawing(stem, SIDE)) for thing in things for stem in thing.drawings]
    names, pictures = [name for name, _ in gallery], [picture for _, picture in gallery]
    blank = Image.new("RGB", (SIDE, SIDE), "white")
    asked = [thing.name for thing in things]
    rows = _rows(asked, [drawing or blank for drawing in drawings], names, pictures)
    real = [render_drawing(thing.drawings[0], SIDE) for thing in things]
    result = {
        "items": len(things),
        **_shares(rows),
        "ceiling": _shares(_rows(asked, reconstruct_pictures(tokenizer.image, real), names, pictures)),
        "chance": 1 / len(things),
        "unfinished": drawings.count(None),
        "sampling": {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p},
        "rows": rows,
    }
    return result, drawings


def _rows(
    asked: Sequence[str], drawn: Sequence[Image.Image], names: Sequence[str], pictures: Sequence[Image.Image]
) -> list[dict[str, Any]]:
    """What each is nearest to, and the rank of the first picture of its own thing, from 1."""
    order = nearest_of(drawn, pictures).tolist()
    rows = []
    for name, indices in zip(asked, order, strict=True):
        ranked = [names[i] for i in indices]
        rows.append({"text": name, "nearest": ranked[0], "rank": ranked.index(name) + 1})
    return rows


def _shares(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        "nearest": sum(row["rank"] == 1 for row in rows) / len(rows),
        "nearest_5": sum(row["rank"] <= 5 for row in rows) / len(rows),
    }


def table(result: dict[str, Any]) -> Table:
    """The result of ``evaluate_drawing`` for a terminal."""
    out = Table(title=f"Drawing {result['items']} things", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "nearest is the thing's picture", "one of five"):
        out.add_column(name, justify="right" if name else "left")
    out.add_row("drawn", f"{result['nearest']:.3f}", f"{result['nearest_5']:.3f}")
    ceiling = result["ceiling"]
    out.add_row(
        "ceiling: after the image tokenizer", f"{ceiling['nearest']:.3f}", f"{ceiling['nearest_5']:.3f}"
    )
    out.add_row("chance", f"{result['chance']:.3f}", f"{5 * result['chance']:.3f}")
    return out
