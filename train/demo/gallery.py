"""What the demo's report shows: pictures before and after, drawings, and documents of text and pictures."""

import random
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ...data.render.openmoji import Concept, render_drawing
from ...data.render.split import BOTH, DRAW, THIS_TYPED, TYPED, demo_concepts, sentence
from ...eval.items import Item
from ...eval.metrics.ocr import Reader
from ...eval.report.tokens import describe
from ...eval.tasks.naming import nearest_of
from ...eval.tasks.reconstruction import reconstruct_pictures
from ...fusion_lm.folder import Model
from ...fusion_lm.generate import Generated, generate
from ...fusion_lm.grammar import Next
from ...tokenizers.documents import DocumentTokenizer, Segment
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.pixels import to_pil
from ...tokenizers.progress import Progress
from .budget import DemoBudget

SHOWN = 16
"""Drawings that the report shows."""


def reconstruction_gallery(
    tokenizer: ImageTokenizer,
    words: Sequence[Item],
    new_fonts: Sequence[Item],
    large: Sequence[Item],
    pictures: Sequence[Item],
    reader: Reader,
) -> dict[str, list[dict[str, Any]]]:
    """The first of each, before and after the image tokenizer, for the report."""
    out: dict[str, list[dict[str, Any]]] = {}
    for title, items in (
        ("Words in training fonts", words[:10]),
        ("Words in held-out fonts", new_fonts[:10]),
        ("Larger type in held-out fonts", large[:6]),
        ("Pictures of held-out things", pictures[:12]),
    ):
        after = reconstruct_pictures(tokenizer, [item.image for item in items])
        read = reader.read(after) if items[0].text else [None] * len(items)
        out[title] = [
            {
                "original": item.image,
                "reconstruction": image,
                "caption": f"{item.size:g} px" if item.size else "",
                **({"text": item.text, "read": text} if item.text else {}),
            }
            for item, image, text in zip(items, after, read)
        ]
    return out


def sample_gallery(
    model: Model, budget: DemoBudget, seed: int, progress: Progress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Drawings from training names and interleaved documents for the report, and all drawings."""
    rng, things, tokenizer = random.Random(f"samples {seed}"), demo_concepts().train, model.tokenizer
    size = budget.corpus.picture_size
    asked = rng.sample(things, min(budget.drawings, len(things)))
    prompts: list[list[Segment]] = [[sentence(DRAW, concept.name)] for concept in asked]
    results = _continue(model, budget, seed, prompts, "image", progress, "drawing", single=True)
    drawings = _nearest(tokenizer, asked, results, things, size)
    documents: list[dict[str, Any]] = []
    strip: list[tuple[str, str]] = []
    beginnings = _beginnings(rng, things, size)
    nexts: tuple[Next, ...] = ("image", "any")
    for then in nexts:
        prompts = [prompt for prompt, kind in beginnings if kind == then]
        results = _continue(model, budget, seed, prompts, then, progress, f"documents, {then} next")
        documents += [_document(tokenizer, prompt, result) for prompt, result in zip(prompts, results)]
        strip = strip or [(token.kind, token.says) for token in describe(tokenizer, results[0].tokens)]
    return {"drawings": drawings[:SHOWN], "documents": documents, "tokens": strip}, drawings


def _continue(
    model: Model,
    budget: DemoBudget,
    seed: int,
    prompts: Sequence[Sequence[Segment]],
    then: Next,
    progress: Progress,
    what: str,
    single: bool = False,
) -> list[Generated]:
    """Continue documents until they end (or ``single``: until their first image)."""
    lm, tokenizer = model
    return generate(
        lm,
        tokenizer.vocab,
        [tokenizer.encode(prompt, eos=False) for prompt in prompts],
        max_new_tokens=lm.config.context_length,
        text=budget.text,
        image=budget.drawing,
        then=then,
        max_images=1 if single else None,
        stop_after_image=single,
        seed=seed,
        progress=lambda step, steps: progress(what, step, steps),
    )


def _beginnings(rng: random.Random, things: Sequence[Concept], size: int) -> list[tuple[list[Segment], Next]]:
    """Beginnings of documents, and what is to come next."""
    short = [concept for concept in things if len(concept.name) <= 10]
    a, b, c, d, e, f, g = rng.sample(short, 7)
    apple = next((concept for concept in things if concept.name == "red apple"), a)

    def picture(concept: Concept) -> Image.Image:
        return render_drawing(concept.drawings[0], size)

    return [
        ([picture(apple)], "image"),  # its name in type
        ([picture(a)], "image"),
        ([picture(b), sentence(THIS_TYPED, b.name)], "image"),
        ([sentence(TYPED, c.name)], "image"),
        ([sentence(BOTH, d.name, e.name)], "any"),
        ([sentence(BOTH, f.name, g.name)], "any"),
        *(([], "any") for _ in range(4)),
    ]


def _document(tokenizer: DocumentTokenizer, prompt: Sequence[Segment], result: Generated) -> dict[str, Any]:
    """Prompt and continuation for `report`."""
    parts: list[dict[str, Any]] = [
        {"text" if isinstance(segment, str) else "image": segment, "prompt": True} for segment in prompt
    ]
    for segment in tokenizer.decode(result.tokens[result.prompt_length :], partial="drop"):
        parts.append({"text": segment} if isinstance(segment, str) else {"image": to_pil(segment)})
    return {"parts": parts, "stop": result.stop}


def _nearest(
    tokenizer: DocumentTokenizer,
    asked: Sequence[Concept],
    results: Sequence[Generated],
    things: Sequence[Concept],
    size: int,
) -> list[dict[str, Any]]:
    """Each drawing beside the training picture with the smallest mean squared difference of pixels."""
    known = [(concept.name, render_drawing(stem, size)) for concept in things for stem in concept.drawings]
    blank = Image.new("RGB", (size, size), "white")
    drawn = []
    for result in results:
        segments = tokenizer.decode(result.tokens[result.prompt_length :], partial="drop")
        drawn.append(next((to_pil(segment) for segment in segments if isinstance(segment, Tensor)), None))
    order = nearest_of([picture or blank for picture in drawn], [image for _, image in known], size)
    drawings = []
    for concept, picture, index in zip(asked, drawn, order[:, 0].tolist(), strict=True):
        name, nearest = known[index]
        drawings.append(
            {
                "prompt": sentence(DRAW, concept.name),
                "name": concept.name,
                "picture": picture,
                "nearest": nearest,
                "nearest_name": name,
            }
        )
    return drawings
