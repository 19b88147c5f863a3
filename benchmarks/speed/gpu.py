"""Everything that needs a GPU, in at most nine minutes, offline.

    .venv/bin/python benchmarks/speed/gpu.py --out benchmarks/speed/gpu.json
    .venv/bin/python benchmarks/speed/gpu.py --rehearse --out /tmp/gpu.json

Each part runs in a process of its own with a time limit, and its row is written at once, so that what fails
or takes too long costs no other part; its row then has the error.

device    the GPU and the versions
rates     plain products of bfloat16 matrices, operations/s; copies, bytes/s (read and written)
flex      FlexAttention under the mask of documents, compared with attention in float64: largest relative
          errors of the output and of the gradients, in float32 and bfloat16, beside those of plain attention
training  150 M parameters in bfloat16 autocast, full windows and packed documents: tokens/s, and the share
          of the measured matrix rate that the operations of the network reach (MFU)
compiled  the same with torch.compile
decoding  text tokens/s with bfloat16 weights; the share of the rate at which the weights could be read
memory    peak memory and time of the loss over 65,536 tokens, ours in chunks and plain cross-entropy
ddp       a training step in one process under DistributedDataParallel (NCCL), and the same without it

--rehearse runs all of this on the CPU with tiny networks, uncompiled and with gloo, to check the script.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import loss as losses
import machine
import numpy as np
import torch
import torch.nn.functional as F
import training as both
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from earlyfusion.fusion_lm.cpu.packed_weights import for_generation
from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.loss import CHUNK
from earlyfusion.fusion_lm.masks import attention_blocks, document_mask
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.tokenizers.vocab import SharedVocab


class Sizes(NamedTuple):
    """What is run where."""

    size: str
    """Network, a key of ``training.SIZES``."""
    windows: int
    attention: tuple[int, int, int, int]
    """B, H, T, D of the attention that is checked."""
    loss: tuple[int, int, int]
    """Tokens, width and vocabulary of the loss."""
    batches: tuple[int, ...]
    """Batch sizes of decoding."""
    new: int
    """New tokens of decoding."""
    steps: int
    """Training steps of a run."""
    runs: int


GPU = Sizes("150M", 16, (2, 12, 2048, 64), (16_384, 768, 65_536), (1, 8, 64), 128, 5, 3)
REHEARSAL = Sizes("tiny", 1, (1, 2, 192, 16), (64, 16, 512), (1, 2), 4, 1, 1)


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    args.device = "cpu" if args.rehearse else "cuda"
    args.dtype, args.clock, args.sizes = "bfloat16", "wall", REHEARSAL if args.rehearse else GPU
    rows: list[dict[str, Any]] = []
    end = time.monotonic() + args.seconds
    for name in args.parts:
        work, limit = PARTS[name]
        row = run(name, work, args, min(limit, end - time.monotonic()), rows)
        rows.append(row)
        print("  ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)
        if args.out:
            about = {"device": "CPU, a rehearsal" if args.rehearse else _device_of(rows), "dtype": args.dtype}
            machine.write_figures(args.out, {**about, "config": args.sizes._asdict(), "results": rows})
    return int(any("error" in row for row in rows))


def parser() -> argparse.ArgumentParser:
    made = machine.described_parser(__doc__)
    add = made.add_argument
    add("--rehearse", action="store_true", help="on the CPU, tiny")
    add("--parts", metavar="PART", nargs="*", choices=list(PARTS), default=list(PARTS), help="only these")
    add("--seconds", metavar="S", type=float, default=530, help="limit of all parts together (default: 530)")
    add("--out", metavar="FILE", help="JSON file to write")
    return made


def run(
    name: str, work: Callable[..., Any], args: argparse.Namespace, seconds: float, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The row of a part, which runs in a process of its own, for at most ``seconds``."""
    if seconds <= 0:
        return {"part": name, "error": "not started: the time of all parts is used up"}
    # Forked, so that nothing is imported again; this process never touches the GPU.
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    start = time.monotonic()
    process = context.Process(target=_work, args=(work, args, rows, there))
    process.start()
    there.close()
    found: dict[str, Any] = {"error": f"took longer than {seconds:.0f} s"}
    try:
        if here.poll(seconds):
            found = here.recv()
    except EOFError:
        process.join(5)
        found = {"error": f"the process ended with {process.exitcode}"}
    process.join(2)
    if process.is_alive():
        process.kill()
        process.join()
    return {"part": name, "seconds": round(time.monotonic() - start, 1), **found}


