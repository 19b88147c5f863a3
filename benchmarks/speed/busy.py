"""A training step on a busy machine: alone, and beside one and two other torch processes.

    .venv/bin/python benchmarks/speed/busy.py --threads 2 --out benchmarks/speed/busy.json

The others multiply matrices with as many threads all the time. The step is measured in new processes, with
the waiting policy of OpenMP that the package chooses (no variable set), and with ``OMP_WAIT_POLICY=ACTIVE``,
where threads that wait keep their core. Seconds per step; the ratio is the time alone divided by the time
beside others. On two cores the fair shares beside one and two others are 1/2 and 1/3.
"""

# ruff: noqa: E402

import argparse
import json
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

POLICIES = {"package": {}, "active": {"OMP_WAIT_POLICY": "ACTIVE"}}
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
        print(json.dumps(steps(args)))
        return 0
    print(f"{'seconds per step':<28}{'median':>9}{'least':>9}{'most':>9}{'ratio':>8}")
    results = []
    for policy, variables in POLICIES.items():
        alone = 0.0
        for others in range(args.others + 1):
            with competitors(others, args):
                seconds = measured(variables, args)
            median = statistics.median(seconds)
            alone = alone or median
            name = f"{policy}, beside {others}"
            print(
                f"{name:<28}{median:>9.3f}{min(seconds):>9.3f}{max(seconds):>9.3f}{alone / median:>8.2f}",
                flush=True,
            )
            results.append({"policy": policy, "others": others, "seconds": seconds, "ratio": alone / median})
    if args.out:
        about = {"size": args.size, "windows": args.windows, "threads": args.threads}
        machine.write_figures(args.out, {**about, "results": results})
    return 0


def parser() -> argparse.ArgumentParser:
    made = machine.described_parser(__doc__)
    add = made.add_argument
    add("--size", choices=sorted(both.SIZES), default="35M", help="size of the transformer (default: 35M)")
    add("--windows", metavar="N", type=int, default=1, help="windows per batch (default: 1)")
    add("--steps", metavar="N", type=int, default=5, help="steps after the first (default: 5)")
    add("--others", metavar="N", type=int, default=2, help="most competing processes (default: 2)")
    add("--threads", metavar="N", type=int, default=2, help="threads of each process (default: 2)")
    add("--out", metavar="FILE", help="JSON file to write")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    return made


def measured(variables: dict[str, str], args: argparse.Namespace) -> list[float]:
    """Seconds of each step, in a new process with these environment variables."""
    command = [sys.executable, __file__, "--worker", "--size", args.size, "--windows", str(args.windows)]
    command += ["--steps", str(args.steps), "--threads", str(args.threads)]
    done = subprocess.run(command, env=_environment(variables), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the measured process failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def steps(args: argparse.Namespace) -> list[float]:
    """Seconds of each training step but the first."""
    torch.set_num_threads(args.threads)
    args.device, args.dtype, args.clock = "cpu", "float32", "wall"
    config = both.SIZES[args.size]
    side, seconds = both.our_side(config, args), []
    for batch in both.equal(config, args.windows, args.steps + 1, np.random.default_rng(0))[0]:
        start = both.now(args)
        both.step(side, batch, args)
        seconds.append(both.now(args) - start)
    return seconds[1:]


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
