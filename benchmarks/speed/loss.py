"""Time and memory of the chunked loss, compared with plain cross-entropy over all logits at once.

    .venv/bin/python benchmarks/speed/loss.py --threads 2 --out benchmarks/speed/loss.json
    .venv/bin/python benchmarks/speed/loss.py --device cuda --dtype bfloat16 --tokens 32768 \\
        --chunks 25 26 27 28 29

Both run forward and backward; ours also computes the z-loss. They run alternately; the median is printed,
with minimum and maximum. Memory is the peak beyond hidden states, weight and their gradients; on a CPU each
is measured in a separate process. CHUNK in fusion_lm/loss.py was chosen with this script.
"""

# ruff: noqa: E402

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import machine
import torch
import torch.nn.functional as F
from torch import Tensor

from earlyfusion.fusion_lm.loss import next_token_loss

Z_LOSS = 1e-4


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    about = {
        "machine": machine.processor() if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "clock": args.clock,
        "commit": machine.commit(),
        "tokens": args.tokens,
        "width": args.width,
    }
    print("\n".join(f"{name:<9} {value}" for name, value in about.items()))
    print(f"\n{'V':>7}{'logits at once':>18}{'ms':>9}{'least':>9}{'most':>9}{'peak MiB':>10}", flush=True)
    results = []
    for vocab_size in args.vocabularies:
        for result in measure(vocab_size, args):
            some, chunk = result["ms"], result["chunk"]
            name = "all, plain" if chunk is None else f"{chunk:,}"
            figures = "".join(f"{x:>9,.0f}" for x in (statistics.median(some), min(some), max(some)))
            print(f"{vocab_size:>7}{name:>18}{figures}{result['peak_mib']:>10,.0f}", flush=True)
            results.append({"vocab_size": vocab_size, **result})
    if args.out:
        machine.write_figures(args.out, {**about, "results": results})
    return 0


def parser() -> argparse.ArgumentParser:
    made = machine.described_parser(__doc__)
    add = made.add_argument
    add("--vocabularies", metavar="V", type=int, nargs="+", default=[8192, 65_536])
    add("--chunks", metavar="LOG2", type=int, nargs="+", default=[20, 21, 22, 23, 24, 25, 26])
    add("--tokens", metavar="N", type=int, default=2048, help="tokens per batch (default: 2048)")
    add("--width", metavar="C", type=int, default=512, help="width of the transformer (default: 512)")
    add("--runs", metavar="N", type=int, default=5, help="runs of each (default: 5)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16 uses autocast")
    add("--threads", metavar="N", type=int, help="threads of torch (default: torch's choice)")
    add("--device", default="cpu", help="torch device (default: cpu)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: process time, for a busy machine")
    add("--out", metavar="FILE", help="JSON file to write")
    return made


def measure(vocab_size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of every run and peak memory, by chunk (None: plain)."""
    enough = args.tokens * vocab_size
    chunks = [None, *(2**n for n in args.chunks if 2**n < 2 * enough)]
    runs: dict[int | None, list[float]] = {chunk: [] for chunk in chunks}
    inputs = inputs_of(args.tokens, vocab_size, args)
    for run in range(args.runs + 1):
        for chunk in chunks:
            start = now(args)
            step(inputs, chunk, args)
            if run:
                runs[chunk].append(1000 * (now(args) - start))
    del inputs
    peak = peak_of_process if args.device == "cpu" else peak_mib
    return [{"chunk": c, "ms": runs[c], "peak_mib": peak(vocab_size, c, args)} for c in chunks]


def inputs_of(tokens: int, vocab_size: int, args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (1, N, C), weight (V, C), targets (1, N)."""
    torch.manual_seed(0)
    hidden = torch.randn(1, tokens, args.width, device=args.device).requires_grad_()
    weight = torch.randn(vocab_size, args.width, device=args.device).mul_(0.02).requires_grad_()
    return hidden, weight, torch.randint(vocab_size, (1, tokens), device=args.device)


def step(inputs: tuple[Tensor, Tensor, Tensor], chunk: int | None, args: argparse.Namespace) -> None:
    """Forward and backward; ``chunk`` None is plain cross-entropy, without z-loss."""
    hidden, weight, targets = inputs
    hidden.grad = weight.grad = None
    with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.dtype == "bfloat16"):
        if chunk is None:
            loss = F.cross_entropy(F.linear(hidden, weight).float().flatten(0, 1), targets.flatten())
        else:
            terms = next_token_loss(hidden, weight, targets, chunk=chunk)
            loss = terms.cross_entropy + Z_LOSS * terms.z
    loss.backward()


def now(args: argparse.Namespace) -> float:
    """The time in seconds, after the device has finished its work."""
    if args.device != "cpu":
        torch.cuda.synchronize(args.device)
    return time.process_time() if args.clock == "cpu" else time.perf_counter()


def peak_mib(vocab_size: int, chunk: int | None, args: argparse.Namespace) -> float:
    """Peak memory beyond inputs and gradients. On a CPU, call it once per process."""
    step(inputs_of(8, 16, args), chunk, args)  # loads libraries and allocates work spaces
    inputs = inputs_of(args.tokens, vocab_size, args)
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats(args.device)
    before = used(args)
    step(inputs, chunk, args)
    return used(args) - before - sum(4 * x.numel() for x in inputs[:2]) / 2**20


def peak_of_process(vocab_size: int, chunk: int | None, args: argparse.Namespace) -> float:
    """``peak_mib`` in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_mib, vocab_size, chunk, args).result()


def used(args: argparse.Namespace) -> float:
    """Peak memory so far, MiB."""
    if args.device != "cpu":
        now(args)
        return torch.cuda.max_memory_allocated(args.device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    sys.exit(main())
