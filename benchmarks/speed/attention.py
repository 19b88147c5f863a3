"""Training attention on a CPU by torch's flash attention and by batched products, forward and backward.

    .venv/bin/python benchmarks/speed/attention.py --threads 2 --out benchmarks/speed/attention.json

Both run alternately on windows of one causal document, and on windows of packed documents, which flash
attention reads with a mask, a block of queries at a time. Medians in milliseconds. The rule in
fusion_lm/cpu/attention.py (``PRODUCTS_FROM``, ``PRODUCTS_UP_TO``) was chosen with this script; it covers
float32, the only type that was measured.
"""

# ruff: noqa: E402

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import machine
import torch
from torch import Tensor

from earlyfusion.fusion_lm.cpu import attention
from earlyfusion.fusion_lm.masks import document_mask
from earlyfusion.fusion_lm.positions import document_starts

SHAPES = [
    (2, 8, 8, 256, 64),
    (2, 8, 8, 512, 64),
    (1, 12, 12, 1024, 64),
    (1, 12, 12, 2048, 64),
    (5, 4, 4, 192, 32),
    (4, 4, 4, 512, 32),
]
"""Rows, heads, key/value heads, tokens, head width."""
TINY = [(1, 2, 1, 80, 8)]


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    columns = f"{'tokens per document':<22}{'flash':>8}{'products':>10}{'ratio':>8}"
    print(f"{'rows, heads, kv heads, tokens, width':<40}{columns}")
    results = []
    for shape in TINY if args.tiny else SHAPES:
        for length in (None, *args.documents):
            flash, products = in_turns(shape, length, args)
            ratio = statistics.median(flash) / statistics.median(products)
            name = "one document" if length is None else f"about {length}"
            middle = "".join(
                f"{1e3 * statistics.median(runs):>{n}.1f}" for runs, n in ((flash, 8), (products, 10))
            )
            print(f"{', '.join(map(str, shape)):<40}{name:<22}{middle}{ratio:>8.2f}", flush=True)
            results.append(
                {"shape": shape, "document": length, "flash": flash, "products": products, "ratio": ratio}
            )
    if args.out:
        machine.write_figures(args.out, {"dtype": args.dtype, "clock": args.clock, "results": results})
    return 0


def parser() -> argparse.ArgumentParser:
    made = machine.described_parser(__doc__)
    add = made.add_argument
    add(
        "--documents",
        metavar="N",
        type=int,
        nargs="*",
        default=[30, 150],
        help="mean lengths (default: 30 150)",
    )
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="type (default: float32)")
    add("--runs", metavar="N", type=int, default=9, help="runs of each (default: 9)")
    add(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the process's own time, on busy machines",
    )
    add("--threads", metavar="N", type=int, help="threads of torch (default: torch's choice)")
    add("--tiny", action="store_true", help="one small shape, to check the script")
    add("--out", metavar="FILE", help="JSON file to write")
    return made


def in_turns(
    shape: tuple[int, int, int, int, int], length: int | None, args: argparse.Namespace
) -> tuple[list[float], list[float]]:
    """Seconds of each run by flash attention and by products."""
    B, H, Hkv, T, D = shape
    dtype = getattr(torch, args.dtype)
    made = [torch.randn(B, T, heads, D, dtype=dtype).transpose(1, 2) for heads in (H, Hkv, Hkv, H)]
    q, k, v, gradient = *(x.requires_grad_() for x in made[:3]), made[3]
    windows = documents(B, T, length)
    mask, firsts = document_mask(windows), attention.first_keys(document_starts(windows))
    by_products = attention._Products.apply

    def flash() -> Tensor:
        # The rule is for the products; beyond its bounds both functions use flash attention.
        allowed, attention.PRODUCTS_UP_TO = attention.PRODUCTS_UP_TO, -1
        try:
            return (
                attention.causal_attention(q, k, v)
                if length is None
                else attention.blocked_attention(q, k, v, mask, firsts)
            )
        finally:
            attention.PRODUCTS_UP_TO = allowed

    def products() -> Tensor:
        return by_products(q, k, v, None if length is None else mask, firsts)

    runs: tuple[list[float], list[float]] = ([], [])
    for run in range(args.runs + 1):
        for side, kept in zip((flash, products), runs):
            seconds = timed(side, (q, k, v), gradient, args)
            if run:
                kept.append(seconds)
    return runs


def timed(
    side: Callable[[], Tensor], inputs: tuple[Tensor, ...], gradient: Tensor, args: argparse.Namespace
) -> float:
    """Seconds of one forward and backward pass."""
    now = time.process_time if args.clock == "cpu" else time.perf_counter
    start = now()
    torch.autograd.grad(side(), inputs, gradient)
    return now() - start


def documents(B: int, T: int, length: int | None) -> Tensor:
    """Windows (B, T) of one document, or of documents with ``length`` / 2 to 3 / 2 ``length`` tokens."""
    if length is None:
        return torch.zeros(B, T, dtype=torch.int64)
    sizes = torch.randint(length // 2, 3 * length // 2 + 1, (B, T))
    return torch.stack([torch.arange(T).repeat_interleave(row)[:T] for row in sizes])


if __name__ == "__main__":
    sys.exit(main())
