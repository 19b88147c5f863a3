"""Packed windows of tokens for the transformer, of one prepared folder or a mixture of them.

They are shuffled by a seed, and a stopped run goes on exactly where it was (see ``loader``).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from ..tokenizers.documents import TOKENIZER
from ..tokenizers.same_tokens import same_tokens
from .images import in_order, ranks
from .loader import Batches, InOrder
from .sources import load_source


class Windows:
    """The windows of one part of a prepared folder, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        dataset = load_source(folder)
        if not {"tokens", "documents"} <= set(dataset.column_names):
            raise ValueError(
                f"{folder} has no columns tokens and documents: `earlyfusion prepare` writes them"
            )
        if not len(dataset):
            raise ValueError(f"{folder} holds no window")
        names = [name for name in ("tokens", "documents", "learned") if name in dataset.column_names]
        columns = [dataset.data.column(name).chunks for name in names]
        self._names = names
        self.length = len(dataset)
        self.context_length = len(columns[0][0][0])
        self._chunks = [[_array(c, self.context_length) for c in chunks] for chunks in columns]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks[0])])

    def load(self, samples: np.ndarray) -> dict[str, Tensor]:
        """Tokens, documents and, of conversations, what is learned (B, T), and the windows' numbers (B,): all
        int64."""
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
    """Windows of several folders as one batch; ``samples`` count through all of them."""
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
    """The windows of an epoch, (sum of draws, 1), shuffled: of each source the next so many of an endless
    stream that goes through all of its windows in one random order after the other."""
    drawn = []
    for source, (length, count) in enumerate(zip(lengths, draws, strict=True)):
        first, start = epoch * count, sum(lengths[:source])
        passes = range(first // length, -(-(first + count) // length))
        stream = [np.random.default_rng([seed, source, number]).permutation(length) for number in passes]
        skipped = first - first // length * length
        drawn.append(start + np.concatenate([*stream, np.zeros(0, int)])[skipped : skipped + count])
    return np.random.default_rng([seed, epoch]).permutation(np.concatenate(drawn))[:, None]


class TokenData(L.LightningDataModule):
    """Packed windows of tokens that ``earlyfusion prepare`` wrote."""

    def __init__(
        self,
        path: str,
        batch_size: int = 16,
        mixture: Mapping[str, float] = {},
        limit: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            path: The prepared folder (with train/, validation/ and tokenizer/ in it).
            batch_size: Windows of a batch, on each device.
            mixture: More prepared folders, and which part of all windows is to be theirs
                ({runs/old: 0.3}). An epoch then has every window of path once and so many of each of the
                others, which go on where the epoch before ended, and begin again when they are through.
            limit: Train on the first so many windows of path alone, to see that a model can learn them by
                heart.
            num_workers: Processes that read; the windows are memory-mapped, so 0 is fast.
            seed: Of the shuffling.
        """
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be positive, got {limit}")
        if any(not share > 0 for share in mixture.values()) or not sum(mixture.values()) < 1:
            raise ValueError(
                f"mixture is {dict(mixture)}, expected positive parts of all windows that leave some for path"
            )
        if limit is not None and mixture:
            raise ValueError("limit is for one folder: leave out mixture")
        self.path, self.batch_size, self.limit = Path(path), batch_size, limit
        self.mixture = dict(mixture)
        self.num_workers, self.seed = num_workers, seed
        self.sources: list[Windows] = []
        self.validation_windows: Windows | None = None
        self._batches: Batches | None = None

    def setup(self, stage: str | None = None) -> None:
        """Map the windows into memory.

        Raises FileNotFoundError or ValueError for a folder that is not prepared, or that another tokenizer
        or another length of windows keeps from being mixed with ``path``.
        """
        if self.sources:
            return
        if (self.path / "validation").is_dir():
            self.validation_windows = Windows(self.path / "validation")
        folders = [self.path, *map(Path, self.mixture)]
        sources = [Windows(folder / "train") for folder in folders]
        for folder, source in zip(folders[1:], sources[1:]):
            if not same_tokens(folder / TOKENIZER, self.path / TOKENIZER):
                raise ValueError(f"{folder} was prepared with another tokenizer than {self.path}")
            if source.context_length != sources[0].context_length:
                raise ValueError(
                    f"{folder} has windows of {source.context_length} tokens, {self.path} of "
                    f"{sources[0].context_length}: prepare both with one context_length"
                )
        self.sources = sources

    @property
    def context_length(self) -> int:
        """Tokens of a window; 0 before setup."""
        return self.sources[0].context_length if self.sources else 0

    def draws(self) -> list[int]:
        """Windows of each folder in an epoch: of ``path``, then of the mixture's."""
        count = min(self.sources[0].length, self.limit or self.sources[0].length)
        rest = 1 - sum(self.mixture.values())
        return [count, *(max(1, round(count * share / rest)) for share in self.mixture.values())]

    def epochs(self) -> dict[str, float]:
        """How often the windows of each folder were trained on so far."""
        if self._batches is None:
            return {}
        passed = self._batches.position / self._batches.count
        draws = self.draws()
        lengths = [draws[0], *(source.length for source in self.sources[1:])]
        names = [str(self.path), *self.mixture]
        return {name: passed * n / length for name, n, length in zip(names, draws, lengths)}

    def train_dataloader(self) -> Batches:
        """Batches of windows, shuffled anew in each epoch."""
        draws = self.draws()
        lengths = [draws[0], *(source.length for source in self.sources[1:])]
        self._batches = Batches(
            partial(mixed, lengths, draws, self.seed),
            partial(windows_of, self.sources),
            self.batch_size,
            num_workers=self.num_workers,
            **ranks(self),
        )
        return self._batches

    def val_dataloader(self) -> InOrder | list:
        """The validation windows of ``path`` in order; nothing when none were prepared."""
        windows = self.validation_windows
        if windows is None:
            return []
        return in_order(self, [np.arange(windows.length)], [self.batch_size], windows.load)

    def test_dataloader(self) -> InOrder | list:
        """The validation windows."""
        return self.val_dataloader()

    def predict_dataloader(self) -> InOrder | list:
        """The validation windows."""
        return self.val_dataloader()
