"""Batches in an order that is a pure function of the seed, so that a stopped run resumes exactly.

Lightning stores ``state_dict()`` in its checkpoints and restores it before training resumes. The state is the
number of samples that all ranks together have consumed. It knows nothing of ranks and workers, so a run may
resume with another number of either.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Dataset

Plan = Callable[[int], Sequence[np.ndarray] | np.ndarray]
"""Epoch -> its units, each the numbers of samples that stay together; equally many in every epoch."""

Key = TypeVar("Key", bound=Any)
"""What the samples of a group have in common: a size, a width."""


class Batches:
    """A stream of batches over the units of ``plan(0)``, ``plan(1)``, ..., one epoch after the other.

    Each step takes the next ``size`` units for each rank. The last batch of an epoch is filled from the next
    epoch, so each epoch has every unit exactly once, and the batches of all ranks in a step are together the
    batch of a single process with that many units. One pass takes about an epoch.
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
        """Units that all ranks together have consumed since training began."""
        self._epoch, self._units = 0, plan(0)
        self.count = len(self._units)
        """Units per epoch."""

    def __len__(self) -> int:
        """Steps per pass."""
        return -(-self.count // self.step)

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing below runs before the first batch is requested, so an iterator that Lightning
        # makes and drops changes nothing.
        left = len(self) - self.position // self.step % len(self)
        starts = range(self.position, self.position + left * self.step, self.step)
        for start, batch in zip(starts, self._fetch(map(self._samples, starts))):
            self.position = start + self.step
            yield batch

    def _samples(self, start: int) -> np.ndarray:
        """The samples of this rank in the step that begins at ``start``."""
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
        sampler: Any = batches  # an index may be any object
        yield from DataLoader(
            _Loaded(self.load), sampler=sampler, batch_size=None, num_workers=self.num_workers
        )

    def state_dict(self) -> dict[str, int]:
        """Units that all ranks together have consumed."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume where ``state`` was taken.

        Raises:
            ValueError: The state is of an earlier version, which counted differently.
        """
        if set(state) != {"position"}:
            raise ValueError(
                "the checkpoint was written by an earlier version of earlyfusion, which counted batches "
                "differently: start a new run (init_from takes over the weights)"
            )
        self.position = state["position"]


class InOrder:
    """The same batches in each pass, for validation; equally many for each rank."""

    def __init__(
        self,
        batches: Sequence[np.ndarray],
        load: Callable[[np.ndarray], Any],
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        Args:
            batches: From ``ordered_batches``, for the same number of ranks.
        """
        self.batches, self.load = batches[rank::world_size], load

    def __len__(self) -> int:
        """Batches of one rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return map(self.load, self.batches)


class _Loaded(Dataset):
    """The data set that worker processes read from."""

    def __init__(self, load: Callable[[np.ndarray], Any]) -> None:
        self.load = load

    def __getitem__(self, samples: Any) -> Any:
        return self.load(samples)


def shuffled_batches(
    groups: Sequence[np.ndarray], sizes: Sequence[int], seed: int, epoch: int
) -> list[np.ndarray]:
    """Shuffle each group of samples, cut it into batches of its size, and shuffle the batches."""
    rng = np.random.default_rng([seed, epoch])
    batches = []
    for samples, size in zip(groups, sizes, strict=True):
        order = rng.permutation(samples)
        batches += [order[i : i + size] for i in range(0, len(order), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def ordered_batches(
    groups: Sequence[np.ndarray], sizes: Sequence[int], world_size: int = 1
) -> list[np.ndarray]:
    """Cut each group of samples into batches of its size, in order, for validation.

    Batches are halved until their number is a multiple of ``world_size``. If there are fewer samples than
    that, some come twice.
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


def number_groups(counts: Mapping[Key, int]) -> dict[Key, np.ndarray]:
    """Number the samples of all groups 0, 1, ..., one group after the other, sorted by key.

    Args:
        counts: Key -> number of samples.
    """
    keys = sorted(counts)
    ends = np.cumsum([0, *(counts[key] for key in keys)])
    return {key: np.arange(start, end) for key, start, end in zip(keys, ends, ends[1:])}


def group_of(groups: Mapping[Key, np.ndarray], sample: int) -> Key:
    """The key of the group, numbered by ``number_groups``, that ``sample`` belongs to."""
    return next(key for key, group in groups.items() if group[0] <= sample <= group[-1])
