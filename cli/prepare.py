"""``earlyfusion prepare``: documents -> packed windows of tokens.

Its options are the fields of ``PrepareConfig``, which jsonargparse reads from the command line and from YAML.
"""

import argparse
import re
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .terminal import UsageError, add_command

if TYPE_CHECKING:
    from ..data.prepare_config import PrepareConfig

DESCRIPTION = """\
Turn documents of text and images into packed, memory-mapped windows of tokens, which `earlyfusion lm fit`
reads. Run it again to resume a stopped run. Settings can be in the config file, on the command line, or both;
the last value counts. Sample configs: train/configs/prepare*.yaml."""


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


def run(args: Namespace) -> None:
    config, options = parse(args.arguments)
    if options.pop("inspect"):
        from ..data.inspect import inspect

        for line in inspect(config):
            print(line)
        return
    from ..data.prepare import prepare

    prepare(config, **options)


def parse(arguments: Sequence[str]) -> "tuple[PrepareConfig, dict[str, Any]]":
    """Read the options of ``earlyfusion prepare``.

    Returns:
        What to prepare, and the options of ``prepare``, beside them whether to ``inspect`` only.

    Raises:
        UsageError: A setting is unknown, missing or of the wrong type, or a config file cannot be read.
        ValueError: A value is out of range.
    """
    import jsonargparse
    from jsonargparse.typing import PositiveInt

    from ..data.prepare_config import PrepareConfig

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser("earlyfusion prepare", description=DESCRIPTION, exit_on_error=False)
    parser.add_argument("--config", metavar="FILE", action="config", help="YAML file with settings")
    names = parser.add_class_arguments(PrepareConfig)
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
    try:
        arguments = list(arguments)
        if any(word.partition("=")[0] == "--inspect" for word in arguments):  # the rest is not needed then
            arguments = ["--documents=", "--out=", "--model=", *arguments]
        values = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(f"{_plain(str(error))} (see `earlyfusion prepare --help`)") from None
    settings = {name: getattr(values, name) for name in names}
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


def _plain(message: str) -> str:
    """A message of jsonargparse in one line, with YAML's names of types."""
    return " ".join(re.sub(r"<class '(\w+)'>", r"\1", message).replace("NoneType", "null").split())
