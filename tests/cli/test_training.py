"""The commands whose options Lightning reads."""

import pytest

from earlyfusion.cli import training
from earlyfusion.cli.configs import resolved
from earlyfusion.cli.main import build_parser, main
from earlyfusion.train.loop import cli
from earlyfusion.train.loop.trainables import TRAINABLES

LINES = [
    ["--config", "x.yaml", "--data.path=tokens"],
    ["--help"],
    ["--data.train", "a b", "--", "-1"],
    [],
]


@pytest.mark.parametrize("given", LINES)
def test_all_that_follows_the_stage_is_for_lightning(given):
    args, rest = build_parser().parse_known_args(["image-tokenizer", "fit", *given])
    assert (args.run, args.command, args.subcommand) == (training.run, "image-tokenizer", "fit")
    assert args.arguments == given and rest == []


@pytest.mark.parametrize("one", TRAINABLES.values(), ids=TRAINABLES)
def test_the_command_to_run_next_is_one(one):
    program, *words = one.then.format(model="m").split()
    args, rest = build_parser().parse_known_args(words)
    assert program == "earlyfusion" and rest == [] and "m" in one.then.format(model="m")
    assert resolved(getattr(args, "arguments", ()))[-1:] in ([], ["--model.recognizer=m"])


def test_a_training_gives_its_exit_code(monkeypatch):
    called = []
    monkeypatch.setattr(cli, "run", lambda *args: called.append(args) or 3)
    assert main(["lm", "validate", "--x", "3"]) == 3
    assert called == [("lm", ["validate", "--x", "3"])]
