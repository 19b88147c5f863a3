"""Batches in an order that is a pure function of seed and epoch, which a stopped run takes up exactly.

Lightning stores ``state_dict()`` in its checkpoints and gives it back before training goes on. The state has
no ranks and no workers in it, so a run may go on with other numbers of both.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

Plan = Callable[[int], Sequence[np.ndarray]]
"""Epoch -> its batches, each the numbers of its samples; every epoch has as many."""


class Batches:
    """An iterable over ``load(samples)`` for the batches of ``plan(epoch)``; each pass is the next epoch."""

    def __init__(
        self,
        plan: Plan,
        load: Callable[[np.ndarray], Any],
        *,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.plan, self.load, self.num_workers = plan, load, num_workers
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.position = 0
        """Batches of this epoch that were handed out, by all ranks together."""
        self._resumed = False
        self._length = max(1, len(plan(0)) // world_size)

    def __len__(self) -> int:
        """Batches of one rank in one epoch; what does not divide by the ranks is left out."""
        return self._length

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing below happens before the first batch is asked for, so that an iterator that
        # Lightning makes and drops changes nothing.
        if self.position and not self._resumed:
            self.epoch, self.position = self.epoch + 1, 0
        self._resumed = False
        batches = list(self.plan(self.epoch))
        if len(batches) < self.world_size:
            batches *= -(-self.world_size // max(1, len(batches)))
        mine = batches[self.position + self.rank : len(self) * self.world_size : self.world_size]
        for batch in self._fetch(mine):
            self.position += self.world_size
            yield batch

    def _fetch(self, batches: list[np.ndarray]) -> Iterator[Any]:
        if not self.num_workers:
            yield from map(self.load, batches)
            return
        yield from DataLoader(
            _Loaded(self.load, batches), batch_size=None, num_workers=self.num_workers, pin_memory=False
        )

    def state_dict(self) -> dict[str, int]:
        """Epoch and batches consumed in it, by all ranks together."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state`` was taken; at an epoch's end, with the next one."""
        self.epoch, self.position = state["epoch"], state["position"]
        if self.position >= len(self) * self.world_size:
            self.epoch, self.position = self.epoch + 1, 0
        self._resumed = True


class _Loaded(Dataset):
    """What worker processes read."""

    def __init__(self, load: Callable[[np.ndarray], Any], batches: list[np.ndarray]) -> None:
        self.load, self.batches = load, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.load(self.batches[index])


def shuffled_batches(
    groups: Sequence[np.ndarray], sizes: Sequence[int], seed: int, epoch: int
) -> list[np.ndarray]:
    """Cut each group of sample numbers, shuffled, into batches of its size; the batches come shuffled too."""
    rng = np.random.default_rng([seed, epoch])
    batches = []
    for samples, size in zip(groups, sizes, strict=True):
        order = rng.permutation(samples)
        batches += [order[i : i + size] for i in range(0, len(order), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def ordered_batches(groups: Sequence[np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
    """The same without shuffling, for validation."""
    return [
        samples[i : i + size]
        for samples, size in zip(groups, sizes, strict=True)
        for i in range(0, len(samples), size)
    ]
