"""What the demo's report shows: pictures before and after, drawings, and documents of text and pictures."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ...data.render.openmoji import Concept, render_drawing
from ...data.render.split import BOTH, DRAW, THIS_TYPED, TYPED, demo_concepts, sentence
from ...eval.items import Item, Word
from ...eval.metrics.ocr import Reader
from ...eval.report.page.html import TokenCell
from ...eval.report.tokens import describe, strip_cells
from ...eval.tasks.naming import nearest_of
from ...eval.tasks.reconstruction import reconstruct_pictures
from ...eval.tasks.writing import write_words
from ...fusion_lm.folder import Model
from ...fusion_lm.generate import Generated, generate
from ...fusion_lm.sampling import Sampling
from ...tokenizers.documents import DocumentTokenizer, Segment
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.pixels import to_pil
from ...tokenizers.progress import Progress, silent
from .corpus_files import LARGE, NEW_FONTS, PICTURES, WORDS

SHOWN = 24
"""Readings that the report shows; twice as many writings, of which it shows the first half."""
DRAWINGS = 16
"""Drawings that the report shows."""
SAMPLING = Sampling(temperature=0.4)
"""Of texts and images that are sampled."""
BATCH = 128
"""Thumbnails that are drawn at a time."""
FRAME = 8
"""Tokens of an image beside its codes, at most."""


def evaluation_gallery(
    model: Model,
    items: Mapping[str, Sequence[Item]],
    readings: Sequence[Mapping[str, str]],
    reader: Reader,
    seed: int,
) -> dict[str, Any]:
    """Pictures of what was measured: reconstructions, readings and writings.

    Args:
        model: The trained model.
        items: Held-out images by the name of their folder.
        readings: The first rows of ``evaluate_reading`` on the held-out words.
        reader: Reads reconstructions and written words.
        seed: Random seed.
    """
    lm, tokenizer = model
    words = items[WORDS]
    asked = [Word(item.text or "", item.kind) for item in words[: 2 * SHOWN]]
    drawn = write_words(lm, tokenizer, asked, seed=seed)
    finished = iter(reader.read([picture for picture in drawn if picture is not None]))
    return {
        "reconstructions": _reconstructions(tokenizer.image, items, reader),
        "readings": [
            {"image": item.image, "text": row["text"], "read": row["read"]}
            for item, row in zip(words[:SHOWN], readings)
        ],
        "writings": [
            {"text": word.text.strip(), "picture": picture, "read": "" if picture is None else next(finished)}
            for word, picture in zip(asked, drawn, strict=True)
        ],
    }


def _reconstructions(
    tokenizer: ImageTokenizer, items: Mapping[str, Sequence[Item]], reader: Reader
) -> dict[str, list[dict[str, Any]]]:
    """The first of each, before and after the image tokenizer."""
    out: dict[str, list[dict[str, Any]]] = {}
    for title, some in (
        ("Words in training fonts", items[WORDS][:10]),
        ("Words in new fonts", items[NEW_FONTS][:10]),
        ("Larger type in new fonts", items[LARGE][:6]),
        ("Pictures of held-out things", items[PICTURES][:12]),
    ):
        after = reconstruct_pictures(tokenizer, [item.image for item in some])
        read = reader.read(after) if some[0].text else [None] * len(some)
        out[title] = [
            {
                "original": item.image,
                "reconstruction": image,
                "caption": f"{item.size:g} px" if item.size else "",
                **({"text": item.text, "read": text} if item.text else {}),
            }
            for item, image, text in zip(some, after, read)
        ]
    return out


def sample_gallery(
    model: Model, drawings: int, size: int, seed: int, progress: Progress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Sample drawings and interleaved documents.

    Args:
        model: The trained model.
        drawings: Number of pictures to draw from training names.
        size: Pixels of a picture's side.
        seed: Random seed.
        progress: Called with what is done, how much of it, and the total.

    Returns:
        What the report shows, and all drawings.
    """
    rng, things, tokenizer = random.Random(f"samples {seed}"), demo_concepts().train, model.tokenizer
    asked = rng.sample(things, min(drawings, len(things)))
    prompts: list[list[Segment]] = [[sentence(DRAW, concept.name)] for concept in asked]
    results = _continue(model, seed, prompts, "image", progress, "drawing", single=True)
    drawn = _nearest(tokenizer, asked, results, things, size)
    documents: list[dict[str, Any]] = []
    strip: list[TokenCell] = []
    beginnings = _beginnings(rng, things, size)
    nexts: tuple[str, ...] = ("image", "any")
    for then in nexts:
        prompts = [prompt for prompt, kind in beginnings if kind == then]
        results = _continue(model, seed, prompts, then, progress, f"documents, {then} next")
        documents += [_document(tokenizer, prompt, result) for prompt, result in zip(prompts, results)]
        strip = strip or strip_cells(describe(tokenizer, results[0].tokens), results[0].prompt_length)
    return {"drawings": drawn[:DRAWINGS], "documents": documents, "tokens": strip}, drawn


def thumbnails(
    model: Model, prompts: Sequence[str], size: int, seed: int, progress: Progress
) -> list[Image.Image | None]:
    """Draw a picture of ``size`` px for each prompt, none picked; None: the model began a larger one."""
    drawn: list[Image.Image | None] = []
    vocab, factor = model.tokenizer.vocab, model.tokenizer.image.factor
    most = (size // factor) ** 2 * vocab["image"].slots + FRAME
    for start in range(0, len(prompts), BATCH):
        some = [[prompt] for prompt in prompts[start : start + BATCH]]
        results = _continue(model, seed + start, some, "image", silent, "", single=True, most=most)
        drawn += [_picture(model.tokenizer, result) for result in results]
        progress("thumbnails", len(drawn), len(prompts))
    return drawn


def _continue(
    model: Model,
    seed: int,
    prompts: Sequence[Sequence[Segment]],
    then: str,
    progress: Progress,
    what: str,
    single: bool = False,
    most: int | None = None,
) -> list[Generated]:
    """Continue documents until they end (or ``single``: until their first image), by ``most`` tokens."""
    lm, tokenizer = model
    return generate(
        lm,
        tokenizer.vocab,
        tokenizer.encode_many(prompts, eos=False),
        max_new_tokens=most or lm.config.context_length,
        sampling=SAMPLING,
        then=then,
        max_blocks=1 if single else None,
        stop_after="image" if single else None,
        seed=seed,
        progress=lambda step, steps: progress(what, step, steps),
    )


def _beginnings(rng: random.Random, things: Sequence[Concept], size: int) -> list[tuple[list[Segment], str]]:
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


def _picture(tokenizer: DocumentTokenizer, result: Generated) -> Image.Image | None:
    """The first picture of a continuation."""
    segments = tokenizer.decode(result.tokens[result.prompt_length :], partial="drop")
    return next((to_pil(segment) for segment in segments if isinstance(segment, Tensor)), None)


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
    drawn = [_picture(tokenizer, result) for result in results]
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
