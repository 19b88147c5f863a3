"""Rollouts: samples of the current model after a batch of prompts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ...eval.tasks.continuations import draw_codes, written_text
from ...fusion_lm.generate import Generated
from ...fusion_lm.model import FusionLM
from ...fusion_lm.policy import Draws, draw
from ...tokenizers.documents import DocumentTokenizer, split
from .samples import Kind, Prompt, Sample

CONTINUED: dict[Kind, dict[str, Any]] = {
    "write": {"then": "image", "max_blocks": 1, "stop_after": "image"},
    "read": {"then": "text", "max_blocks": 0},
}
"""How prompts of each kind are continued: options of generation."""


class Rollout(NamedTuple):
    """Samples of all prompts, those of a prompt one after the other."""

    draws: Draws
    samples: list[Sample]


def roll_out(
    net: FusionLM,
    tokenizer: DocumentTokenizer,
    prompts: Sequence[Prompt],
    samples: int,
    *,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    **options: Any,
) -> Rollout:
    """Continue each prompt ``samples`` times.

    Args:
        net: The transformer.
        tokenizer: Its tokenizers.
        prompts: The prompts; kinds may be mixed.
        samples: Samples of each prompt.
        seed: Random seed of the first sample; the others have the next numbers.
        max_new_tokens: Most new tokens of a sample.
        batch_size: Rows that are generated together.
        options: Further options of generation, for all prompts.
    """
    rows = [(i, prompts[i // samples]) for i in range(len(prompts) * samples)]
    parts, order = [], []
    for kind, how in CONTINUED.items():
        mine = [(i, prompt) for i, prompt in rows if prompt.kind == kind]
        for start in range(0, len(mine), batch_size):
            batch = mine[start : start + batch_size]
            part = draw(
                net,
                tokenizer.vocab,
                [prompt.tokens for _, prompt in batch],
                seed=[seed + i for i, _ in batch],
                max_new_tokens=max_new_tokens,
                **how,
                **options,
            )
            parts.append(part)
            order += [i for i, _ in batch]
    places = {i: place for place, i in enumerate(order)}
    draws = Draws.joined(parts).rows([places[i] for i in range(len(rows))])
    return Rollout(draws, samples_of(tokenizer, [prompt for _, prompt in rows], draws))


def samples_of(tokenizer: DocumentTokenizer, prompts: Sequence[Prompt], draws: Draws) -> list[Sample]:
    """What was drawn after each prompt, as text and picture."""
    codes = []
    for document, length in zip(draws.documents, draws.prompt_lengths):
        parts = split(document[length:], tokenizer.vocab, partial="drop")
        codes.append(next((part.values for part in parts if part.kind == "image"), None))
    with torch.no_grad():
        pictures = draw_codes(tokenizer.image, codes)
    found = []
    rows = zip(prompts, draws.documents, draws.prompt_lengths, draws.stops, pictures, strict=True)
    for prompt, document, length, stop, picture in rows:
        text = written_text(tokenizer, Generated(document, length, stop, 0.0))
        found.append(Sample(prompt, document, stop, text, picture))
    return found
