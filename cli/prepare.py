"""``earlyfusion prepare``: documents -> packed windows of tokens.

Its options are the fields of ``PrepareConfig``, which jsonargparse reads from the command line and from YAML.
"""

import argparse
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..storage.nearest import did_you_mean
from .configs import resolved
from .terminal import UsageError, add_command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ..data.prepare_config import PrepareConfig

DESCRIPTION = """\
Turn documents of text and images into packed, memory-mapped windows of tokens, which `earlyfusion lm fit`
reads. Run it again to resume a stopped run. Settings can be in the config file, on the command line, or both;
the last value counts. `earlyfusion configs` lists sample configs."""


def add(commands: Any) -> None:
    # No argument begins with NUL, so all of them, even --help, pass to jsonargparse.
    parser = add_command(
        commands,
        "prepare",
        "turn documents of text and images into packed windows of tokens",
        "",
        "",
        run,
        add_help=False,
        prefix_chars="\0",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER)


def run(args: Namespace) -> int | None:
    if not args.arguments:
        build_parser().print_help(sys.stderr)
        return 2
    config, options = parse(args.arguments)
    if options.pop("inspect"):
        from ..data.inspect import inspect

        for line in inspect(config):
            print(line)
        return None
    from ..data.prepare import prepare
    from ..tokenizers.progress import suggest

    prepare(config, **options)
    suggest(f"earlyfusion lm fit --config lm_small --data.path={shlex.quote(config.out)}")
    return None


def build_parser() -> "ArgumentParser":
    """The parser of the options."""
    import jsonargparse
    from jsonargparse.typing import PositiveInt

    from ..data.prepare_config import PrepareConfig

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser("earlyfusion prepare", description=DESCRIPTION, exit_on_error=False)
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="config",
        help="YAML file with settings, or the name of a packaged one",
    )
    parser.add_class_arguments(PrepareConfig)
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=PositiveInt,
        default=1,
        help="number of processes, each with its own image tokenizer",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where they run: local is this machine, ray the cluster that ray.init() finds (extra `ray`; all "
        "its machines must see the same folders)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="move windows of other settings aside (to OUT.before-1), instead of refusing",
    )
    parser.add_argument(
        "--inspect",
        metavar="SOURCE",
        help="print what would be read of these documents, and the first three; encode and write nothing",
    )
    return parser


def parse(arguments: Sequence[str]) -> "tuple[PrepareConfig, dict[str, Any]]":
    """Read the options of ``earlyfusion prepare``.

    Returns:
        What to prepare, and the options of ``prepare``, beside them whether to ``inspect`` only.

    Raises:
        UsageError: A setting is unknown, missing or of the wrong type, or a config file cannot be read.
        FileNotFoundError: A config file is missing.
        ValueError: A value is out of range.
    """
    from ..data.prepare_config import PrepareConfig

    parser = build_parser()
    try:
        arguments = resolved(arguments)
        if any(word.partition("=")[0] == "--inspect" for word in arguments):  # the rest is not needed then
            arguments = ["--documents=", "--out=", "--model=", *arguments]
        values = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(f"{_plain(str(error), parser)} (see `earlyfusion prepare --help`)") from None
    settings = {field.name: getattr(values, field.name) for field in fields(PrepareConfig)}
    if values.inspect is not None:
        settings |= {
            "documents": values.inspect,
            "model": "",
            "text_tokenizer": None,
            "image_tokenizer": None,
        }
        settings |= {
            name: getattr(PrepareConfig, name) for name in ("max_grid", "fixed_grid", "scan", "separator")
        }
    options = {"jobs": values.jobs, "engine": values.engine, "overwrite": values.overwrite}
    options["inspect"] = values.inspect is not None
    return PrepareConfig(**settings), options


def _plain(message: str, parser: "ArgumentParser") -> str:
    """A message of jsonargparse in one line, with YAML's names of types and the nearest known option."""
    plain = " ".join(re.sub(r"<class '(\w+)'>", r"\1", message).replace("NoneType", "null").split())
    if (unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", plain, re.I)) is None:
        return plain
    options = [name for action in parser._actions for name in action.option_strings]
    return f"unknown option {unknown[1]}; {did_you_mean(unknown[1], options)}".rstrip("; ")