def _work(work: Callable[..., Any], args: argparse.Namespace, rows: list[Any], pipe: Connection) -> None:
    try:
        torch.manual_seed(0)
        found = work(args, {row["part"]: row for row in rows})
    except BaseException as error:
        first = next(iter(str(error).strip().splitlines()), "")
        found = {"error": f"{type(error).__name__}: {first}"[:300]}
    pipe.send(found)


def device(args: argparse.Namespace, _: Any) -> dict[str, Any]:
    """The GPU."""
    if args.device == "cpu":
        return {"name": machine.processor()}
    about = torch.cuda.get_device_properties(0)
    return {
        "name": about.name,
        "memory_gib": about.total_memory / 2**30,
        "capability": f"{about.major}.{about.minor}",
        "cuda": torch.version.cuda,
    }


def rates(args: argparse.Namespace, _: Any) -> dict[str, Any]:
    """Products of matrices and copies, the best of several runs."""
    if args.device == "cpu":
        args.dtype = "float32"  # bfloat16 may be emulated
    products = [both.matrix_rate(args) for _ in range(args.sizes.runs)]
    large = torch.empty(2**22 if args.device == "cpu" else 2**31, dtype=torch.uint8, device=args.device)
    other, copies = torch.empty_like(large), []
    for _ in range(args.sizes.runs + 1):
        start = both.now(args)
        for _ in range(10):
            other.copy_(large)
        copies.append(10 * 2 * large.numel() / (both.now(args) - start))
    return {"operations_per_second": max(products), "bytes_per_second": max(copies)}


