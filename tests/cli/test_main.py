"""The command line as a whole: help, mistakes, errors in one line, exit codes."""

import io
import subprocess
import sys
from collections.abc import Iterator

import pytest

from earlyfusion.cli import info
from earlyfusion.cli.main import EXTRAS, build_parser, explain, main
from earlyfusion.cli.terminal import Parser

HEAVY = ("torch", "lightning", "numpy", "PIL", "datasets", "rich", "sentencepiece", "safetensors", "yaml")


def lines(parser: Parser, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and sub-command of ``parser``, but those whose options Lightning reads."""
    if parser.add_help:
        yield names
    for name, one in parser.commands.choices.items() if parser.commands is not None else ():
        yield from lines(one, (*names, name))


def test_every_help_is_quick_and_imports_nothing_heavy():
    every = [" ".join(names) for names in lines(build_parser())]
    assert {"", "lm", "image-tokenizer encode", "eval lm", "export chameleon"} <= set(every)
    code = f"""
import sys, time
from earlyfusion.cli.main import main
for line in {every!r}:
    try:
        assert main([*line.split(), "--help"]) == 0, line
    except SystemExit as exit:
        assert exit.code == 0
assert main(["--version"]) == 0
heavy = set({HEAVY!r}) & set(sys.modules)
assert not heavy, heavy
print(time.process_time())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 2  # CPU seconds of all together, on a busy machine too
    for word in ("earlyfusion sample", "--budget", "metadata.jsonl", "predict", "--vocab-size"):
        assert word in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "",
        "lm",
        "eval",
        "image-tokenizer",
        "export",
        "info",
        "eval reading",
        "text-images",
        "lm fit",
        "prepare",
    ],
)
def test_a_bare_command_prints_its_help_and_is_a_mistake(line, capsys):
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and f"usage: earlyfusion {line.removesuffix(' fit')}".strip() in printed.err
    assert any(word in printed.err for word in ("commands:", "options:"))


def test_an_unknown_command_lists_the_commands_and_the_nearest(fails):
    line = fails("smaple")
    assert "'smaple'" in line and "'sample'?" in line and "text-images" not in line
    line = fails("sing")
    for command in build_parser().commands.choices:
        assert command in line


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("demo --budget huge", "'huge'"),
        ("demo --buget quick", "'--budget'"),
        ("lm fti", "'fti'"),
        ("image-tokenizer encod", "'encode'"),
        ("image-tokenizer sing", "fit, validate, predict, encode, decode, import"),
        ("image-tokenizer encode x --out y", "--model"),
        ("image-tokenizer decode x --model m --out y --tile 0", "--tile"),
        ("image-tokenizer import --ema", "CHECKPOINT"),
        ("recognizer predict", "fit, validate"),
        ("text-images --count 3", "--out"),
        ("text-images --out x --size 3", "'3'"),
        ("eval reconstruction m --out x --suite poems", "'poems'"),
        ("eval reconstruction m --out x --per-kind 0", "--per-kind"),
        ("eval reding x", "'reding'"),
        ("eval reading model", "--out"),
        ("sample A --out x B", "'B': give all SEGMENTs together"),
        ("sample A --out x --n 0", "--n"),
        ("sample A --out x --infill 1,2", "'1,2'"),
        ("sample A --out x --temprature 1", "'--temperature'"),
        ("sample A --out x --the image", "--the"),
        ("text-tokenizer fit --input x --out y", "--vocab-size"),
        ("sample --temprature 0.5", "'--temperature'"),
        ("eval reading --ot x", "'--out'"),
        ("configs lm x", "'x'"),
        ("prepare --docments x", "'--documents'"),
        ("--verison", "'--version'"),
    ],
)
def test_a_mistaken_option_is_one_line_that_names_the_help(fails, argv, expected):
    line = fails(*argv.split())
    assert expected in line
    named = "" if argv.startswith("-") else f" {argv.split()[0]}"
    assert f"`earlyfusion{named}" in line and "--help`" in line


def test_the_old_name_of_a_command_is_understood_for_one_release(capsys):
    assert main(["recogniser", "fti"]) == 2
    printed = capsys.readouterr().err
    assert "`recognizer`" in printed and "'fti'" in printed


def test_interrupting_is_one_line(monkeypatch, capsys):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "describe", interrupted)
    assert main(["info", "x"]) == 130
    assert capsys.readouterr().err == "earlyfusion: interrupted\n"


def test_debugging_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setenv("EARLYFUSION_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["info", str(tmp_path / "nothing")])


@pytest.mark.parametrize(("extra", "module"), [(e, m) for e, modules in EXTRAS.items() for m in modules])
def test_a_missing_extra_is_named(extra, module):
    error = ModuleNotFoundError(f"No module named '{module}.sub'", name=f"{module}.sub")
    assert f"pip install 'earlyfusion[{extra}]'" in explain(error)


def test_errors_become_one_line(tmp_path):
    assert explain(ValueError("first\n  second\n")) == "first second"
    assert explain(ValueError()) == "ValueError"
    assert explain(PermissionError(13, "Permission denied", "/x/y")) == "/x/y: Permission denied"


def test_output_that_a_terminal_cannot_show_is_escaped(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    argv = ["sample", "--model", str(model_folder), "--out", str(tmp_path / "o")]
    assert main([*argv, "--max-new-tokens", "1", "\xfc"]) == 0
