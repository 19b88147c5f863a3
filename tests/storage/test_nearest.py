"""The nearest known name or path."""

from pathlib import Path

from earlyfusion.storage.nearest import did_you_mean, similar_path


def test_the_nearest_name():
    assert did_you_mean("temprature", ["temperature", "top-k"]) == "did you mean 'temperature'? "
    assert did_you_mean("banana", ["temperature", "top-k"]) == ""


def test_the_nearest_path(tmp_path: Path, monkeypatch):
    (tmp_path / "runs" / "demo" / "model").mkdir(parents=True)
    (tmp_path / "runs" / ".demos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert similar_path("runs/dmo/modle") == f"did you mean {Path('runs/demo/model')}? "
    assert similar_path(tmp_path / "rns") == f"did you mean {tmp_path / 'runs'}? "
    for name in ("runs/banana", "banana/model", "runs/demo/model/x"):
        assert similar_path(name) == ""
