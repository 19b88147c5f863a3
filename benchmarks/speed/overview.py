"""Speed of encoding, decoding, training and sampling on this machine.

    .venv/bin/python benchmarks/speed/overview.py
    .venv/bin/python benchmarks/speed/overview.py --model runs/demo/model --threads 2 --out speed.json

Without --model the networks have the demo's shape and random weights, which are as fast as trained ones. Each
figure is measured several times, after a warm-up run; the median is printed, with minimum and maximum. A
training token includes forward, backward and the step of AdamW; a sampled token includes cache and grammar.
"""

# ruff: noqa: E402

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import machine
import torch
from torch import Tensor

from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.fusion_lm.loss import LossTerms
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.documents import interleave
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.demo.budget import CONFIGS, IMAGE_TOKENIZER, LM, PREPARE, settings
from earlyfusion.train.lm.targets import targets_of
from earlyfusion.train.loop.cpu_speed import best_cpu_precision
from earlyfusion.train.loop.optim import adamw, clip

PIECES = 340
"""Size of the demo's text tokenizer."""
WORD_GRID = (2, 8)
"""Rows and columns of codes of a word's image in the training windows."""


class Networks(NamedTuple):
    """What is measured."""

    image: ImageTokenizer
    lm: FusionLM
    vocab: SharedVocab
    name: str


class Result(NamedTuple):
    """One figure."""

    name: str
    unit: str
    runs: list[float]


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    networks = trained(args.model) if args.model else untrained(args.budget)
    print("\n".join(about(networks)), flush=True)
    print(f"\n{'':<42}{'median':>10}{'least':>10}{'most':>10}")
    results = []
    for result in measurements(networks, args):
        figures = "".join(
            f"{value:>10,.0f}" if value >= 100 else f"{value:>10,.1f}"
            for value in (statistics.median(result.runs), min(result.runs), max(result.runs))
        )
        print(f"{result.name:<42}{figures}  {result.unit}", flush=True)
        results.append(result)
    if args.out:
        machine.write_figures(
            args.out, {**facts(networks), "results": [as_json(result) for result in results]}
        )
    return 0


def parser() -> argparse.ArgumentParser:
    made = machine.described_parser(__doc__)
    made.add_argument("--model", metavar="DIR", help="model folder (default: random weights)")
    made.add_argument(
        "--budget", choices=("full", "long", "quick"), default="full", help="shape of the random networks"
    )
    made.add_argument("--threads", metavar="N", type=int, help="threads of torch (default: torch's choice)")
    made.add_argument("--repeats", metavar="N", type=int, default=5, help="runs per figure (default: 5)")
    made.add_argument(
        "--seconds", metavar="S", type=float, default=1.0, help="minimum seconds per run (default: 1)"
    )
    made.add_argument(
        "--size", metavar="PIXELS", type=int, default=64, help="side of the images in pixels (default: 64)"
    )
    made.add_argument("--images", metavar="N", type=int, default=16, help="images per batch (default: 16)")
    made.add_argument("--windows", metavar="N", type=int, default=16, help="windows per batch (default: 16)")
    made.add_argument("--out", metavar="FILE", help="JSON file to write")
    return made


def untrained(budget: str) -> Networks:
    """Networks of the demo's shape, with random weights."""
    of_image, of_lm = (settings(CONFIGS / budget / file)["model"]["config"] for file in (IMAGE_TOKENIZER, LM))
    image = ImageTokenizer(ImageTokenizerConfig(**of_image)).eval()
    vocab = SharedVocab.build(
        text=(PIECES, (0,)),
        codebook_size=image.codebook_size,
        codes_per_position=image.codes_per_position,
        max_grid=settings(CONFIGS / budget / PREPARE)["max_grid"],
    )
    lm = FusionLM(FusionLMConfig(**{**of_lm, "vocab_size": vocab.size})).eval()
    return Networks(image, lm, vocab, f"random weights, the demo's {budget} shape")


def trained(folder: str) -> Networks:
    """The networks of a model folder."""
    model = load_model(folder)
    return Networks(model.tokenizer.image, model.lm, model.tokenizer.vocab, folder)


