"""A training step on a busy machine: alone, and beside one and two other torch processes.

    .venv/bin/python benchmarks/speed/busy.py --threads 2 --out benchmarks/speed/busy.json

The others multiply matrices with as many threads all the time, as torch does it by itself. The step is
measured in one process for each way to wait: that of the package, which sets the variables itself; libgomp's
own, 300,000 rounds; and ``OMP_WAIT_POLICY=PASSIVE``, none. They take turns, so that a machine that becomes
slower slows all. Seconds per step; the ratio is the time beside others divided by the package's time alone.
On two cores, fair shares beside one and two others would be ratios of 2 and 3.
"""

# ruff: noqa: E402

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import machine
import numpy as np
import torch
import training as both

POLICIES = {
    "package": {},
    "libgomp": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
"""Variables of each way to wait."""
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
"""Variables that set the policy and the threads; not passed on."""
OTHER = """
import torch
torch.set_num_threads({threads})
a = torch.randn({side}, {side})
a @ a
print("ready", flush=True)
while True:
    a @ a
"""
"""A competing process."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.worker:
        steps(args)
        return 0
    print(f"{'seconds per step':<28}{'median':>9}{'least':>9}{'most':>9}{'ratio':>8}")
    results, alone = [], 0.0
    with workers(args) as every:
        for others in range(args.others + 1):
            seconds: dict[str, list[float]] = {policy: [] for policy in POLICIES}
            with competitors(others, args):
                for _ in range(args.steps):
                    for policy, worker in every.items():
                        seconds[policy].append(one_step(worker))
            for policy, found in seconds.items():
                median = statistics.median(found)
                alone = alone or median
                name = f"{policy}, beside {others}"
                print(
                    f"{name:<28}{median:>9.3f}{min(found):>9.3f}{max(found):>9.3f}{median / alone:>8.2f}",
                    flush=True,
                )
                results.append(
                    {"policy": policy, "others": others, "seconds": found, "ratio": median / alone}
                )
    if args.out:
        about = {"size": args.size, "windows": args.windows, "threads": args.threads}
        machine.write_figures(args.out, {**about, "results": results})
    return 0


def parser() -> argparse.ArgumentParser:
    made = machine.described_parser(__doc__)
    add = made.add_argument
    add("--size", choices=sorted(both.SIZES), default="35M", help="size of the transformer (default: 35M)")
    add("--windows", metavar="N", type=int, default=1, help="windows per batch (default: 1)")
    add("--steps", metavar="N", type=int, default=5, help="steps of each (default: 5)")
    add("--others", metavar="N", type=int, default=2, help="most competing processes (default: 2)")
    add("--threads", metavar="N", type=int, default=2, help="threads of each process (default: 2)")
    add("--out", metavar="FILE", help="JSON file to write")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    return made


@contextmanager
def workers(args: argparse.Namespace) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Context with a process for each way to wait, ready for its first measured step."""
    command = [sys.executable, __file__, "--worker", "--size", args.size, "--windows", str(args.windows)]
    command += ["--threads", str(args.threads)]
    every: dict[str, subprocess.Popen[str]] = {}
    try:
        for policy, variables in POLICIES.items():
            every[policy] = subprocess.Popen(
                command,
                env=_environment(variables),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            one_step(every[policy])
        yield every
    finally:
        for worker in every.values():
            worker.kill()
            worker.communicate()


def one_step(worker: subprocess.Popen[str]) -> float:
    """The seconds that the worker's next step takes."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit("a measured process failed, see above")
    return float(line)


def steps(args: argparse.Namespace) -> None:
    """A training step for each line of the standard input; prints its seconds."""
    torch.set_num_threads(args.threads)
    args.device, args.dtype, args.clock = "cpu", "float32", "wall"
    config = both.SIZES[args.size]
    side, rng = both.our_side(config, args), np.random.default_rng(0)
    for _line in sys.stdin:
        (batch,), _ = both.equal(config, args.windows, 1, rng)
        start = both.now(args)
        both.step(side, batch, args)
        print(both.now(args) - start, flush=True)


@contextmanager
def competitors(count: int, args: argparse.Namespace) -> Iterator[None]:
    """Context in which ``count`` other processes are busy."""
    code = OTHER.format(threads=args.threads, side=1024)
    command, others = [sys.executable, "-c", code], []
    try:
        for _ in range(count):
            others.append(subprocess.Popen(command, env=_environment({}), stdout=subprocess.PIPE, text=True))
        for other in others:
            assert other.stdout is not None and other.stdout.readline() == "ready\n"
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate()


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name not in VARIABLES}, **variables}


if __name__ == "__main__":
    sys.exit(main())
