"""``earlyfusion eval``: the group of the measurements; each of them is a file of its own."""

from argparse import Namespace
from typing import Any

from . import evaluate_lm, evaluate_reading, evaluate_reconstruction, evaluate_writing
from .terminal import add_group

MEASUREMENTS = {
    "reconstruction": evaluate_reconstruction,
    "reading": evaluate_reading,
    "writing": evaluate_writing,
    "lm": evaluate_lm,
}


def add(commands: Any) -> None:
    kinds = add_group(
        commands,
        "eval",
        "reconstruction, reading, writing, lm: how much survives, measured",
        "Measure, print a table and write JSON.",
        """\
  earlyfusion eval reconstruction runs/demo/model --out reconstruction.json
  earlyfusion eval reading --help""",
    )
    for measurement in MEASUREMENTS.values():
        measurement.add(kinds)


def run(args: Namespace) -> None:
    MEASUREMENTS[args.subcommand].run(args)
