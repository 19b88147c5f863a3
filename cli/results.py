"""``--out`` and ``--overwrite``: how the commands follow the rule of ``storage/results.py``."""

import os
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

from ..storage.results import Result, claimed, noted
from .terminal import Parser, Run, tell

FREE = ("run", "parser", "version", "out", "overwrite", "push", "preview")
"""Of the parsed arguments, those that a result does not depend on."""


def add_out(
    parser: Parser, metavar: str = "DIR", what: str = "folder to write", default: str | None = None
) -> None:
    """The options of a command that ``writes``; ``default`` says what it writes to without ``--out``."""
    default = "" if default is None else f" (default: {default})"
    parser.add_argument("--out", metavar=metavar, required=not default, help=f"{what}{default}")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help=f"move an earlier result aside (to {metavar}.before-1), instead of refusing",
    )


def writes(
    *,
    inputs: tuple[str, ...] = (),
    holds: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
    resumes: bool = False,
) -> Callable[[Run], Run]:
    """Decorate the function of a command that writes ``--out``: it runs if no earlier result is in the way.

    Args:
        inputs: The options that name what is read.
        holds: As in ``Result``; none: ``--out`` is a file.
        more: Options that name other files to write.
        resumes: As in ``Result``.
    """

    def decorate(run: Run) -> Run:
        @wraps(run)
        def guarded(args: Namespace) -> int | None:
            values = vars(args)
            options = {name: value for name, value in values.items() if name not in FREE}
            if resumes:  # files of one folder can be added one by one
                options |= {n: os.path.dirname(options[n]) for n in inputs if os.path.isfile(options[n])}
            result = Result(
                out=Path(args.out),
                options=options,
                inputs=tuple(path for name in inputs for path in _paths(values[name])),
                holds=holds,
                more=tuple(Path(values[name]) for name in more if values[name] is not None),
                resumes=resumes,
            )
            with claimed(result, args.overwrite) as todo:
                if not todo:
                    tell(f"{args.out} is done: same command, same files (--overwrite does it again)")
                    return None
                code = run(args)
                if not getattr(args, "unfinished", False):
                    noted(result)
                return code

        return guarded

    return decorate


def _paths(value: Any) -> Iterable[str]:
    """Those of an option's values that are files or folders."""
    values = value if isinstance(value, list | tuple) else [value]
    return (str(one) for one in values if one is not None and os.path.exists(one))
