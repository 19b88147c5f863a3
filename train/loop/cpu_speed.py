"""How fast this CPU trains, by measurement: which precision, and how long a training takes."""

import math
import os
import platform
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...storage.files import read_json, write_json

CpuPrecision = Literal["32-true", "bf16-mixed"]
SECONDS = 1.0
"""Longest time that measuring takes."""
WORTH = 1.2
"""How many times as fast bfloat16 must be to be chosen: it also rounds."""
HOPELESS = 0.25
"""If bfloat16 is slower than this in a small step, it is not timed in a larger one."""
ROUNDS = 4
"""Timed steps of each type, of which the first prepares."""
SIZES = ((16, 64), (128, 128), (512, 256), (1024, 512))
"""Tokens and width of the timed steps. They start small and grow while there is time: a CPU that emulates
bfloat16 may be a hundred times slower in it."""
CACHE = "EARLYFUSION_CACHE"
"""Environment variable: the folder of what this package keeps between runs; ~/.cache/earlyfusion if unset."""


class Rates(NamedTuple):
    """What ``measure`` found."""

    float32: float
    """Operations per nanosecond of a training step in float32 (GFLOP/s)."""
    ratio: float
    """How many times as fast the step is in bfloat16."""

    @property
    def precision(self) -> CpuPrecision:
        """Lightning's precision that is faster."""
        return "bf16-mixed" if self.ratio >= WORTH else "32-true"

    @property
    def line(self) -> str:
        """Which precision, and why, in one line."""
        if self.precision == "bf16-mixed":
            return f"precision: bfloat16, {self.ratio:.2g} times as fast as float32 here"
        return f"precision: float32, bfloat16 is {self.ratio:.2g} times as fast here"


def best_cpu_precision() -> CpuPrecision:
    """Lightning's precision that is faster on this CPU."""
    return rates().precision


def rates() -> Rates:
    """The rates of this CPU, measured once for each version of torch and number of threads.

    They are kept in ``cache_folder``; where it cannot be written, each process measures.
    """
    facts = (
        cpu_name(),
        torch.backends.cpu.get_cpu_capability(),
        f"torch {torch.__version__}",
        f"{torch.get_num_threads()} threads",
    )
    return _kept(", ".join(facts))


def measure() -> Rates:
    """Time training steps of a feed-forward block in float32 and bfloat16, in turns, within a second."""
    end = time.perf_counter() + SECONDS
    found, ratio = {"float32": 0.0, "bfloat16": 0.0}, 0.0
    names = list(found)
    for tokens, width in SIZES:
        operations = 48 * tokens * width**2 / 1e9
        if (
            found["float32"]
            and ROUNDS * sum(operations / found[n] for n in names) > end - time.perf_counter()
        ):
            break
        step = _block(tokens, width)
        timed = [[_seconds(step, name) for name in names] for _ in range(ROUNDS)]
        fastest = (min(seconds) for seconds in zip(*timed[1:]))
        found |= {name: operations / max(1e-9, seconds) for name, seconds in zip(names, fastest)}
        if "bfloat16" in names:
            ratio = found["bfloat16"] / found["float32"]
            names = names if ratio >= HOPELESS else ["float32"]
    return Rates(found["float32"], ratio)


def cpu_name() -> str:
    """The CPU's name, from the system."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cache_folder() -> Path | None:
    """The folder of what is kept between runs; None for users without a home."""
    if given := os.environ.get(CACHE):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earlyfusion"
    except RuntimeError:
        return None


@cache
def _kept(machine: str) -> Rates:
    """The rates of ``machine`` in the cache, else measured and put there."""
    folder = cache_folder()
    path = None if folder is None else folder / "cpu_speed.json"
    stored = {} if path is None else _read(path)
    if (known := _rates(stored.get(machine))) is not None:
        return known
    found = measure()
    if path is not None:
        try:
            write_json(path, {**stored, machine: found._asdict()})
        except OSError:
            pass  # the next process measures again
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "measured speeds")
    except (OSError, ValueError):
        return {}


def _rates(stored: Any) -> Rates | None:
    """Rates from JSON; None if they are not two positive numbers."""
    if not isinstance(stored, Mapping):
        return None
    values = [stored.get(name) for name in Rates._fields]
    if all(isinstance(value, int | float) and 0 < value < math.inf for value in values):
        return Rates(*map(float, values))  # type: ignore[arg-type]
    return None


def _block(tokens: int, width: int) -> tuple[nn.Module, Tensor]:
    """A block and its input; the state of torch's random numbers does not change."""
    with torch.random.fork_rng(devices=[]):
        block = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )
        return block, torch.randn(tokens, width)


def _seconds(step: tuple[nn.Module, Tensor], name: str) -> float:
    """The time of forward and backward in the type ``name``."""
    block, x = step
    begun = time.perf_counter()
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=name == "bfloat16"):
        loss = (x + block(x)).float().square().mean()
    loss.backward()
    return time.perf_counter() - begun
