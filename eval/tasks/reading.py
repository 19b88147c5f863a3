"""Reading: the model sees the image of a word and writes its letters.

The document is [image, text]; the text is taken greedily and compared without white space at either end.

An image can be read in several views, moved sideways by a pixel each: what the border of a code cuts in one
stands within a code in the other. Each view is read greedily and a few times by sampling, and of all that is
read that is taken which goes best with all views, both ways.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from ...fusion_lm.generate import Generated, generate
from ...fusion_lm.grammar import Next
from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import Sampling
from ...fusion_lm.scores import both_ways
from ...tokenizers.documents import DocumentTokenizer, TextPart, interleave, split
from ...tokenizers.progress import Progress
from ..items import Item
from ..metrics.text import grouped, text_scores

GREEDY = Sampling(temperature=0)
DRAWN = 3
"""Readings of each of several views that are sampled, at temperature 1, beside the greedy one."""


def evaluate_reading(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    items: Sequence[Item],
    *,
    views: int = 1,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Let the model read each item's image; a JSON object.

    {"exact_match", "cer", "items", "by_kind", "by_length": the same for each kind and each number of
    characters, "views", "rows": [{"text", "read", "correct", "kind", "name"}], "skipped": [why, for items
    without a text and for images that leave no room in the context]}. Each image is read in so many `views`,
    see `shifted`. `max_new_tokens` limits what is read from one image (default: twice the longest text, at
    least 32); `seed` is that of what is sampled.

    Raises ValueError when no item can be used, and for more views than a code is wide.
    """
    factor = tokenizer.image.factor
    if not 1 <= views <= factor:
        raise ValueError(f"views is {views}, expected 1 to {factor}, the width of a code in px")
    skipped = [f"{item.name or 'an image'}: no text to compare with" for item in items if not _text(item)]
    wanted = [item for item in items if _text(item)]
    pixels = [tokenizer.pixels(item.image) for item in wanted]
    prompts = image_prompts(tokenizer, pixels)
    context = model.config.context_length
    usable = []
    for item, image, prompt in zip(wanted, pixels, prompts):
        if len(prompt) < context:
            usable.append((item, image, prompt))
        else:
            skipped.append(f"{item.name}: {len(prompt)} tokens leave no room in the context of {context}")
    if not usable:
        raise ValueError(f"there is nothing to read: {skipped[0] if skipped else 'no images were given'}")
    if max_new_tokens is None:
        longest = max(len(tokenizer.text.encode(_text(item))) for item, *_ in usable)
        max_new_tokens = max(32, 2 * longest)
    seen, readings = [], []  # prompts of each view, and all that was read, of each item
    for view in range(views):
        moved = [shifted(image, view) for _, image, _ in usable]
        seen.append(image_prompts(tokenizer, moved) if view else [prompt for *_, prompt in usable])
        for drawn in range(1 + DRAWN if views > 1 else 1):
            what = f"reading, view {view + 1}, {drawn + 1} of {1 + DRAWN}" if views > 1 else "reading"
            results = continue_prompts(
                model,
                tokenizer,
                seen[-1],
                then="text",
                max_new_tokens=max_new_tokens,
                max_images=0,
                batch_size=batch_size,
                text=Sampling() if drawn else GREEDY,
                seed=seed + len(usable) * (view * DRAWN + drawn),
                progress=progress and (lambda done, total, what=what: progress(what, done, total)),
            )
            readings.append([written_text(tokenizer, result) for result in results])
    rows = []
    for number, (item, *_) in enumerate(usable):
        found = list(dict.fromkeys(texts[number] for texts in readings))
        prompts = [some[number] for some in seen]
        text, read = _text(item), found[0] if len(found) == 1 else _fitting(model, tokenizer, prompts, found)
        rows.append(
            {"text": text, "read": read, "correct": text == read, "kind": item.kind, "name": item.name}
        )
        if progress is not None and views > 1:
            progress("comparing the readings", len(rows), len(usable))
    return {"kind": "reading", "views": views, **row_scores(rows, "read"), "rows": rows, "skipped": skipped}


def shifted(pixels: Tensor, view: int) -> Tensor:
    """The views of an image (3, H, W): as it is, moved right by 1 px, left by 1, right by 2, ...; its border
    is repeated."""
    by = (view + 1) // 2 * (1 if view % 2 else -1)
    padded = F.pad(pixels[None], (abs(by), abs(by), 0, 0), mode="replicate")[0]
    return padded[..., abs(by) - by :][..., : pixels.shape[-1]]


