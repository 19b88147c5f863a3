"""Continuations of prompts: texts and pictures, generated in batches of similar length."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...fusion_lm.generate import Generated, generate
from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import Sampling
from ...tokenizers.batches import equal_batches
from ...tokenizers.documents import DocumentTokenizer, interleave, split
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.pixels import to_pil
from ...tokenizers.progress import Progress, silent

GREEDY = Sampling(temperature=0)


def image_prompts(tokenizer: DocumentTokenizer, images: Sequence[Any]) -> list[Tensor]:
    """Prompts (T,) of one image each: PIL images or pixels, fitted to the sizes that the tokenizer takes."""
    codes = tokenizer.encode_inputs("image", [tokenizer.prepare("image", image) for image in images])
    return [interleave([("image", grid)], tokenizer.vocab, eos=False) for grid in codes]


def texts_after(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    prompts: Sequence[Tensor],
    *,
    max_new_tokens: int,
    what: str,
    sampling: Sampling = GREEDY,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress = silent,
) -> list[str]:
    """The text that the model writes after each prompt (T,), stripped of white space at both ends."""
    results = continue_prompts(
        model,
        tokenizer,
        prompts,
        then="text",
        max_new_tokens=max_new_tokens,
        max_blocks=0,
        sampling=sampling,
        batch_size=batch_size,
        seed=seed,
        what=what,
        progress=progress,
    )
    return [written_text(tokenizer, result) for result in results]


def pictures_after(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    prompts: Sequence[Tensor],
    *,
    what: str,
    sampling: Sampling = GREEDY,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress = silent,
    **options: Any,
) -> list[Image.Image | None]:
    """The picture that the model draws after each prompt (T,); None if the context ended first.

    Args:
        what: Name for ``progress``.
        sampling: Sampling of image codes.
        options: Further options of ``generate``, such as ``guidance``, ``best_of``, ``best_by``.
    """
    results = continue_prompts(
        model,
        tokenizer,
        prompts,
        then="image",
        max_new_tokens=model.config.context_length,  # the context itself is the limit
        max_blocks=1,
        stop_after="image",
        sampling={"text": GREEDY, "image": sampling},
        batch_size=batch_size,
        seed=seed,
        what=what,
        progress=progress,
        **options,
    )
    parts = [split(r.tokens[r.prompt_length :], tokenizer.vocab, partial="drop") for r in results]
    codes = [next((part.values for part in some if part.kind == "image"), None) for some in parts]
    return draw_codes(tokenizer.image, codes)


def continue_prompts(
    model: FusionLM,
    tokenizer: DocumentTokenizer,
    prompts: Sequence[Tensor],
    *,
    what: str,
    batch_size: int = 64,
    best_of: int = 1,
    seed: int = 0,
    progress: Progress = silent,
    **options: Any,
) -> list[Generated]:
    """``generate`` in batches of prompts of similar length; results in the order of the prompts.

    The longest prompts come first, so that a prompt that is too long fails at once.

    Args:
        batch_size: Rows per batch, ``best_of`` for each prompt.
        options: Further options of ``generate``.
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
            seed=seed + start * best_of,
            best_of=best_of,
            **options,
        )
        results.update(zip(batch, outputs))
        progress(what, len(results), len(prompts))
    return [results[i] for i in range(len(prompts))]


def written_text(tokenizer: DocumentTokenizer, result: Generated) -> str:
    """The text after the prompt, stripped of white space at both ends."""
    parts = split(result.tokens[result.prompt_length :], tokenizer.vocab, partial="drop")
    return "".join(tokenizer.text.decode(p.values.tolist()) for p in parts if p.kind == "text").strip()


@torch.no_grad()
def draw_codes(
    tokenizer: ImageTokenizer, codes: Sequence[Tensor | None], batch_size: int = 32
) -> list[Image.Image | None]:
    """Decode codes (h, w) or (h, w, n) to pictures, batched by size; None stays None."""
    device = next(tokenizer.parameters()).device
    pictures: list[Image.Image | None] = [None] * len(codes)
    for some in equal_batches([None if grid is None else grid.shape for grid in codes], batch_size):
        batch = torch.stack([grid for i in some if (grid := codes[i]) is not None])
        for i, picture in zip(some, tokenizer.decode(batch.to(device))):
            pictures[i] = to_pil(picture)
    return pictures
