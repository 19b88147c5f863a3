"""The options of ``earlyfusion prepare``: in a file, on the command line, or both."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from earlyfusion.cli.main import main
from earlyfusion.cli.prepare import parse
from earlyfusion.cli.terminal import UsageError

NEEDED = "documents: d\nout: o\ntext_tokenizer: t\nimage_tokenizer: i\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prepare.yaml"
    path.write_text(
        f"{NEEDED}context_length: 512\nfixed_grid: [2, 3]\ncolumns: {{image: jpg}}\nseparator: true"
    )
    return path


def test_the_command_line_overrides_the_file(file: Path):
    config, options = parse(
        ["--config", str(file), "--context_length", "64", "--max_side=null", "--jobs", "4"]
    )
    assert (config.documents, config.context_length, config.max_side) == ("d", 64, None)
    assert (config.fixed_grid, config.columns, config.separator) == ((2, 3), {"image": "jpg"}, True)
    assert options == {"jobs": 4, "engine": "local", "overwrite": False, "inspect": False}


def test_the_command_line_alone(file: Path):
    arguments = [
        "--documents=d",
        "--out=o",
        "--text_tokenizer=t",
        "--image_tokenizer=i",
        "--fixed_grid=[2, 3]",
    ]
    given = parse([*arguments, "--columns.image=jpg", "--separator=true", "--context_length=512"])
    assert given == parse(["--config", str(file)])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("documents: [", "line 2"),
        ("- documents", "documents"),
        (f"{NEEDED}dokuments: x", "dokuments"),
        ("documents: x", "out"),
        (f"{NEEDED}context_length: many", "context_length.*int.*many"),
        (f"{NEEDED}max_side: [2]", r"max_side.*int.*null.*\[2\]"),
        (f"{NEEDED}fixed_grid: [2]", r"fixed_grid.*\[2\]"),
        (f"{NEEDED}order: sideways", "order.*image_first.*sideways"),
        (f"{NEEDED}columns: {{image: 3}}", "columns.*3"),
        (f"{NEEDED}jobs: 0", "jobs.*0"),
    ],
)
def test_a_setting_that_cannot_be_is_named_in_one_line(tmp_path: Path, text: str, named: str):
    (tmp_path / "prepare.yaml").write_text(text)
    with pytest.raises(UsageError, match=named) as caught:
        parse(["--config", str(tmp_path / "prepare.yaml")])
    assert "\n" not in str(caught.value) and "`earlyfusion prepare --help`" in str(caught.value)
    assert "class" not in str(caught.value)


def test_mistakes_on_the_command_line(fails, file: Path, tmp_path: Path):
    assert "--nonsense" in fails("prepare", "--config", file, "--nonsense", "3")
    assert "--engine" in fails("prepare", "--config", file, "--engine", "cloud")
    assert "context_length" in fails("prepare", "--config", file, "--context_length", "3")
    assert "nowhere.yaml" in fails("prepare", "--config", tmp_path / "nowhere.yaml")
    assert "documents" in fails("prepare", "--jobs", "2")


def test_help_shows_every_option_and_imports_nothing_heavy(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--jobs N" in shown and "--fixed_grid" in shown and "Tokens per window." in shown
    code = """
import sys
from earlyfusion.cli.main import main
try:
    main(["prepare", "--help"])
except SystemExit:
    pass
heavy = {"torch", "lightning", "numpy", "PIL", "datasets", "rich", "sentencepiece"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_inspect_shows_what_would_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"id": 1, "prompt": "What is 1?", "completion": "One.", "notes": "not to be used at all"},
        {"id": 2, "prompt": "What is 2?", "completion": ""},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join([*map(json.dumps, rows), "{broken"]))
    before = sorted(tmp_path.rglob("*"))
    assert main(["prepare", "--inspect", str(tmp_path / "rows.jsonl")]) == 2
    assert "ignore: [notes]" in capsys.readouterr().err
    assert main(["prepare", "--inspect", str(tmp_path / "rows.jsonl"), "--ignore", "[notes]"]) == 0
    told = capsys.readouterr().out
    for words in (
        "conversations",
        "prompt, completion",
        "not used  id",
        "ignored   notes",
        "rows.jsonl:3: not JSON",
        "document 1: 'What is 1?' [end of turn] 'One.'",
        "1 x empty answer",
    ):
        assert words in told, words
    assert sorted(tmp_path.rglob("*")) == before
