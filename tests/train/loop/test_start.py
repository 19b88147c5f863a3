"""An earlier run is resumed, refused or moved aside; never overwritten unasked."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from earlyfusion.train.loop.start import (
    LAST_OR_NEW,
    SameStart,
    check_new,
    check_predictions,
    held_run,
    make_room,
    move_predictions,
    starting_point,
)


def run_with(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("step,loss\n1,2.0\n" if name == "metrics.csv" else "x")
    return folder


@pytest.mark.parametrize(
    "name", ["last.ckpt", "model/config.json", "metrics.csv", "model.safetensors", "a.ckpt"]
)
def test_a_run_in_the_folder_is_refused_with_what_can_be_done(tmp_path: Path, name: str):
    run = run_with(tmp_path / "run", name)
    with pytest.raises(ValueError, match=r"(?s)run.*--overwrite") as caught:
        starting_point(run, None)
    assert ("--ckpt_path=last" in str(caught.value)) == (name == "last.ckpt")
    assert "\n" not in str(caught.value)
    assert starting_point(run, None, overwrite=True) is None
    with pytest.raises(ValueError, match="overwrite=True"):
        check_new(run, overwrite=False)


def test_what_is_not_of_a_run_is_not_in_the_way(tmp_path: Path):
    run = run_with(tmp_path / "run", "config.yaml", "tokens/train", "tensorboard/events.out")
    (run / "metrics.csv").write_text("step\n")
    assert held_run(run) is None and starting_point(run, None) is None
    assert starting_point(tmp_path / "none", None) is None


def test_last_and_last_or_new(tmp_path: Path):
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=rf"run.last\.ckpt.*{LAST_OR_NEW}"):
        starting_point(run, "last")
    assert starting_point(run, LAST_OR_NEW) is None
    assert not run.exists()
    run_with(run, "metrics.csv")  # it stopped before its first checkpoint
    assert starting_point(run, LAST_OR_NEW) is None
    run_with(run, "model/config.json")
    with pytest.raises(ValueError, match="model/"):
        starting_point(run, LAST_OR_NEW)
    run_with(run, ".last.ckpt.old")  # it was killed while the checkpoint was replaced
    for asked in ("last", LAST_OR_NEW, run / "last.ckpt"):
        assert starting_point(run, asked) == run / "last.ckpt"


def test_a_checkpoint_of_another_run_needs_a_folder_without_one(tmp_path: Path):
    first, run = run_with(tmp_path / "first", "last.ckpt"), tmp_path / "run"
    assert starting_point(run, first / "last.ckpt") == first / "last.ckpt"
    run_with(run, "last.ckpt")
    with pytest.raises(ValueError, match="holds a run"):
        starting_point(run, first / "last.ckpt")
    with pytest.raises(FileNotFoundError, match=r"best.*last"):
        starting_point(run, "best")


def test_overwrite_contradicts_resuming_and_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = run_with(tmp_path / "run", "last.ckpt")
    with pytest.raises(ValueError, match="one of the two"):
        starting_point(run, "last", overwrite=True)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(ValueError, match=LAST_OR_NEW):
        starting_point(run, None, overwrite=True)


def test_overwrite_moves_the_run_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = run_with(tmp_path / "run", "last.ckpt", "model/weights", "notes.txt")
    with pytest.raises(ValueError, match=r"run.model.*needed"):
        make_room(run, True, {"model": {"init_from": str(run / "model")}})
    monkeypatch.chdir(run)
    with pytest.raises(ValueError, match="needed"):
        make_room(run, True, {})
    monkeypatch.chdir(tmp_path)
    make_room(run, True, {"trainer": {"default_root_dir": str(run)}})
    assert not run.exists()
    assert sorted(p.name for p in (tmp_path / "run.before-1").iterdir()) == [
        "last.ckpt",
        "model",
        "notes.txt",
    ]
    run_with(run, "last.ckpt")
    make_room(run, True, {})
    assert (tmp_path / "run.before-2/last.ckpt").is_file() and (tmp_path / "run.before-1/notes.txt").is_file()


@pytest.mark.parametrize(("first", "fits"), [("last.ckpt", True), (None, False), ("other.ckpt", False)])
def test_ranks_start_alike_or_not_at_all(first: str | None, fits: bool):
    class Strategy:
        def broadcast(self, mine: str) -> str:
            return str(first)

        def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
            return decision

    settings = {"world_size": 2, "global_rank": 1, "ckpt_path": "last.ckpt", "default_root_dir": "run"}
    trainer: Any = SimpleNamespace(strategy=Strategy(), **settings)
    if fits:
        SameStart().setup(trainer, trainer, "fit")
    else:
        with pytest.raises(ValueError, match=f"rank 1 .*last.ckpt.*{first}"):
            SameStart().setup(trainer, trainer, "fit")


def test_a_config_that_no_run_wrote_is_kept(tmp_path: Path):
    run = run_with(tmp_path, "config.yaml")
    make_room(run, False, {})
    assert (run / "config.before-1.yaml").read_text() == "x"
    (run / "config.yaml").write_text("# lightning.pytorch==2.6.6\nseed_everything: 0\n")
    make_room(run, False, {})
    assert not (run / "config.before-2.yaml").exists()


def test_predictions_are_kept(tmp_path: Path):
    check_predictions(tmp_path, False)
    run_with(tmp_path, "predictions/losses.jsonl")
    with pytest.raises(ValueError, match=r"predictions.*--overwrite"):
        check_predictions(tmp_path, False)
    check_predictions(tmp_path, True)
    move_predictions(tmp_path)
    assert (tmp_path / "predictions.before-1/losses.jsonl").is_file()
