"""Writing: the model draws the image of a word, and OCR engines read it.

The document is [text, image]. If rendered images of the words are given too, every score has a ceiling: what
the engines read in the originals, and in their reconstructions by the image tokenizer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ...fusion_lm.choices import BestBy
from ...fusion_lm.guidance import Guidance
from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import Sampling
from ...tokenizers.documents import DocumentTokenizer, interleave
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.pixels import fit
from ...tokenizers.progress import Progress, silent
from ..items import Item, Word
from ..metrics.ocr import INSTALL, Reader, read_with
from ..metrics.text import mean, row_scores, text_scores
from .continuations import GREEDY, pictures_after
from .reconstruction import reconstruct_pictures


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
    progress: Progress = silent,
) -> dict[str, Any]:
    """Have the model write each word, and the readers read it.

    Args:
        words: Texts to write.
        readers: OCR engines.
        originals: Rendered images of the same words, for the ceiling.
        pictures: The result of ``write_words`` for these words and settings, if you have it.
        sampling: Of image codes; the other settings are those of ``generate``.

    Returns:
        A JSON object: {"exact_match", "cer", "items", "by_kind", "by_length": by the first reader ("reader");
        "by_reader": the same by each; "all_readers_exact_match": fraction that every reader reads correctly;
        "unfinished": words without a finished picture, which count as read as ""; "rows": [{"text", "kind",
        "size": [width, height] or None, and the reading by each reader's name}]; with ``originals``
        "ceiling": {reader: {"original", "reconstruction": {"exact_match", "cer"}}}}.

    Raises:
        ValueError: ``readers`` or ``words`` is empty.
    """
    if not readers:
        raise ValueError(f"cannot judge writing: {INSTALL}")
    if not words:
        raise ValueError("words is empty: give at least one word to write")
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
    progress: Progress = silent,
    **options: Any,
) -> list[Image.Image | None]:
    """The picture that the model draws after each word, in a size of its choice; None if unfinished.

    Args:
        options: Further options of ``generate``: guidance, best_of, best_by.

    Raises:
        ValueError: A text cannot be encoded (the message names it), or leaves no room in the context.
    """
    prompts = []
    for word in words:
        try:
            ids = torch.tensor(tokenizer.text.encode(word.text), dtype=torch.int64)
        except ValueError as error:
            raise ValueError(f"cannot write {word.text!a}: {error}") from None
        prompts.append(interleave([("text", ids)], tokenizer.vocab, eos=False))
    return pictures_after(
        model,
        tokenizer,
        prompts,
        sampling=sampling,
        batch_size=batch_size,
        seed=seed,
        what="writing",
        progress=progress,
        **options,
    )


def ceiling(
    tokenizer: ImageTokenizer,
    originals: Sequence[Item],
    readers: Sequence[Reader],
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """How well the readers read rendered images of the words, and their reconstructions.

    A model that draws type as faithfully as its codes allow reaches the score of the reconstructions. A model
    that chooses other sizes and fonts can exceed it: they may be easier to read.

    Returns:
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
