"""``earlyfusion demo``: train a model from scratch, and write samples and a report."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from .terminal import add_command, integer

OUT = "runs/demo"
"""Default folder of `make demo` and `earlyfusion demo`."""

BUDGETS = {
    "quick": ("4 minutes", "checks that everything works and learns next to nothing"),
    "full": ("11 minutes", "or twice that on a slow machine"),
    "long": ("2 hours", "the recipe of the packaged model"),
}
"""Budget -> how long it takes, and what it is for."""


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "demo",
        "train everything on this machine; write a model, samples and a report",
        """\
Train a text tokenizer, an image tokenizer and one transformer from scratch, on OpenMoji
pictures and rendered words; measure them on held-out words, fonts and pictures; write
samples and OUT/report.html, one self-contained file. Prints each command that it runs.

Interrupt it at any time; run the same command again to resume. Needs the extra `demo`.""",
        """\
  earlyfusion demo --out runs/demo
  earlyfusion demo --out runs/quick --budget quick
  earlyfusion sample --model runs/demo/model "A red apple:\"""",
        run,
    )
    parser.add_argument("--out", metavar="DIR", default=OUT, help="folder of the run (default: %(default)s)")
    parser.add_argument("--seed", metavar="N", type=integer, default=0, help="random seed (default: 0)")
    budgets = "; ".join(f"{name}, about {time}, {what}" for name, (time, what) in BUDGETS.items())
    parser.add_argument(
        "--budget",
        choices=tuple(BUDGETS),
        default="full",
        help=f"how long it trains, on two CPU cores: {budgets} (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="move an earlier demo in OUT aside, and start from scratch"
    )


def run(args: Namespace) -> None:
    from ..train.loop.process import tune_malloc

    tune_malloc()
    from ..train.demo.run import run as demo
    from ..train.demo.run import set_aside
    from .main import run_command

    if args.overwrite:
        set_aside(Path(args.out))
    demo(Path(args.out), args.seed, args.budget, run_command)
