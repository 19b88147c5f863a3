"""``earlyfusion demo``: train a model from scratch, and write samples and a report."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from .terminal import add_command, integer

OUT = "runs/demo"
"""Default folder of `make demo` and `earlyfusion demo`."""


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
  earlyfusion demo --out runs/quick --budget quick     # minutes: checks that everything works
  earlyfusion sample --model runs/demo/model --out runs/apple --then image "A red apple:\"""",
        run,
    )
    parser.add_argument("--out", metavar="DIR", default=OUT, help="folder of the run (default: %(default)s)")
    parser.add_argument("--seed", metavar="N", type=integer, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--budget",
        choices=("quick", "full", "long"),
        default="full",
        help="training time on two CPU cores: quick, minutes, only checks that everything works; full, about "
        "ten minutes; long, two hours, the recipe of the packaged model (default: %(default)s)",
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
