"""Reading: the model sees the image of a word and writes its letters.

The document is [image, text]; the text is taken greedily and compared without white space at either end.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from ..fusion_lm.generate import Generated, generate
from ..fusion_lm.grammar import Next
from ..fusion_lm.model import FusionLM
from ..fusion_lm.sampling import Sampling
from ..tokenizers.documents import DocumentTokenizer, TextPart, interleave, split
from .items import Item, Progress
from .text_metrics import grouped, text_scores

GREEDY = Sampling(temperature=0)


def evaluate_reading(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    items: Sequence[Item],
    *,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Let the model read each item's image; a JSON object.

    {"exact_match", "cer", "items", "by_kind", "by_length": the same for each kind and each number of
    characters, "rows": [{"text", "read", "correct", "kind", "name"}], "skipped": [why, for items without a
    text and for images that leave no room in the context]}. `max_new_tokens` limits what is read from one
    image (default: twice the longest text, at least 32).

    Raises ValueError when no item can be used.
    """
    skipped = [f"{item.name or 'an image'}: no text to compare with" for item in items if not _text(item)]
    wanted = [item for item in items if _text(item)]
    prompts = image_prompts(tokenizer, [item.image for item in wanted])
    context = model.config.context_length
    usable = []
    for item, prompt in zip(wanted, prompts):
        if len(prompt) < context:
            usable.append((item, prompt))
        else:
            skipped.append(f"{item.name}: {len(prompt)} tokens leave no room in the context of {context}")
    if not usable:
        raise ValueError(f"there is nothing to read: {skipped[0] if skipped else 'no images were given'}")
    if max_new_tokens is None:
        longest = max(len(tokenizer.text.encode(_text(item))) for item, _ in usable)
        max_new_tokens = max(32, 2 * longest)
    results = continue_prompts(
        model,
        tokenizer,
        [prompt for _, prompt in usable],
        then="text",
        max_new_tokens=max_new_tokens,
        max_images=0,
        batch_size=batch_size,
        text=GREEDY,
        progress=progress and (lambda done, total: progress("reading", done, total)),
    )
    rows = []
    for (item, _), result in zip(usable, results):
        text, read = _text(item), written_text(tokenizer, result)
        rows.append(
            {"text": text, "read": read, "correct": text == read, "kind": item.kind, "name": item.name}
        )
    return {"kind": "reading", **row_scores(rows, "read"), "rows": rows, "skipped": skipped}


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
    progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """`generate` in batches of prompts of about the same length; results in the order of the prompts.

    The longest come first, so that one that is too long is refused at once. `progress` gets (prompts done, of
    how many).
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    results: dict[int, Generated] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
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
            seed=seed + start,
        )
        results.update(zip(batch, outputs))
        if progress is not None:
            progress(len(results), len(prompts))
    return [results[i] for i in range(len(prompts))]


def table(result: dict[str, Any]) -> Table:
    """The result of `evaluate_reading` for a terminal."""
    out = Table(title=f"Reading {result['items']} images", title_justify="left", box=SIMPLE_HEAD)
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
