"""Batches of training.py: full windows, and documents packed for ours and padded for theirs."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from earlyfusion.data.packing import Document, pack
from earlyfusion.data.windows import Windows
from earlyfusion.fusion_lm.loss import IGNORE
from earlyfusion.fusion_lm.model import FusionLMConfig
from earlyfusion.tokenizers.vocab import SharedVocab

PAD = 1
"""The padding token. Documents are random tokens above it: only their lengths matter for the speed."""
STORED = Path(__file__).with_name("training.json")
"""Has the lengths of the demo's documents."""


class Batch(NamedTuple):
    """The input of a training step."""

    inputs: dict[str, Tensor]
    """Arguments of the network."""
    useful: int
    """Tokens without padding."""


def equal(
    config: FusionLMConfig, windows: int, steps: int, rng: np.random.Generator
) -> tuple[list[Batch], list[Batch]]:
    """Full windows with one document each, the same for both."""
    sizes = np.full(windows, config.context_length)
    each = [documents_of(sizes, config.vocab_size, rng) for _ in range(steps)]
    return [ours_of(np.stack(rows), None) for rows in each], [theirs_of(rows) for rows in each]


def document_lengths(folder: Path, longest: int) -> np.ndarray:
    """Tokens of every document of a prepared folder, at most ``longest``."""
    windows, pad = Windows(folder / "train"), SharedVocab.load(folder / "tokenizer").pad
    loaded = windows.load(np.arange(windows.length))
    sizes = []
    for tokens, documents in zip(loaded["tokens"].numpy(), loaded["documents"].numpy()):
        sizes.extend(np.bincount(documents[tokens != pad]))
    return np.minimum(np.array(sizes), longest)


def stored_lengths(longest: int, rng: np.random.Generator) -> np.ndarray:
    """As many lengths as the demo's documents have, drawn from their quantiles in training.json."""
    stored = next(iter(json.loads(STORED.read_text(encoding="utf-8"))["lengths"].values()))
    at = {float(name.removesuffix(" %")) / 100: value for name, value in stored.items() if "%" in name}
    drawn = np.interp(rng.random(stored["documents"]), list(at), list(at.values()))
    return np.minimum(drawn.round().astype(np.int64), longest)


def quantiles(sizes: np.ndarray) -> dict[str, float]:
    """Quantiles of the lengths of documents."""
    at = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
    found = {f"{100 * q:g} %": float(np.quantile(sizes, q)) for q in at}
    return {"documents": len(sizes), "mean": round(float(sizes.mean()), 2), **found}


def documents_of(sizes: np.ndarray, vocab_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random documents of these lengths."""
    return [rng.integers(PAD + 1, vocab_size, size).astype(np.int32) for size in sizes]


def packed(
    documents: list[np.ndarray], length: int, windows: int, steps: int, rng: np.random.Generator
) -> list[Batch]:
    """Ours: windows of several documents."""
    every = list(pack(map(Document, documents), length, PAD, rng))
    made = []
    for first in range(0, steps * windows, windows):
        rows = [every[(first + n) % len(every)] for n in range(windows)]
        made.append(ours_of(np.stack([r.tokens for r in rows]), np.stack([r.documents for r in rows])))
    return made


def padded(
    documents: list[np.ndarray], tokens: int, steps: int, rng: np.random.Generator, grouped: bool
) -> list[Batch]:
    """Theirs: batches with ``tokens`` tokens on average, padded to the longest document.

    With ``grouped``, the documents of 50 batches are sorted by length before they are divided into batches.
    """
    size = max(1, round(tokens / np.mean([len(document) for document in documents])))
    order = list(rng.permutation(len(documents)))
    if grouped:
        pools = [order[n : n + 50 * size] for n in range(0, len(order), 50 * size)]
        order = [i for pool in pools for i in sorted(pool, key=lambda i: len(documents[i]))]
    every = [order[n : n + size] for n in range(0, len(order), size)]
    chosen = rng.permutation(len(every))
    return [theirs_of([documents[i] for i in every[chosen[n % len(every)]]]) for n in range(steps)]


def ours_of(tokens: np.ndarray, documents: np.ndarray | None) -> Batch:
    """Windows (B, T) with their targets, the next token of the same document."""
    following = np.full_like(tokens, PAD)
    following[:, :-1] = tokens[:, 1:]
    if documents is not None:
        following[:, :-1][documents[:, 1:] != documents[:, :-1]] = PAD
    inputs = {
        "tokens": tokens,
        "targets": np.where(following == PAD, IGNORE, following),
    } | ({} if documents is None else {"documents": documents})
    tensors = {name: torch.from_numpy(array.astype(np.int64)) for name, array in inputs.items()}
    return Batch(tensors, int((tokens != PAD).sum()))


def theirs_of(documents: list[np.ndarray]) -> Batch:
    """One document per row, padded to the longest."""
    rows = [torch.from_numpy(document.astype(np.int64)) for document in documents]
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    used = tokens != PAD
    inputs = {"input_ids": tokens, "labels": torch.where(used, tokens, IGNORE)}
    return Batch(inputs if used.all() else {**inputs, "attention_mask": used.long()}, int(used.sum()))


def useful_share(batches: list[Batch]) -> float:
    """The share of tokens that are not padding."""
    every = sum(next(iter(batch.inputs.values())).numel() for batch in batches)
    return sum(batch.useful for batch in batches) / every
