"""The data of a language-model training: packed windows that ``earlyfusion prepare`` wrote."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np

from ...data.loader import Batches, InOrder
from ...data.windows import Windows, mixed, windows_of
from ...tokenizers.documents import TOKENIZER
from ...tokenizers.same_tokens import same_tokens
from ..loop.ranks import in_order, ranks


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
            path: Prepared folder, with train/, validation/ and tokenizer/.
            batch_size: Windows per batch, on each device.
            mixture: More prepared folders and their fractions of all windows, such as {runs/old: 0.3}. An
                epoch has each window of path once; the other folders continue from one epoch to the next, and
                start over when used up.
            limit: Train on only the first N windows of path, to check that a model can memorize them.
            num_workers: Worker processes that read windows, which are memory-mapped, so 0 is fast.
            seed: Random seed of the shuffling.
        """
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be positive, got {limit}")
        if any(not share > 0 for share in mixture.values()) or not sum(mixture.values()) < 1:
            raise ValueError(
                f"mixture is {dict(mixture)}, expected positive shares of all windows with a sum below 1"
            )
        if limit is not None and mixture:
            raise ValueError("limit works with one folder only: leave out limit or mixture")
        self.path, self.batch_size, self.limit = Path(path), batch_size, limit
        self.mixture = dict(mixture)
        self.num_workers, self.seed = num_workers, seed
        self.sources: list[Windows] = []
        self.validation_windows: Windows | None = None
        self._batches: Batches | None = None

    def setup(self, stage: str | None = None) -> None:
        """Map the windows into memory.

        Raises:
            FileNotFoundError: A folder is missing.
            ValueError: A folder is not a prepared one, or has another tokenizer or another context length
                than ``path``.
        """
        if self.sources:
            return
        if (self.path / "validation").is_dir():
            self.validation_windows = Windows(self.path / "validation")
        folders = [self.path, *map(Path, self.mixture)]
        sources = [Windows(folder / "train") for folder in folders]
        for folder, source in zip(folders[1:], sources[1:]):
            if not same_tokens(folder / TOKENIZER, self.path / TOKENIZER):
                raise ValueError(
                    f"{folder} and {self.path} were prepared with different tokenizers: use the same one"
                )
            if source.context_length != sources[0].context_length:
                raise ValueError(
                    f"{folder} has windows of {source.context_length} tokens, {self.path} has windows of "
                    f"{sources[0].context_length}: prepare both with the same context_length"
                )
        self.sources = sources

    @property
    def context_length(self) -> int:
        """Tokens per window; 0 before ``setup``."""
        return self.sources[0].context_length if self.sources else 0

    def draws(self) -> list[int]:
        """Windows per epoch of each folder: ``path``, then those of the mixture."""
        count = min(self.sources[0].length, self.limit or self.sources[0].length)
        rest = 1 - sum(self.mixture.values())
        return [count, *(max(1, round(count * share / rest)) for share in self.mixture.values())]

    def epochs(self) -> dict[str, float]:
        """Folder -> number of passes over its windows so far."""
        if self._batches is None:
            return {}
        passed = self._batches.position / self._batches.count
        draws = self.draws()
        lengths = [draws[0], *(source.length for source in self.sources[1:])]
        names = [str(self.path), *self.mixture]
        return {name: passed * n / length for name, n, length in zip(names, draws, lengths)}

    def train_dataloader(self) -> Batches:
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
        windows = self.validation_windows
        if windows is None:
            return []
        return in_order(self, [np.arange(windows.length)], [self.batch_size], windows.load)

    def predict_dataloader(self) -> InOrder | list:
        return self.val_dataloader()
