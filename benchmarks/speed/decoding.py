"""Speed of text generation, compared with transformers' Chameleon with the same weights.

    .venv/bin/pip install transformers
    .venv/bin/python benchmarks/speed/decoding.py --threads 2 --out benchmarks/speed/decoding.json

Greedy generation of text from prompts of equal length, with a cache: `generate` of both. Transformers'
Chameleon cannot write images. Both run alternately, so that other work on the machine slows both; the median
is printed, with minimum and maximum, and the share of equal tokens. Ours runs with unchanged weights, and in
the layouts for generation (packed float32 and float16, int8). All weights are rounded to float16 first, so
that all layouts except int8 compute with the same numbers. Bound: the steps per second if each step only read
all weights except the embedding once, at the rate at which a large tensor is summed here.

guided: ours, an image with guidance (two rows), compared with the same image without.
"""

# ruff: noqa: E402

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import torch
import training as both
from machine import commit, processor, write_figures
from torch import Tensor

from earlyfusion.fusion_lm.cpu.packed_weights import WEIGHTS, for_generation
from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.tokenizers.vocab import SharedVocab

GREEDY = Sampling(temperature=0)
GRID = (12, 12)
"""The largest image of the vocabulary, in codes."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config, dtype = both.SIZES[args.size], getattr(torch, args.dtype)
    theirs = both.chameleon(config)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.half().float()
    ours = FusionLM(config).eval()
    ours.load_state_dict(both.as_ours(dict(theirs.named_parameters())))
    theirs, ours = theirs.to(dtype).eval(), ours.to(dtype)
    weights = [p for name, p in ours.named_parameters() if "embedding" not in name]
    bound = memory_rate() / sum(p.numel() * p.element_size() for p in weights)
    sides = {"as they are": ours} if args.dtype == "float32" else {}
    for name in args.weights:
        sides[name] = for_generation(ours, name)
    # Structure takes 5 tokens, grids 12 and codes 9; one text id has no token.
    text_ids = config.vocab_size - 5 - GRID[0] - 9 + 1
    vocab = SharedVocab.build(text=(text_ids, (0,)), codebook_size=9, max_grid=GRID[0])
    about = {"machine": processor(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    about |= {"dtype": args.dtype, "commit": commit(), "prompt": args.prompt, "new": args.new}
    for name, value in about.items():
        print(f"{name:<9} {value}")
    print(f"bound     {bound:,.0f} steps/s\n")
    print(f"{'tokens/s':<22}{'median':>9}{'least':>8}{'most':>8}{'ratio':>8}")
    results = []
    first = vocab["text"].ranges[0].token
    for batch in args.batches:
        prompts = torch.randint(first, config.vocab_size - 9, (batch, args.prompt))
        prompts[:, 0] = vocab.bos

        def our_text(model: FusionLM, prompts: Tensor = prompts) -> Tensor:
            made = generate(
                model, vocab, list(prompts), max_new_tokens=args.new, sampling=GREEDY, max_blocks=0
            )
            return torch.nn.utils.rnn.pad_sequence([row.tokens for row in made], batch_first=True)

        def their_text(prompts: Tensor = prompts) -> Tensor:
            return theirs.generate(
                prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=args.new,
                eos_token_id=None, pad_token_id=both.PAD,
            )  # fmt: skip

        ours_by = tuple(partial(our_text, model) for model in sides.values())
        *runs, their_runs = in_turns((*ours_by, their_text), batch * args.new, args.runs)
        expected = their_text()[:, args.prompt :]
        show(f"batch {batch}: theirs", their_runs)
        for name, write, speeds in zip(sides, ours_by, runs, strict=True):
            ratio = statistics.median(speeds) / statistics.median(their_runs)
            written = write()[:, args.prompt :]
            same = float((written == expected[:, : written.shape[1]]).float().mean())
            show(f"  ours, {name}", speeds, ratio)
            print(f"    {100 * same:.0f} % of the tokens are the same")
            results.append({"batch": batch, "weights": name, "ours": speeds, "ratio": ratio, "same": same})
        results.append({"batch": batch, "theirs": their_runs})

    fastest = sides["float32"] if "float32" in sides else next(iter(sides.values()))

    def image(guidance: Guidance) -> Callable[[], Any]:
        start = [torch.tensor([vocab.bos, first, first + 1])]
        return lambda: generate(
            fastest,
            vocab,
            start,
            max_new_tokens=400,
            then="image",
            stop_after="image",
            shapes={"image": args.grid},
            guidance=guidance,
        )

    codes = args.grid[0] * args.grid[1]
    runs = in_turns((image(Guidance()), image(Guidance(3.0))), codes, args.runs)
    cost = statistics.median(runs[0]) / statistics.median(runs[1])
    show("image", runs[0])
    show("image, guided", runs[1])
    print(f"guidance costs {cost:.2f} times the time")
    if args.out:
        found = {
            "config": asdict(config),
            "bound": bound,
            "results": results,
            "guidance": cost,
            "image": runs,
        }
        write_figures(args.out, {**about, **found})
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--size", choices=sorted(both.SIZES), default="35M", help="size of the transformer (default: 35M)")
    add("--batches", metavar="N", type=int, nargs="*", default=[1, 8], help="batch sizes (default: 1 8)")
    add("--prompt", metavar="N", type=int, default=32, help="tokens of each prompt (default: 32)")
    add("--new", metavar="N", type=int, default=64, help="new tokens (default: 64)")
    add("--grid", metavar="N", type=int, nargs=2, default=GRID, help="rows, columns of codes of the image")
    add("--runs", metavar="N", type=int, default=5, help="runs per side (default: 5)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of their weights")
    add(
        "--weights", metavar="W", nargs="*", choices=WEIGHTS, default=["float32", "float16", "int8"],
        help="layouts of our weights, in addition to unchanged ones (default: float32 float16 int8)",
    )  # fmt: skip
    add("--threads", metavar="N", type=int, help="threads of torch (default: torch's choice)")
    add("--out", metavar="FILE", help="JSON file to write")
    return made


def in_turns(sides: tuple[Callable[[], Any], ...], tokens: int, runs: int) -> list[list[float]]:
    """Tokens per second of each run of every side, without the first run (warm-up)."""
    kept: list[list[float]] = [[] for _ in sides]
    for run in range(runs + 1):
        for side, speeds in zip(sides, kept, strict=True):
            start = time.perf_counter()
            side()
            if run:
                speeds.append(tokens / (time.perf_counter() - start))
    return kept


def show(name: str, speeds: list[float], ratio: float | None = None) -> None:
    """Print a line of the table."""
    figures = f"{statistics.median(speeds):>9,.0f}{min(speeds):>8,.0f}{max(speeds):>8,.0f}"
    print(f"{name:<22}{figures}" + (f"{ratio:>8.2f}" if ratio else ""), flush=True)


def memory_rate() -> float:
    """Bytes per second at which a large tensor is read."""
    large, best = torch.ones(2**26), 0.0
    for _ in range(5):
        start = time.perf_counter()
        large.sum()
        best = max(best, 4 * 2**26 / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    sys.exit(main())
