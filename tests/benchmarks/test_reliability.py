"""The reliability scripts in small: a few mutated rows, and the measurements of the kill test."""

import json
import random
import sys
from pathlib import Path

import torch
from datasets import config as datasets_config

from earlyfusion.data import readers


def test_mutated_rows_crash_nothing_and_cost_nothing_good(script, tmp_path: Path, monkeypatch):
    out = tmp_path / "fuzz.json"
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--rows", "240", "--seed", "7", "--out", str(out)])
    script("studies/reliability/fuzz.py").main()
    result = json.loads(out.read_text())
    assert result["images"]["of_these_lost"] == result["lines"]["of_these_lost"] == 0
    assert result["images"]["left_out"]["unreadable image"] > 5
    assert result["lines"]["lines_that_cannot_be_read"] > 3
    assert len(result["structures"]["outcomes"]) > 5


def test_a_killed_prepare_comes_to_the_same_end(script, tmp_path: Path, monkeypatch):
    kill = script("studies/reliability/kill.py")
    for owner, name in kill.WRITES:
        monkeypatch.setattr(owner, name, getattr(owner, name))  # afterwards it is as before
        kill.signal_writes(owner, name)
    kill.set_up(tmp_path)
    out = tmp_path / "run"
    reference = kill.run("prepare", tmp_path, out)
    expected = kill.contents(out)
    assert set(expected) > {"prepare.json", "rejected.jsonl", "train/state.json"}
    assert len(kill.durations(reference[0])) == 18 + 2 + 1  # shards of 360 and 40 rows, and the folder
    for trial, mode in enumerate(("any time", "in a write", "any time", "in a write")):
        kill.shutil.rmtree(out)
        kill.run("prepare", tmp_path, out, kill.killing(random.Random(trial), mode, reference))
        kill.run("prepare", tmp_path, out)
        assert kill.difference(expected, kill.contents(out)) == ""


def test_differences_are_found(script):
    kill = script("studies/reliability/kill.py")
    difference, durations = kill.difference, kill.durations
    one = {"a": [1, {"b": torch.tensor([1.0, 2.0])}], "c": "x"}
    assert difference(one, {"a": [1, {"b": torch.tensor([1.0, 2.0])}], "c": "x"}) == ""
    assert difference(one, {"a": [1, {"b": torch.tensor([1.0, 2.5])}], "c": "x"}).startswith("/a/1/b")
    assert difference(one, {"a": [1], "c": "x"}) == "/a: 2 and 1 entries"
    assert "c" in difference(one, {"a": one["a"]})
    assert difference([1], [1.0]).startswith("/0: int and float")
    assert durations([(1.0, "b"), (2.0, "b"), (2.5, "e"), (3.0, "e"), (5.0, "b"), (5.5, "e")]) == [2.0, 0.5]


def test_sources_of_every_kind_are_read_whole_or_refused(script, monkeypatch, tmp_path):
    out = tmp_path / "fuzz.json"
    monkeypatch.setattr(
        sys, "argv", ["fuzz_sources.py", "--sources", "150", "--seed", "9000", "--out", str(out)]
    )
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path)
    script("studies/reliability/fuzz_sources.py").main()
    result = json.loads(out.read_text())
    assert sum(result["ends"].values()) == 100 and not result["failures"] and len(result["ends"]) == 4


def test_a_fault_of_a_reader_is_found(script, monkeypatch, tmp_path):
    """The promises of fuzz_sources.py can be broken."""
    fuzz = script("studies/reliability/fuzz_sources.py")
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path)
    whole = readers.file_rows

    def without_the_second(*args):
        return (row for number, row in enumerate(whole(*args)) if number != 1)

    monkeypatch.setattr(readers, "file_rows", without_the_second)
    broken = 0
    for seed in range(40):
        try:
            fuzz.check(tmp_path / "work", seed)
        except AssertionError:
            broken += 1
    assert broken > 5
