"""Cost of telemetry: the time of a training step with it, compared with one without.

    .venv/bin/python benchmarks/speed/telemetry.py --threads 2 --out benchmarks/speed/telemetry.json
    .venv/bin/python benchmarks/speed/telemetry.py --size tiny --windows 4 --runs 3
    .venv/bin/python benchmarks/speed/telemetry.py --accelerator gpu --precision bf16-mixed --compile

The training is that of `earlyfusion lm fit`, with its logs, on packed windows of random texts and codes.
``Telemetry`` measures every fourth step; its cost is the time of that step minus the median of the three
steps before it, and with telemetry every N steps, 1 / N of that per step. Other work on the machine slows
both kinds of steps. The median over the runs is printed, with minimum and maximum.
"""

# ruff: noqa: E402

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import lightning as L
import machine
import torch
from lightning.pytorch.callbacks import Callback
from overview import windows
from torch.utils.data import DataLoader

from earlyfusion.fusion_lm.model import FusionLMConfig
from earlyfusion.tokenizers.documents import DocumentTokenizer
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.lm.telemetry import Telemetry
from earlyfusion.train.loop.cpu_speed import best_cpu_precision
from earlyfusion.train.loop.trainer import loggers, quiet

SIZES = {
    "tiny": FusionLMConfig(0, 64, n_layers=2, width=32, n_heads=2, n_kv_heads=2, ffn_width=48),
    "10M": FusionLMConfig(0, 512, n_layers=6, width=256, n_heads=4, n_kv_heads=4, ffn_width=704),
    "30M": FusionLMConfig(0, 512, n_layers=6, width=512, n_heads=8, n_kv_heads=8, ffn_width=1408),
}
IMAGE = ImageTokenizerConfig(channels=(8, 16), res_blocks=1, codebook_size=8192)
"""Only its codebook size matters, which makes most of the vocabulary; it encodes nothing here."""
PERIOD = 4
"""Telemetry runs every ``PERIOD`` steps here."""
WARM_UP = 2
"""Number of periods to skip."""
N = 50
"""Telemetry runs every ``N`` steps in a real training."""


class Clock(Callback):
    """Records when each step begins, and when the last one ends."""

    def __init__(self, kind: str) -> None:
        self.read = time.process_time if kind == "cpu" else time.perf_counter
        self.times: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._now()  # the previous step has been logged by now

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._now()

    def _now(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(self.read())


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    about = facts(args)
    print(f"machine   {about['machine']}, {about['cpus']} CPUs, {about['system']}, {about['device']}")
    print(f"torch     {about['torch']}, {about['threads']} threads, {about['precision']}")
    print(f"commit    {about['commit']}", flush=True)
    print(
        f"step      {args.windows} windows of {SIZES[args.size].context_length} tokens, {args.clock} seconds"
    )
    print(
        f"\n{'':<34}{'a step':>12}{'telemetry':>12}{f'of {N} steps':>14}{'least':>9}{'most':>9}", flush=True
    )
    results = []
    for cosine in (False, True):
        result = measure(cosine, args)
        shares = sorted(result["shares"])
        name = f"{result['name']}, {result['parameters'] / 1e6:.1f} M parameters"
        print(
            f"{name:<34}{statistics.median(result['plain']):>10.3f} s"
            f"{statistics.median(result['extra']):>10.3f} s{statistics.median(shares):>14.2%}"
            f"{shares[0]:>9.2%}{shares[-1]:>9.2%}",
            flush=True,
        )
        results.append(result)
    if args.out:
        machine.write_figures(args.out, {**about, "results": results})
    return 0


def parser() -> argparse.ArgumentParser:
    made = machine.described_parser(__doc__)
    add = made.add_argument
    add("--size", choices=sorted(SIZES), default="30M", help="size of the transformer (default: 30M)")
    add("--windows", metavar="N", type=int, default=8, help="windows per batch (default: 8)")
    add("--rows", metavar="N", type=int, default=8, help="windows that telemetry measures (default: 8)")
    add("--runs", metavar="N", type=int, default=7, help="steps with telemetry (default: 7)")
    add("--threads", metavar="N", type=int, help="threads of torch (default: torch's choice)")
    add("--accelerator", default="cpu", help="Lightning's accelerator (default: cpu)")
    add("--precision", default=None, help="Lightning's precision (default: the fastest on this CPU)")
    add("--compile", action="store_true", help="use torch.compile")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: process time, for a busy machine")
    add("--out", metavar="FILE", help="JSON file to write")
    return made


def measure(gradient_cosine: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every step, with and without telemetry, in one training."""
    L.seed_everything(0, verbose=False)
    steps, clock = PERIOD * (WARM_UP + args.runs), Clock(args.clock)
    config = SIZES[args.size]
    with tempfile.TemporaryDirectory() as folder, quiet():
        text = TextTokenizer.train([__doc__ or ""] * 9, vocab_size=400, threads=1)
        vocab = SharedVocab.build(text=text, codebook_size=IMAGE.codebook_size)
        DocumentTokenizer(vocab, text=text, image=ImageTokenizer(IMAGE)).save(folder)
        training = FusionLMTraining(
            LMSettings(tokenizer=folder, config=config, lr=1e-4, max_steps=steps, compile=args.compile)
        )
        tokens, documents = windows(vocab, args.windows, config.context_length)
        batches: Any = [{"tokens": tokens, "documents": documents}] * steps
        data = DataLoader(batches, batch_size=None)
        trainer = L.Trainer(
            accelerator=args.accelerator,
            devices=1,
            precision=precision(args),
            max_steps=steps,
            max_epochs=-1,
            default_root_dir=folder,
            logger=loggers(folder),
            callbacks=[clock, Telemetry(PERIOD, args.rows, gradient_cosine)],
            gradient_clip_val=1.0,
            log_every_n_steps=N,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(training, data, data)
    seconds = [b - a for a, b in zip(clock.times, clock.times[1:])]
    periods = [seconds[i : i + PERIOD] for i in range(PERIOD * WARM_UP, steps, PERIOD)]
    plain = [second for period in periods for second in period[:-1]]
    extra = [period[-1] - statistics.median(period[:-1]) for period in periods]
    return {
        "name": "cosine too" if gradient_cosine else "telemetry",
        "parameters": sum(parameter.numel() for parameter in training.net.parameters()),
        "vocabulary": vocab.size,
        "plain": plain,
        "telemetry": [period[-1] for period in periods],
        "extra": extra,
        "shares": [seconds / N / statistics.median(plain) for seconds in extra],
    }


def precision(args: argparse.Namespace) -> Any:
    """Lightning's precision."""
    return args.precision or (best_cpu_precision() if args.accelerator == "cpu" else "32-true")


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """What was measured, and the machine."""
    return {
        **machine.facts(),
        "device": "no GPU" if args.accelerator == "cpu" else torch.cuda.get_device_name(),
        "precision": precision(args),
        "compile": args.compile,
        "clock": args.clock,
        "config": asdict(SIZES[args.size]),
        "windows": args.windows,
        "rows": args.rows,
        "steps_between": N,
    }


if __name__ == "__main__":
    sys.exit(main())
