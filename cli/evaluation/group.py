"""``earlyfusion eval``: the group of the measurements; each of them is a file of its own."""

from typing import Any

from ..terminal import add_group
from . import lm, reading, reconstruction, writing


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
    for measurement in (reconstruction, reading, writing, lm):
        measurement.add(kinds)