def flex(args: argparse.Namespace, _: Any) -> dict[str, Any]:
    """Errors of FlexAttention and of plain attention against float64."""
    B, H, T, D = args.sizes.attention
    rng = torch.Generator().manual_seed(0)
    documents = torch.randint(8, (B, T), generator=rng).sort().values.to(args.device)
    q, k, v, grad = (torch.randn(B, heads, T, D, generator=rng) for heads in (H, H // 2, H // 2, H))
    mask, blocks = document_mask(documents), attention_blocks(documents)
    function = flex_attention if args.rehearse else torch.compile(flex_attention)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return function(q, k, v, block_mask=blocks, enable_gqa=True)

    def results(attend: Callable[..., Any], dtype: torch.dtype) -> list[Tensor]:
        given = [x.to(args.device, dtype).requires_grad_(not args.rehearse) for x in (q, k, v)]
        out = attend(*given)
        if args.rehearse:  # FlexAttention has no backward pass on CPUs
            return [out]
        return [out.detach(), *torch.autograd.grad(out, given, grad.to(args.device, dtype))]

    exact, found = results(plain, torch.float64), {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, attend in (("flex", ours), ("plain", plain)):
            apart = [
                float((x.double() - y).abs().max() / y.abs().max())
                for x, y in zip(results(attend, dtype), exact, strict=True)
            ]
            kind = str(dtype).removeprefix("torch.")
            found[f"{name}_{kind}"] = dict(zip(("output", "q", "k", "v"), apart, strict=False))
    for name, attend in (("flex", ours), ("plain", plain)):
        times = []
        for _ in range(args.sizes.runs + 1):
            start = both.now(args)
            results(attend, torch.bfloat16)
            times.append(1000 * (both.now(args) - start))
        found[f"{name}_ms"] = min(times[1:])
    return found


def training(args: argparse.Namespace, before: dict[str, Any], compiled: bool = False) -> dict[str, Any]:
    """Tokens per second and MFU."""
    config, rng = both.SIZES[args.sizes.size], np.random.default_rng(0)
    side = both.our_side(config, args)
    if compiled:
        side.net.compile()
    lengths = rng.integers(16, config.context_length // 2, 400)
    documents = both.documents_of(lengths, config.vocab_size, rng)
    batches = {
        "full": both.equal(config, args.sizes.windows, args.sizes.steps, rng)[0],
        "documents": both.packed(documents, config.context_length, args.sizes.windows, args.sizes.steps, rng),
    }
    operations, found = both.operations_per_token(config, side.net), {}
    for name, batch in batches.items():
        given = [both.to(one, args) for one in batch]
        for one in given[:2]:  # warm-up
            both.step(side, one, args)
        speeds = []
        for _ in range(args.sizes.runs):
            start = both.now(args)
            for one in given:
                both.step(side, one, args)
            speeds.append(sum(one.inputs["tokens"].numel() for one in given) / (both.now(args) - start))
        speed = statistics.median(speeds)
        found[name] = {"tokens_per_second": speeds, "mfu": _share(speed * operations, before)}
    if args.device != "cpu":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return {"operations_per_token": operations, **found}


def compiled(args: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """``training`` with torch.compile."""
    return training(args, before, compiled=not args.rehearse)


def decoding(args: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """Text tokens per second, compared with reading the weights."""
    config = both.SIZES[args.sizes.size]
    # Structure takes 5 tokens, grids 12 and codes 9; one text id has no token.
    vocab = SharedVocab.build(text=(config.vocab_size - 25, (0,)), codebook_size=9, max_grid=12)
    model = for_generation(FusionLM(config).to(args.device), "bfloat16")
    weights = [p for name, p in model.named_parameters() if "embedding" not in name]
    weight_bytes, found = sum(p.numel() * p.element_size() for p in weights), {}
    first = vocab["text"].ranges[0].token
    for batch in args.sizes.batches:
        prompts = [torch.tensor([vocab.bos, first + row, first + 2]) for row in range(batch)]
        speeds = []
        for _ in range(args.sizes.runs + 1):
            start = both.now(args)
            generate(
                model, vocab, prompts, max_new_tokens=args.sizes.new, sampling=Sampling(temperature=0),
                max_blocks=0, given=[torch.full((args.sizes.new,), first)] * batch,
            )  # fmt: skip
            speeds.append(batch * args.sizes.new / (both.now(args) - start))
        steps = statistics.median(speeds[1:]) / batch
        bandwidth = before.get("rates", {}).get("bytes_per_second")
        share = steps * weight_bytes / bandwidth if bandwidth else None
        found[f"batch_{batch}"] = {"tokens_per_second": speeds[1:], "share_of_bandwidth": share}
    return {"weight_bytes": weight_bytes, **found}


def memory(args: argparse.Namespace, _: Any) -> dict[str, Any]:
    """Peak memory and time of the loss."""
    args.tokens, args.width, vocabulary = args.sizes.loss
    found = {}
    inputs = losses.inputs_of(args.tokens, vocabulary, args)
    for name, chunk in (("chunked", CHUNK["cuda"]), ("plain", None)):
        times = []
        for _ in range(args.sizes.runs + 1):
            start = both.now(args)
            losses.step(inputs, chunk, args)
            times.append(1000 * (both.now(args) - start))
        peak = None if args.device == "cpu" else losses.peak_mib(vocabulary, chunk, args)
        found[name] = {"ms": times[1:], "peak_mib": peak}
    return found


def ddp(args: argparse.Namespace, _: Any) -> dict[str, Any]:
    """A step under DistributedDataParallel with one process, and without it: the same loss."""
    config, rng = both.SIZES[args.sizes.size], np.random.default_rng(0)
    batches = [both.to(one, args) for one in both.equal(config, 2, args.sizes.steps, rng)[0]]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        backend = "gloo" if args.device == "cpu" else "nccl"
        torch.distributed.init_process_group(
            backend, init_method=f"file://{Path(folder) / 'meeting'}", rank=0, world_size=1
        )
        for name in ("plain", "ddp"):
            torch.manual_seed(0)
            side = both.our_side(config, args)
            if name == "ddp":
                side = side._replace(loss=_of(nn.parallel.DistributedDataParallel(side.net)))
            start = both.now(args)
            for batch in batches:
                both.step(side, batch, args)
            seconds = both.now(args) - start
            with torch.no_grad():
                found[name] = {"loss": float(side.loss(batches[0], 0.0)), "seconds": seconds}
        torch.distributed.destroy_process_group()
    if not abs(found["ddp"]["loss"] / found["plain"]["loss"] - 1) < 1e-2:
        raise ValueError(f"the losses differ: {found['ddp']['loss']} and {found['plain']['loss']}")
    return found


def _of(net: nn.Module) -> Callable[[both.Batch, float], Tensor]:
    def loss(batch: both.Batch, z_loss: float) -> Tensor:
        given = dict(batch.inputs)
        terms = net(given.pop("tokens"), **given)
        return terms.cross_entropy + z_loss * terms.z

    return loss


def _share(rate: float, before: dict[str, Any]) -> float | None:
    """A rate of operations as a share of plain products of matrices, if these were measured."""
    product = before.get("rates", {}).get("operations_per_second")
    return rate / product if product else None


def _device_of(rows: list[dict[str, Any]]) -> str:
    return next((row.get("name", "unknown") for row in rows if row["part"] == "device"), "unknown")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} {_short(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return _short(statistics.median(value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


PARTS: dict[str, tuple[Callable[..., dict[str, Any]], float]] = {
    "device": (device, 30),
    "rates": (rates, 40),
    "flex": (flex, 90),
    "training": (training, 80),
    "compiled": (compiled, 120),
    "decoding": (decoding, 70),
    "memory": (memory, 50),
    "ddp": (ddp, 50),
}
"""Part -> its function and its time limit in seconds."""


if __name__ == "__main__":
    sys.exit(main())
