"""Form: how many sampled sequences are valid documents, with the grammar and without it?"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...fusion_lm.generate import generate
from ...fusion_lm.model import FusionLM
from ...fusion_lm.sampling import draw, uniforms
from ...tokenizers.documents import split
from ...tokenizers.progress import Progress, silent
from ...tokenizers.vocab import SharedVocab


def evaluate_form(
    model: FusionLM,
    vocab: SharedVocab,
    *,
    sequences: int = 10_000,
    without: int = 1_000,
    batch_size: int = 250,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Sample unprompted documents at temperature 1.

    Args:
        sequences: Documents to sample with the grammar.
        without: Documents to sample without the grammar.

    Returns:
        A JSON object: {"grammar": {"items", "well_formed": fraction of valid documents (or valid beginnings,
        if the context ended them), "complete": fraction that ended with eos, "images": finished images in
        all of them (and the same for other modalities)}, "free": the same without the grammar}.
    """
    start = torch.tensor([vocab.bos])
    context = model.config.context_length

    def governed(count: int, first: int) -> list[Tensor]:
        results = generate(model, vocab, [start] * count, max_new_tokens=context, seed=seed + first)
        return [result.tokens for result in results]

    def free(count: int, first: int) -> list[Tensor]:
        return free_sequences(model, vocab, count, seed + first)

    return {
        "grammar": _measure(vocab, governed, sequences, batch_size, "sequences", progress),
        "free": _measure(vocab, free, without, batch_size, "without the grammar", progress),
    }


@torch.inference_mode()
def free_sequences(model: FusionLM, vocab: SharedVocab, count: int, seed: int) -> list[Tensor]:
    """Sequences (T,) from bos to eos or the end of the context, sampled without the grammar."""
    context, device = model.config.context_length, model.embedding.weight.device
    numbers = uniforms([seed + row for row in range(count)], context - 1).to(device)
    cache = model.new_cache(count, context)
    tokens = torch.full((count, 1), vocab.bos, device=device)
    written, ended = [tokens], torch.zeros(count, dtype=torch.bool, device=device)
    for step in range(context - 1):
        logits = model(tokens, cache=cache)[:, -1].float()
        drawn = draw(logits, numbers[:, step])
        chosen = torch.where(ended | (drawn < 0), vocab.pad, drawn)
        tokens = chosen[:, None]
        written.append(tokens)
        ended |= chosen == vocab.eos
        if bool(ended.all()):
            break
    rows = torch.cat(written, dim=1).cpu()
    ends = [row.tolist().index(vocab.eos) + 1 if vocab.eos in row else len(row) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def is_document(tokens: Tensor, vocab: SharedVocab) -> bool:
    """Whether tokens (T,) are a document or the beginning of one."""
    if vocab.pad in tokens or vocab.bos in tokens[1:] or vocab.eos in tokens[:-1]:
        return False
    try:
        split(tokens, vocab, partial="error" if tokens[-1] == vocab.eos else "drop")
    except ValueError:
        return False
    return True


def _measure(
    vocab: SharedVocab,
    sample: Callable[[int, int], list[Tensor]],
    wanted: int,
    batch_size: int,
    what: str,
    progress: Progress,
) -> dict[str, Any]:
    formed = complete = done = 0
    blocks = {modality.name: 0 for modality in vocab.framed}
    while done < wanted:
        rows = sample(min(batch_size, wanted - done), done)
        done += len(rows)
        for row in rows:
            good = is_document(row, vocab)
            formed += good
            complete += good and int(row[-1]) == vocab.eos
            for modality in vocab.framed:
                blocks[modality.name] += int((row == vocab.roles[f"end_{modality.name}"]).sum())
        progress(what, done, wanted)
    return {
        "items": wanted,
        "well_formed": formed / wanted,
        "complete": complete / wanted,
        **{f"{name}s": number for name, number in blocks.items()},
    }
