"""``earlyfusion image-tokenizer | recognizer | lm`` with ``fit``, ``validate``, ...: trainings.

Names and help come from the registry of trainables. Lightning's CLI (``train/loop/cli.py``) reads the
options, which are the fields of the config files.
"""

import argparse
from argparse import Namespace
from typing import Any

from ..train.loop.trainables import TRAINABLES
from .configs import resolved
from .terminal import add_command, add_group


def add(commands: Any) -> None:
    for name, trainable in TRAINABLES.items():
        examples = (
            f"{trainable.examples}\n\n`earlyfusion {name} fit --help` lists all options (in a few seconds)."
        )
        group = add_group(commands, name, trainable.summary, trainable.description, examples)
        for stage, summary in trainable.stages.items():
            # No argument begins with NUL, so all of them, even --help, pass to Lightning.
            parser = add_command(group, stage, summary, "", "", run, add_help=False, prefix_chars="\0")
            parser.add_argument("arguments", nargs=argparse.REMAINDER)
            parser.set_defaults(group=commands.choices[name])


def run(args: Namespace) -> int:
    if not args.arguments:
        return args.group.show_help(args)
    arguments = resolved(args.arguments)
    from ..train.loop.process import tune_malloc

    tune_malloc()  # before torch is imported
    from ..train.loop.cli import run as train

    return train(args.command, [args.subcommand, *arguments])
