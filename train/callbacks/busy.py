"""Says when other processes take the cores from a training."""

import os
import sys
import time
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Callback

PROC = "/proc"
"""Linux's figures of processes, see ``man 5 proc``."""


class Reading(NamedTuple):
    """What the system counts, in seconds; differences of two readings have a meaning."""

    at: float
    cores: int
    """Cores that this process may use."""
    used: float
    """Time that all processes, of every user and container, used these cores."""
    own: float
    """Time that this process and those it started used."""
    threads: dict[str, tuple[float, float]]
    """Thread of this process -> time that it ran, and that it was ready and waited for a core."""


class Load(NamedTuple):
    """What happened between two readings, as shares between 0 and 1."""

    others: float
    """Of the cores' time, what other processes used."""
    waited: float
    """Of the time that our threads ran or were ready to, what they waited for a core."""


class Busy(Callback):
    """Prints one line if other processes take the cores, and this training waits for them.

    Threads also wait if this process has more of them than cores, or if its own loader processes need a core,
    so both have to be: threads that wait, and others that compute. Linux counts both, in a container too;
    elsewhere nothing is printed.
    """

    def __init__(self, seconds: float = 20, others: float = 0.2, waited: float = 0.2) -> None:
        """
        Args:
            seconds: Shortest time that is judged; other processes may be busy for a moment.
            others: Share of the cores' time that other processes may use.
            waited: Share of the time that the training may wait for a core.
        """
        super().__init__()
        self.seconds, self.others, self.waited = seconds, others, waited
        self._before: Reading | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Processes of a training compete with each other, and do not know each other.
        self._before = reading() if trainer.world_size == 1 else None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._before is None or time.monotonic() - self._before.at < self.seconds:
            return
        before, self._before = self._before, reading()
        if self._before is None:
            return
        load = between(before, self._before)
        if load.others > self.others and load.waited > self.waited:
            self._before = None  # once in a training
            print(
                f"earlyfusion: other processes use about {load.others:.0%} of the time of "
                f"{_cores(before.cores)}, so this training takes longer; stop them, or wait until they end",
                file=sys.stderr,
            )


def between(before: Reading, after: Reading) -> Load:
    """The load between two readings."""
    cores_time = (after.at - before.at) * after.cores
    others = (after.used - before.used) - (after.own - before.own)
    ran = waited = 0.0
    for thread in after.threads.keys() & before.threads.keys():
        ran += after.threads[thread][0] - before.threads[thread][0]
        waited += after.threads[thread][1] - before.threads[thread][1]
    return Load(
        min(1.0, max(0.0, others / cores_time)) if cores_time > 0 else 0.0,
        waited / (ran + waited) if ran + waited > 0 else 0.0,
    )


def reading(proc: str = PROC) -> Reading | None:
    """A reading of now; None where the system does not count these times."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = os.sched_getaffinity(0)
    try:
        used, own, threads = _used(proc, cores), _own(proc, os.getpid()), _threads(f"{proc}/self/task")
    except (OSError, ValueError, IndexError):
        return None
    return Reading(time.monotonic(), len(cores), used, own, threads) if used and threads else None


def _used(proc: str, cores: set[int]) -> float:
    """Seconds that ``cores`` were not idle.

    Raises:
        ValueError: The file does not list all of them.
    """
    ticks, names = 0, {f"cpu{number}" for number in cores}
    for line in _text(f"{proc}/stat").splitlines():
        name, *values = line.split()
        if name in names:
            user, nice, system, _idle, _waits_for_disk, interrupts, soft_interrupts = map(int, values[:7])
            ticks += user + nice + system + interrupts + soft_interrupts
            names.remove(name)
    if names:
        raise ValueError(f"no line of {min(names)}")
    return ticks / os.sysconf("SC_CLK_TCK")


def _own(proc: str, process: int) -> float:
    """Seconds that ``process`` and its descendants used, with those that ended."""
    parents, ticks = {}, {}
    for name in filter(str.isdecimal, os.listdir(proc)):
        try:
            fields = _text(f"{proc}/{name}/stat").rpartition(")")[2].split()  # the name may have blanks
        except OSError:  # it ended
            continue
        parents[int(name)] = int(fields[1])
        ticks[int(name)] = sum(map(int, fields[11:15]))  # its own, and of its children that ended
    total = 0
    for one, used in ticks.items():
        above: int | None = one
        while above is not None and above != process:
            above = parents.get(above)
        total += used if above == process else 0
    return total / os.sysconf("SC_CLK_TCK")


def _threads(folder: str) -> dict[str, tuple[float, float]]:
    """Thread -> seconds that it ran and waited; empty if the kernel does not count them."""
    found = {}
    for thread in os.listdir(folder):
        try:
            ran, waited, _slices = map(int, _text(f"{folder}/{thread}/schedstat").split())
        except FileNotFoundError:  # it ended
            continue
        found[thread] = (ran / 1e9, waited / 1e9)
    return found if any(ran for ran, _ in found.values()) else {}


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _cores(count: int) -> str:
    return f"the {count} cores" if count > 1 else "the core"