def _fitting(
    model: FusionLM, tokenizer: DocumentTokenizer, prompts: Sequence[Tensor], texts: Sequence[str]
) -> str:
    """The text that goes best with the views of an image, which `prompts` hold."""

    def worth(text: str) -> float:
        ids = tokenizer.vocab.text_to_tokens(torch.tensor(tokenizer.text.encode(text), dtype=torch.int64))
        documents = [torch.cat([prompt, ids])[: model.config.context_length] for prompt in prompts]
        both = (both_ways(model, tokenizer.vocab, d, len(p)) for d, p in zip(documents, prompts))
        return sum(both)

    return max(texts, key=worth)


def row_scores(rows: Sequence[dict[str, Any]], read: str) -> dict[str, Any]:
    """{"items", "exact_match", "cer", "by_kind", "by_length"} of rows with "text", "kind" and `read`."""

    def scores(some: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"items": len(some), **text_scores([row["text"] for row in some], [row[read] for row in some])}

    kinds, lengths = grouped(rows, lambda row: row["kind"]), grouped(rows, lambda row: len(row["text"]))
    return {
        **scores(rows),
        "by_kind": {kind: scores(some) for kind, some in kinds.items()},
        "by_length": {str(length): scores(some) for length, some in lengths.items()},
    }


def image_prompts(tokenizer: DocumentTokenizer, images: Sequence[Any]) -> list[Tensor]:
    """PIL images -> prompts (T,): begin of document, then the image, fitted to what the tokenizer takes."""
    codes = tokenizer.encode_images([tokenizer.pixels(image) for image in images])
    return [interleave([("image", grid)], tokenizer.vocab, eos=False) for grid in codes]


def written_text(tokenizer: DocumentTokenizer, result: Generated) -> str:
    """The text that was written after the prompt, without white space at either end."""
    parts = split(result.tokens[result.prompt_length :], tokenizer.vocab, partial="drop")
    return "".join(tokenizer.text.decode(p.ids.tolist()) for p in parts if isinstance(p, TextPart)).strip()


def continue_prompts(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    prompts: Sequence[Tensor],
    *,
    then: Next,
    max_new_tokens: int,
    max_images: int,
    batch_size: int,
    stop_after_image: bool = False,
    text: Sampling = GREEDY,
    image: Sampling = GREEDY,
    seed: int = 0,
    best_of: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Generated]:
    """`generate` in batches of prompts of about the same length; results in the order of the prompts.

    A batch has `batch_size` rows, `best_of` for each prompt; `options` are others of `generate`. The longest
    come first, so that one that is too long is refused at once. `progress` gets (prompts done, of how many).
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    results: dict[int, Generated] = {}
    size = max(1, batch_size // best_of)
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        outputs = generate(
            model,
            tokenizer.vocab,
            [prompts[i] for i in batch],
            max_new_tokens=max_new_tokens,
            text=text,
            image=image,
            then=then,
            max_images=max_images,
            stop_after_image=stop_after_image,
            seed=seed + start * best_of,
            best_of=best_of,
            **options,
        )
        results.update(zip(batch, outputs))
        if progress is not None:
            progress(len(results), len(prompts))
    return [results[i] for i in range(len(prompts))]


def table(result: dict[str, Any]) -> Table:
    """The result of `evaluate_reading` for a terminal."""
    views = f" in {result['views']} views" if result["views"] > 1 else ""
    out = Table(title=f"Reading {result['items']} images{views}", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "texts", "exact match", "CER"):
        out.add_column(name, justify="right" if name else "left")
    for name, row in score_rows(result):
        out.add_row(escape(name), str(row["items"]), f"{row['exact_match']:.3f}", f"{row['cer']:.3f}")
    if result["skipped"]:
        out.caption = f"{len(result['skipped'])} skipped: {escape(result['skipped'][0])}"
    return out


def score_rows(scores: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The result of `row_scores` as lines of a table: all, each kind, each length."""
    return [
        ("all", scores),
        *((f"  {kind}", row) for kind, row in scores["by_kind"].items()),
        *((f"  {length} characters", row) for length, row in scores["by_length"].items()),
    ]


def _text(item: Item) -> str:
    return (item.text or "").strip()