def measurements(networks: Networks, args: argparse.Namespace) -> Iterator[Result]:
    """Measure every figure in turn."""
    image, lm, vocab, _ = networks
    side = max(1, args.size // image.factor) * image.factor
    pixels = torch.rand(args.images, 3, side, side) * 2 - 1
    codes = image.encode(pixels)

    def encode() -> int:
        return len(image.encode(pixels))

    def decode() -> int:
        return len(image.decode(codes))

    yield measure(f"encode, {args.images} images of {side} x {side}", "images/s", encode, args)
    yield measure(f"decode, {args.images} images of {side} x {side}", "images/s", decode, args)

    prompt = torch.tensor([vocab.bos])
    grid = sampled_grid(lm.config.context_length, vocab)
    for batch in (1, 16):

        def sample(batch: int = batch) -> int:
            written = generate(
                lm,
                vocab,
                [prompt] * batch,
                max_new_tokens=lm.config.context_length,
                then="image",
                stop_after="image",
                shapes={"image": grid},
            )
            return sum(len(row.tokens) - row.prompt_length for row in written)

        yield measure(f"sample, {batch} x an image of {grid[0]} x {grid[1]} codes", "tokens/s", sample, args)

    context = lm.config.context_length
    step = training_step(lm, vocab, args.windows)  # last: it changes the weights
    yield measure(f"train, {args.windows} windows of {context} tokens", "tokens/s", step, args)


def measure(name: str, unit: str, work: Callable[[], int], args: argparse.Namespace) -> Result:
    """Units per second of ``work``, which returns its units; a run lasts at least ``args.seconds``."""
    work()
    runs = []
    for _ in range(args.repeats):
        done, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < args.seconds or not done:
            done += work()
        runs.append(done / seconds)
    return Result(name, unit, runs)


def training_step(lm: FusionLM, vocab: SharedVocab, batch: int) -> Callable[[], int]:
    """A training step on packed windows: forward, backward, clipping, AdamW; returns the tokens per batch."""
    tokens, documents = windows(vocab, batch, lm.config.context_length)
    targets = targets_of(tokens, documents, vocab)
    optimizer = adamw(lm, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    half = best_cpu_precision() == "bf16-mixed"

    def step() -> int:
        lm.train()
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            terms = lm(Inputs(tokens, documents), targets=targets, modalities=vocab.table())
        assert isinstance(terms, LossTerms)
        optimizer.zero_grad()
        (terms.cross_entropy + 1e-4 * terms.z).backward()
        clip(lm.parameters(), 1.0)
        optimizer.step()
        return tokens.numel()

    return step


def windows(vocab: SharedVocab, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Packed windows (batch, length) of documents with five letters and an image, and their documents."""
    layout = vocab.layout("image")
    largest = layout.numbers.count if layout.numbers else 0
    grid = layout.shape or tuple(min(side, largest) for side in WORD_GRID)
    ids = torch.cat([torch.arange(r.id, r.id + r.count) for r in vocab["text"].ranges])
    tokens, documents = [], []
    while sum(map(len, tokens)) < batch * length:
        text = ids[torch.randint(len(ids), (5,))]
        n = vocab["image"].slots
        codes = torch.randint(vocab["image"].codebook_size, (*grid, n) if n > 1 else grid)
        tokens.append(interleave([("text", text), ("image", codes)], vocab))
        documents.append(torch.full_like(tokens[-1], len(documents)))
    shape = batch, length
    return tuple(torch.cat(part)[: batch * length].view(shape) for part in (tokens, documents))  # type: ignore[return-value]


def sampled_grid(context: int, vocab: SharedVocab) -> tuple[int, ...]:
    """The largest square grid, at most 8 x 8 codes, of an image that fits after one token."""
    layout = vocab.layout("image")
    if layout.numbers is None:
        return layout.least
    sides = range(1, min(8, layout.numbers.count) + 1)
    side = max((side for side in sides if layout.length((side, side)) + 1 <= context), default=1)
    return side, side


def about(networks: Networks) -> list[str]:
    """What was measured, and the machine, as lines of text."""
    f = facts(networks)
    return [
        f"machine   {f['machine']}, {f['cpus']} CPUs, {f['system']}",
        f"torch     {f['torch']}, {f['threads']} threads, training in {f['precision']}; Python {f['python']}",
        f"commit    {f['commit']}",
        f"networks  {f['networks']}: VQ-VAE {f['parameters']['image'] / 1e6:.2f} M parameters, transformer "
        f"{f['parameters']['lm'] / 1e6:.2f} M",
    ]


def facts(networks: Networks) -> dict[str, Any]:
    """What was measured, and the machine, for JSON."""
    return {
        **machine.facts(),
        "precision": best_cpu_precision(),
        "networks": networks.name,
        "parameters": {
            "image": sum(p.numel() for p in networks.image.parameters()),
            "lm": sum(p.numel() for p in networks.lm.parameters()),
        },
    }


def as_json(result: Result) -> dict[str, Any]:
    """One figure with every run."""
    return {
        "name": result.name,
        "unit": result.unit,
        "median": statistics.median(result.runs),
        "least": min(result.runs),
        "most": max(result.runs),
        "runs": result.runs,
    }


if __name__ == "__main__":
    sys.exit(main())
