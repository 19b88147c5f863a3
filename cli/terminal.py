"""The command-line parser, the types of its values, and checks that several commands share.

Imports only the standard library, so that help and errors are instant.
"""

import argparse
import math
import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from ..storage.nearest import did_you_mean

Run = Callable[[Namespace], int | None]
"""Runs a command with its parsed arguments and returns the exit code; None means 0."""


class UsageError(Exception):
    """An invalid command line."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions, and lists subcommands without argparse's placeholder line."""

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):
            return "".join(map(super()._format_action, action._get_subactions()))
        return super()._format_action(action)


class Parser(argparse.ArgumentParser):
    """Raises errors as one line that names the right ``--help``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **{"formatter_class": Help, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = did_you_mean(value, action.choices).strip()
        known = known or f"expected one of: {', '.join(action.choices)}"
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"unknown command {value!r}; {known}")
        raise argparse.ArgumentError(action, f"invalid choice {value!r}; {known}")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        """Show the help if arguments are required and none is given; report unknown options first."""
        given = list(sys.argv[1:] if args is None else args)
        namespace = Namespace() if namespace is None else namespace
        if "-" not in self.prefix_chars:  # all arguments are for another parser
            return super().parse_known_args(given, namespace)
        if not given and any(action.required for action in self._actions):
            return Namespace(run=self.show_help, parser=self), []
        if self.commands is None:
            options = given[: given.index("--")] if "--" in given else given
            names = [one.partition("=")[0] for one in options if one.startswith("--")]
            if unknown := [name for name in names if name not in self._option_string_actions]:
                self.unknown(unknown)
        return super().parse_known_args(given, namespace)

    def show_help(self, args: Namespace) -> int:
        """Print the help to stderr, as for a mistake; returns the exit code."""
        self.print_help(sys.stderr)
        return 2

    def add_commands(self, dest: str) -> Any:
        """Return the object to add subcommands to.

        Without a subcommand the parser prints its help and exits with code 2.
        """

        self.set_defaults(run=self.show_help)
        return self.add_subparsers(dest=dest, metavar="COMMAND", title="commands", prog=self.prog)

    @property
    def commands(self) -> Any:
        """What ``add_commands`` returned, or None."""
        actions = (one for one in self._actions if isinstance(one, argparse._SubParsersAction))
        return next(actions, None)

    def unknown(self, arguments: list[str]) -> NoReturn:
        """Reject the leftover ``arguments`` and suggest the most similar option."""
        first = arguments[0]
        options = [name for action in self._actions for name in action.option_strings]
        if first.startswith("-"):
            name = first.partition("=")[0]
            self.error(f"unknown option {name}; {did_you_mean(name, options)}".rstrip("; "))
        lists = [a.metavar for a in self._actions if not a.option_strings and a.nargs in ("*", "+")]
        hint = f": give all {lists[0]}s together, before or after the options" if lists else ""
        self.error(f"unexpected argument {first!r}{hint}")


def add_group(commands: Any, name: str, summary: str, description: str = "", examples: str = "") -> Any:
    """Add a command with subcommands, unless another file did; returns the object to add them to."""
    if name in commands.choices:
        return commands.choices[name].commands
    parser = _parser(commands, name, summary, description or summary, examples)
    return parser.add_commands("subcommand")


def add_command(
    commands: Any, name: str, summary: str, description: str, examples: str, run: Run, **kwargs: Any
) -> Parser:
    """Add a command: ``summary`` is its line in the list of commands, ``description`` opens its own help."""
    parser = _parser(commands, name, summary, description, examples, **kwargs)
    parser.set_defaults(run=run, parser=parser)
    return parser


def _parser(commands: Any, name: str, summary: str, description: str, examples: str, **kwargs: Any) -> Parser:
    epilog = f"examples:\n{examples}" if examples else None
    return cast(
        Parser, commands.add_parser(name, help=summary, description=description, epilog=epilog, **kwargs)
    )


def integer(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"expected an integer, got {text!r}") from None


def positive_integer(text: str) -> int:
    """A whole number above 0."""
    value = int(text) if text.strip().isdecimal() else 0
    if value < 1:
        raise ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return value


def real(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def names(text: str) -> list[str]:
    """Comma-separated names."""
    return [name.strip() for name in text.split(",")]


def positive_integers(text: str) -> tuple[int, ...]:
    """Comma-separated whole numbers above 0."""
    return tuple(positive_integer(part) for part in text.split(","))


def size(text: str) -> tuple[int, int] | None:
    """HEIGHTxWIDTH in pixels, or "fit" (None)."""
    if text == "fit":
        return None
    try:
        height, width = map(positive_integer, text.split("x"))
    except (ValueError, ArgumentTypeError):
        raise ArgumentTypeError(f"expected HEIGHTxWIDTH or fit, got {text!r}") from None
    return height, width


def span(text: str) -> tuple[int, int]:
    """SMALLEST-LARGEST, or one number for both."""
    first, _, last = text.partition("-")
    try:
        return positive_integer(first), positive_integer(last or first)
    except ArgumentTypeError:
        raise ArgumentTypeError(f"expected SMALLEST-LARGEST, got {text!r}") from None


def box(text: str) -> tuple[float, ...]:
    """LEFT,TOP,RIGHT,BOTTOM."""
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"expected LEFT,TOP,RIGHT,BOTTOM, got {text!r}") from None
    return left, top, right, bottom


def given(args: Namespace, fields: Iterable[str]) -> dict[str, Any]:
    """The ``fields`` that the user set; the others keep their defaults."""
    return {name: value for name in fields if (value := getattr(args, name)) is not None}


def check_out(path: str | Path, option: str = "--out", expected: str = "a JSON file") -> None:
    """Fail before minutes of work if the file ``path`` cannot be written.

    Raises:
        ValueError: ``path`` is a folder, or is not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder: expected the name of {expected}")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"{option} {path} cannot be written: {parent} is not a writable folder")


def tell(line: str) -> None:
    """Print a note to stderr, apart from the command's output."""
    print(f"earlyfusion: {line}", file=sys.stderr)


def best_device() -> str:
    """``cuda`` if there is a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
