"""Packed windows of tokens, memory-mapped: of one prepared folder, or of a mixture of several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .reading.sources import load_saved


class Windows:
    """The windows of one part of a prepared folder, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        dataset = load_saved(folder)
        if not {"tokens", "documents"} <= set(dataset.column_names):
            raise ValueError(
                f"{folder} has no columns tokens and documents: run `earlyfusion prepare` to write them"
            )
        if not len(dataset):
            raise ValueError(f"{folder} has no windows")
        names = [name for name in ("tokens", "documents", "learned") if name in dataset.column_names]
        columns = [dataset.data.column(name).chunks for name in names]
        self._names = names
        self.length = len(dataset)
        self.context_length = len(columns[0][0][0])
        self._chunks = [[_array(c, self.context_length) for c in chunks] for chunks in columns]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks[0])])

    def load(self, samples: np.ndarray) -> dict[str, Tensor]:
        """Load windows by their numbers, all int64.

        Returns:
            "tokens" and "documents" (B, T), for conversations also "learned" (B, T), and "windows" (B,), the
            numbers.
        """
        chunk = np.searchsorted(self._starts, samples, side="right") - 1
        places = [(c, i - self._starts[c]) for c, i in zip(chunk, samples)]
        rows = {
            name: torch.from_numpy(np.stack([column[c][i] for c, i in places]).astype(np.int64))
            for name, column in zip(self._names, self._chunks, strict=True)
        }
        return {**rows, "windows": torch.from_numpy(samples.astype(np.int64))}


def _array(chunk: Any, width: int) -> np.ndarray:
    """An Arrow list array of rows of ``width`` numbers -> (rows, width), without a copy."""
    return chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, width)


def windows_of(sources: Sequence[Windows], samples: np.ndarray) -> dict[str, Tensor]:
    """Load windows of several folders as one batch; ``samples`` are numbered through all folders."""
    if len(sources) == 1:
        return sources[0].load(samples)
    starts = np.cumsum([0, *(source.length for source in sources)])
    batch: dict[str, Tensor] = {}
    for number, source in enumerate(sources):
        here = np.flatnonzero((samples >= starts[number]) & (samples < starts[number + 1]))
        if not len(here):
            continue
        rows = source.load(samples[here] - starts[number])
        rows["windows"] += int(starts[number])
        rows.setdefault("learned", torch.ones_like(rows["tokens"]))
        for name, values in rows.items():
            batch.setdefault(name, values.new_zeros(len(samples), *values.shape[1:]))
            batch[name][torch.from_numpy(here)] = values
    return batch


def mixed(lengths: Sequence[int], draws: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """The windows of an epoch, shuffled.

    Each source is an endless stream of passes over its windows, each pass in its own random order. An epoch
    takes the next ``draws`` windows of each stream.

    Args:
        lengths: Windows of each source.
        draws: Windows that an epoch takes from each source.

    Returns:
        Numbers of windows, (sum of draws, 1), counted through all sources.
    """
    drawn = []
    for source, (length, count) in enumerate(zip(lengths, draws, strict=True)):
        first, start = epoch * count, sum(lengths[:source])
        passes = range(first // length, -(-(first + count) // length))
        stream = [np.random.default_rng([seed, source, number]).permutation(length) for number in passes]
        skipped = first - first // length * length
        drawn.append(start + np.concatenate([*stream, np.zeros(0, int)])[skipped : skipped + count])
    return np.random.default_rng([seed, epoch]).permutation(np.concatenate(drawn))[:, None]
