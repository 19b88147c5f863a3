"""``earlyfusion demo``: the plan in ``train/demo`` is a list of commands, which are run here."""

from argparse import Namespace
from typing import Any

from .terminal import add


def add_demo(commands: Any) -> None:
    """The command and its options."""
    parser = add(
        commands,
        "demo",
        """\
Train a text tokenizer, an image tokenizer and one transformer from scratch, on OpenMoji
pictures and rendered words; measure them on held-out words, fonts and pictures; write
samples and OUT/report.html, one self-contained file. The commands that do this are printed.

About ten minutes on two CPU cores. If it is interrupted, the same command resumes it.
Needs the extra `demo`.""",
        """\
  earlyfusion demo --out runs/demo
  earlyfusion demo --out runs/quick --budget quick     # minutes: to see that all of it works
  earlyfusion sample --model runs/demo/model --out runs/apple --then image "A red apple:\"""",
        run,
    )
    parser.add_argument(
        "--out", metavar="DIR", default="runs/demo", help="folder of the run (default: %(default)s)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--budget",
        choices=("quick", "full", "long"),
        default="full",
        help="how long to train; long: hours, as the model that ships (default: %(default)s)",
    )


def run(args: Namespace) -> None:
    """Run or resume the demo in this process."""
    from ..train.loop.process import tune_malloc

    tune_malloc()  # before torch is there
    from pathlib import Path

    from ..train.demo.run import run
    from .main import run_command

    run(Path(args.out), args.seed, args.budget, run_command)
