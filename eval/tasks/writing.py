"""Writing: the model gets a word and draws its image, which OCR readers then read.

The document is [text, image]. Every score stands beside its ceiling where the words are also given in type:
what the readers make of the original, and of what the image tokenizer leaves of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from ...fusion_lm.choices import BestBy
from ...fusion_lm.generate import Guidance
from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import Sampling
from ...tokenizers.documents import DocumentTokenizer, ImagePart, interleave, split
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.pixels import fit, to_pil
from ...tokenizers.progress import Progress
from ..items import Item, Word
from ..metrics.ocr import INSTALL, Reader, read_with
from ..metrics.text import grouped, mean, text_scores
from .reading import GREEDY, continue_prompts, row_scores, score_rows
from .reconstruction import reconstruct_pictures, show


def evaluate_writing(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    words: Sequence[Word],
    readers: Sequence[Reader],
    *,
    originals: Sequence[Item] = (),
    pictures: Sequence[Image.Image | None] | None = None,
    sampling: Sampling = GREEDY,
    guidance: Guidance = Guidance(),
    best_of: int = 1,
    best_by: BestBy = "forward",
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Let the model write each word and the readers read it; a JSON object.

    {"exact_match", "cer", "items", "by_kind", "by_length": by the first reader ("reader"); "by_reader": the
    same by each; "all_readers_exact_match": share that every reader reads right; "unfinished": words without
    a finished picture, which count as read as ""; "rows": [{"text", "kind", "size": [width, height] or None,
    and the reading by each reader's name}]; with `originals` (the same words in type) "ceiling": {reader:
    {"original", "reconstruction": {"exact_match", "cer"}}}}.

    `pictures` are what `write_words` gave for these words and settings, where they are at hand already.
    Raises ValueError without readers and without words.
    """
    if not readers:
        raise ValueError(f"writing is judged by OCR: {INSTALL}")
    if not words:
        raise ValueError("there are no words to write")
    if pictures is None:
        pictures = write_words(
            model,
            tokenizer,
            words,
            sampling=sampling,
            guidance=guidance,
            best_of=best_of,
            best_by=best_by,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
    rows: list[dict[str, Any]] = [
        {"text": word.text.strip(), "kind": word.kind, "size": list(picture.size) if picture else None}
        for word, picture in zip(words, pictures, strict=True)
    ]
    finished = [i for i, picture in enumerate(pictures) if picture is not None]
    for reader in readers:
        texts = read_with(reader, [p for p in pictures if p is not None], "written words", progress)
        for row in rows:
            row[reader.name] = ""
        for i, text in zip(finished, texts):
            rows[i][reader.name] = text
    by_reader = {r.name: {"version": r.version, **row_scores(rows, r.name)} for r in readers}
    first = by_reader[readers[0].name]
    result = {
        "kind": "writing",
        "reader": readers[0].name,
        **{name: value for name, value in first.items() if name != "version"},
        "by_reader": by_reader,
        "all_readers_exact_match": mean(
            float(all(row[r.name] == row["text"] for r in readers)) for row in rows
        ),
        "unfinished": len(pictures) - len(finished),
        "sampling": {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "guidance": guidance.text,
            "best_of": best_of,
            "best_by": best_by,
        },
        "seed": seed,
        "rows": rows,
    }
    if originals:
        result["ceiling"] = ceiling(tokenizer.image, originals, readers, progress=progress)
    return result


def write_words(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    words: Sequence[Word],
    *,
    sampling: Sampling = GREEDY,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> list[Image.Image | None]:
    """The picture that the model draws after each word; None where it found no room to finish one.

    The model chooses the picture's size. `options` are others of `generate`: guidance, best_of, best_by.
    Raises ValueError for a text that cannot be encoded, naming it, and for one that leaves no room in the
    context.
    """
    prompts = []
    for word in words:
        try:
            ids = torch.tensor(tokenizer.text.encode(word.text), dtype=torch.int64)
        except ValueError as error:
            raise ValueError(f"{word.text!a} cannot be written: {error}") from None
        prompts.append(interleave([("text", ids)], tokenizer.vocab, eos=False))
    told = progress and (lambda done, total: progress("writing", done, total))
    return draw_after(
        model, tokenizer, prompts, sampling, batch_size=batch_size, seed=seed, progress=told, **options
    )


def draw_after(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    prompts: Sequence[Tensor],
    sampling: Sampling,
    *,
    batch_size: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
    **options: Any,
) -> list[Image.Image | None]:
    """The picture that the model draws after each prompt; None where it found no room to finish one."""
    results = continue_prompts(
        model,
        tokenizer,
        prompts,
        then="image",
        max_new_tokens=model.config.context_length,  # the context itself is the limit
        max_images=1,
        stop_after_image=True,
        batch_size=batch_size,
        image=sampling,
        seed=seed,
        progress=progress,
        **options,
    )
    parts = [split(r.tokens[r.prompt_length :], tokenizer.vocab, partial="drop") for r in results]
    codes = [next((part.codes for part in some if isinstance(part, ImagePart)), None) for some in parts]
    return draw_codes(tokenizer.image, codes)


@torch.no_grad()
def draw_codes(
    tokenizer: ImageTokenizer, codes: Sequence[Tensor | None], batch_size: int = 32
) -> list[Image.Image | None]:
    """Codes (h, w) -> pictures, batched by size; None stays None."""
    device = next(tokenizer.parameters()).device
    pictures: list[Image.Image | None] = [None] * len(codes)
    sizes = [None if grid is None else tuple(grid.shape) for grid in codes]
    for same in grouped(range(len(codes)), lambda i: sizes[i]).values():
        for some in (same[i : i + batch_size] for i in range(0, len(same), batch_size)):
            batch = torch.stack([grid for i in some if (grid := codes[i]) is not None])
            for i, picture in zip(some, tokenizer.decode(batch.to(device))):
                pictures[i] = to_pil(picture)
    return pictures


def ceiling(
    tokenizer: ImageTokenizer,
    originals: Sequence[Item],
    readers: Sequence[Reader],
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """How the readers read the same words in type, and after the image tokenizer.

    A model that draws type as faithfully as its codes can writes as well as the latter. One that chooses can
    do better: other sizes, fonts and drawings than those of the type may be easier to read.

    {reader: {"original": {"exact_match", "cer"}, "reconstruction": {...}}}
    """
    usable = [item for item in originals if item.text]
    texts = [(item.text or "").strip() for item in usable]
    before = [fit(item.image, tokenizer.factor, "resize") for item in usable]
    after = reconstruct_pictures(tokenizer, before)
    return {
        reader.name: {
            side: text_scores(texts, read_with(reader, images, f"ceiling, {side}", progress))
            for side, images in (("original", before), ("reconstruction", after))
        }
        for reader in readers
    }


def table(result: dict[str, Any]) -> Table:
    """The result of `evaluate_writing` for a terminal."""
    sampling, title = result["sampling"], f"Writing {result['items']} words"
    if sampling["guidance"] != 1:
        title += f", guidance {sampling['guidance']:g}"
    if sampling["best_of"] > 1:
        title += f", best of {sampling['best_of']}"
    out = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "words", "exact match", "CER"):
        out.add_column(name, justify="right" if name else "left")
    for reader, scores in result["by_reader"].items():
        out.add_section()
        out.add_row(f"read by {reader} {scores['version']}")
        for name, row in score_rows(scores):
            out.add_row(escape(name), str(row["items"]), show(row["exact_match"]), show(row["cer"]))
        for side, row in result.get("ceiling", {}).get(reader, {}).items():
            name = {"original": "words in type", "reconstruction": "after the image tokenizer"}[side]
            out.add_row(f"  ceiling: {name}", "", show(row["exact_match"]), show(row["cer"]))
    if result["unfinished"]:
        out.caption = f"{result['unfinished']} without a finished picture, counted as read as nothing"
    return out
