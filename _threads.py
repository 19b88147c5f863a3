"""How many threads torch has, and how they wait for each other; chosen before torch is imported.

The threads of an operation meet when it ends. OpenMP lets those that wait spin for milliseconds, which keeps
a core busy. If other processes need cores too, the thread that all wait for does not get one: a training
beside one busy process then takes several times as long. So threads spin briefly here, and then sleep.

OpenMP reads these variables when it is loaded, with torch. What the user set stays.
"""

import os
import sys
from collections.abc import Iterator, MutableMapping

SPINS = 5000
"""Rounds that a thread of libgomp (torch for Linux from PyPI) spins, some 0.1 milliseconds. Its own 300,000
are a little faster alone, and several times slower beside others (benchmarks/speed/busy.py)."""
BLOCK_MILLISECONDS = 1
"""The same for the OpenMP of Intel and LLVM (torch for macOS, and from conda), whose default is 200; the
shortest that is not zero. Unlike ``SPINS`` it was not measured."""


def choose() -> None:
    """Set the variables of OpenMP, unless torch is loaded already."""
    if "torch" not in sys.modules:
        set_variables(os.environ, _affinity(), quota())


def set_variables(environment: MutableMapping[str, str], cpus: int, quota: float | None) -> None:
    """Set what the user did not.

    Args:
        environment: Variables, which are changed.
        cpus: CPUs that this process may run on. OpenMP knows these.
        quota: CPUs whose time it may use, which OpenMP does not know; None if it is unlimited.
    """
    if not environment.get("OMP_WAIT_POLICY"):
        environment.setdefault("GOMP_SPINCOUNT", str(SPINS))
        environment.setdefault("KMP_BLOCKTIME", str(BLOCK_MILLISECONDS))
    if environment.get("OMP_NUM_THREADS") or environment.get("MKL_NUM_THREADS") or quota is None:
        return
    threads = max(1, -int(-quota // 1))  # rounded up
    if threads < cpus:
        environment["OMP_NUM_THREADS"] = str(threads)


def quota(own: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> float | None:
    """The CPUs whose time the control groups of this process allow, as containers and systemd limit it.

    Args:
        own: File with the groups of this process.
        root: Folder where control groups are mounted.

    Returns:
        The lowest limit of its groups and those above them; None without a limit, or without control groups.
    """
    found = []
    for line in _lines(own):
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers == "":
            mounts, limit = ("", "unified"), _limit
        elif "cpu" in controllers.split(","):
            mounts, limit = ("cpu", controllers), _limit_of_version_1
        else:
            continue
        for mount in mounts:
            found += [limit(folder) for folder in _upwards(os.path.join(root, mount), group)]
    return min((cpus for cpus in found if cpus is not None), default=None)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _upwards(mount: str, group: str) -> Iterator[str]:
    """The folders of a group and of those above it. Inside a container only the top ones may exist."""
    parts = [part for part in group.split("/") if part]
    if ".." in parts:  # a group outside of this namespace
        parts = []
    for count in range(len(parts), -1, -1):
        yield os.path.join(mount, *parts[:count])


def _limit(folder: str) -> float | None:
    """cpu.max: microseconds, or "max", and the period that they are of."""
    words = " ".join(_lines(os.path.join(folder, "cpu.max"))).split()
    return _share(*words) if len(words) == 2 else None


def _limit_of_version_1(folder: str) -> float | None:
    words = [
        word
        for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        for word in _lines(os.path.join(folder, name))
    ]
    return _share(*words) if len(words) == 2 else None


def _share(microseconds: str, period: str) -> float | None:
    try:
        used, of = int(microseconds), int(period)
    except ValueError:  # "max"
        return None
    return used / of if used > 0 and of > 0 else None


def _lines(path: str) -> list[str]:
    """The lines of a small file; none if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
