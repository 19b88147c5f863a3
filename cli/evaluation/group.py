"""``earlyfusion eval``: the group of the measurements, one file each."""

from typing import Any

from ..terminal import add_group
from . import lm, reading, reconstruction, writing


def add(commands: Any) -> None:
    kinds = add_group(
        commands,
        "eval",
        "measure reconstruction, reading, writing, or all of a model",
        "Measure a model or an image tokenizer, print a table and write JSON.",
        """\
  earlyfusion eval reconstruction runs/demo/model --out reconstruction.json
  earlyfusion eval reading --help""",
    )
    for measurement in (reconstruction, reading, writing, lm):
        measurement.add(kinds)
