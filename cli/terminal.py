"""The parser of the command line, and the types of its options.

Standard library alone: help and mistakes are answered at once.
"""

import argparse
from typing import Any, NoReturn


class UsageError(Exception):
    """A command line that cannot be understood."""


class Parser(argparse.ArgumentParser):
    """Tells a mistake as one line, and keeps the line breaks of descriptions."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raises UsageError, which names the command to ask for help."""
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def sub_commands(parser: argparse.ArgumentParser) -> list[str]:
    """The names of a parser's sub-commands."""
    return [n for a in parser._actions if isinstance(a, argparse._SubParsersAction) for n in a.choices]


def add(commands: Any, name: str, description: str, examples: str = "", run: Any = None) -> Parser:
    """A sub-command whose help shows `description` and `examples`."""
    epilog = f"examples:\n{examples}" if examples else None
    parser = commands.add_parser(name, description=description, epilog=epilog)
    parser.set_defaults(run=run)
    return parser


def number(text: str) -> int:
    """A whole number above 0. (argparse names this function in its message: "invalid number value: '0'".)"""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def size(text: str) -> tuple[int, int] | None:
    """HEIGHTxWIDTH in pixels, or "fit". (argparse names this function in its message.)"""
    if text == "fit":
        return None
    height, width = map(number, text.split("x"))
    return height, width


def span(text: str) -> tuple[int, int]:
    """SMALLEST-LARGEST, or one number for both. (argparse names this function in its message.)"""
    first, _, last = text.partition("-")
    return number(first), number(last or first)


def names(text: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in text.split(",")]


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers above 0 between commas. (argparse names this function in its message.)"""
    return tuple(number(part) for part in text.split(","))


def box(text: str) -> tuple[float, ...]:
    """LEFT,TOP,RIGHT,BOTTOM. (argparse names this function in its message.)"""
    left, top, right, bottom = map(float, text.split(","))
    return left, top, right, bottom


def add_best_of(parser: Parser, what: str) -> None:
    """``--best-of`` and ``--best-by``, of each ``what``."""
    parser.add_argument(
        "--best-of",
        metavar="N",
        type=number,
        default=1,
        help=f"for each {what} draw N and keep the one that the model finds likeliest (default: 1)",
    )
    parser.add_argument(
        "--best-by",
        choices=("forward", "both"),
        default="forward",
        help="likeliest: what was drawn after its prompt (forward), or that and the prompt after it (both), "
        "for models that were trained on both orders (default: %(default)s)",
    )
