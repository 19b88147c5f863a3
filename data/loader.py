"""Batches in an order that is a pure function of the seed, which a stopped run takes up exactly.

Lightning stores ``state_dict()`` in its checkpoints and gives it back before training goes on. The state is
how many samples all ranks together have consumed; there are no ranks and no workers in it, so a run may go on
with other numbers of both.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

Plan = Callable[[int], Sequence[np.ndarray] | np.ndarray]
"""Epoch -> its units, each the numbers of samples that stay together; every epoch has as many."""


class Batches:
    """A stream of batches over the units of ``plan(0)``, ``plan(1)``, ..., one after the other.

    Each step takes the next ``size`` units for each rank. Where they do not divide an epoch, a batch goes on
    with the next one, so each epoch has every unit exactly once, and the ranks' batches of a step are
    together the batch that a single process with as many units would have. A pass over it ends after about an
    epoch.
    """

    def __init__(
        self,
        plan: Plan,
        load: Callable[[np.ndarray], Any],
        size: int = 1,
        *,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.plan, self.load, self.size, self.num_workers = plan, load, size, num_workers
        self.rank, self.step = rank, size * world_size
        self.position = 0
        """Units that were handed out, by all ranks together, since the training began."""
        self._epoch, self._units = 0, plan(0)
        self.count = len(self._units)
        """Units of an epoch."""

    def __len__(self) -> int:
        """Steps of a pass."""
        return -(-self.count // self.step)

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing below happens before the first batch is asked for, so that an iterator that
        # Lightning makes and drops changes nothing.
        left = len(self) - self.position // self.step % len(self)
        starts = range(self.position, self.position + left * self.step, self.step)
        for start, batch in zip(starts, self._fetch(map(self._samples, starts))):
            self.position = start + self.step
            yield batch

    def _samples(self, start: int) -> np.ndarray:
        """What this rank has of the step that begins at ``start``."""
        first = start + self.rank * self.size
        return np.concatenate([self._unit(number) for number in range(first, first + self.size)])

    def _unit(self, number: int) -> np.ndarray:
        epoch, place = divmod(number, self.count)
        if epoch != self._epoch:
            self._epoch, self._units = epoch, self.plan(epoch)
        return self._units[place]

    def _fetch(self, batches: Iterator[np.ndarray]) -> Iterator[Any]:
        if not self.num_workers:
            yield from map(self.load, batches)
            return
        sampler: Any = batches  # what workers are asked for need not be one number
        yield from DataLoader(
            _Loaded(self.load), sampler=sampler, batch_size=None, num_workers=self.num_workers
        )

    def state_dict(self) -> dict[str, int]:
        """Units consumed, by all ranks together."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state`` was taken.

        :raises ValueError: it is of a version that counted otherwise.
        """
        if set(state) != {"position"}:
            raise ValueError(
                "the checkpoint is of an earlier version of earlyfusion, which counted its batches "
                "otherwise: start a new run (init_from takes over the weights)"
            )
        self.position = state["position"]


class InOrder:
    """The same batches in each pass, for validation; as many for each rank."""

    def __init__(
        self,
        batches: Sequence[np.ndarray],
        load: Callable[[np.ndarray], Any],
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """``batches``: those of :func:`ordered_batches` for as many ranks."""
        self.batches, self.load = batches[rank::world_size], load

    def __len__(self) -> int:
        """Batches of one rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return map(self.load, self.batches)


class _Loaded(Dataset):
    """What worker processes read."""

    def __init__(self, load: Callable[[np.ndarray], Any]) -> None:
        self.load = load

    def __getitem__(self, samples: Any) -> Any:
        return self.load(samples)


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


def ordered_batches(
    groups: Sequence[np.ndarray], sizes: Sequence[int], world_size: int = 1
) -> list[np.ndarray]:
    """The same without shuffling, for validation: every sample once, in a multiple of ``world_size`` batches.

    To have so many, batches are halved; where there are fewer samples than that, some come twice.
    """
    batches = [
        samples[i : i + size]
        for samples, size in zip(groups, sizes, strict=True)
        for i in range(0, len(samples), size)
    ]
    while len(batches) % world_size:
        place = max(range(len(batches)), key=lambda i: len(batches[i]))
        whole = batches[place]
        half = len(whole) // 2
        batches[place : place + 1] = [whole[:half], whole[half:]] if half else [whole, whole]
    return batches
