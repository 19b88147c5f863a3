"""The config files of the package, by name."""

from pathlib import Path

import pytest

from earlyfusion.cli.configs import FOLDER, resolved
from earlyfusion.cli.main import main

NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def test_they_are_listed_and_printed(capsys):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 2 and len(line) < 110 for line in lines)
    for name in ("lm_debug", "lm_debug.yaml"):
        assert main(["configs", name]) == 0
        assert capsys.readouterr().out == (FOLDER / "lm_debug.yaml").read_text(encoding="utf-8")


def test_config_takes_a_file_or_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = str(FOLDER / "lm.yaml")
    assert resolved(["--config", "lm", "--x", "lm"]) == ["--config", packaged, "--x", "lm"]
    assert resolved(["--config=lm.yaml"]) == [f"--config={packaged}"]
    Path("lm.yaml").write_text("")
    assert resolved(["--config=lm.yaml"]) == ["--config=lm.yaml"]


@pytest.mark.parametrize("command", [["lm", "fit"], ["image-tokenizer", "fit"], ["prepare"]])
def test_a_config_that_is_not_found_is_told_at_once(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--config", "lm_debg.yaml"]) == 2
    told = capsys.readouterr().err
    assert "lm_debg.yaml" in told and "'lm_debug.yaml'?" in told
    Path("mine.yaml").write_text("")
    assert main([*command, "--config=mien.yaml"]) == 2
    assert "'mine.yaml'?" in capsys.readouterr().err
