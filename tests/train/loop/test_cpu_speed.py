"""Which precision a training on a CPU takes: by measurement, kept, and the same when it resumes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

from earlyfusion.train.loop import cpu_speed, trainer
from earlyfusion.train.loop.cpu_speed import SECONDS, Rates, measure, rates

ON_CPU = {"accelerator": "cpu", "enable_progress_bar": True}


class Machine:
    """A clock, and the operations per nanosecond of a CPU in each type; each step begins with an overhead."""

    def __init__(self, overhead: float = 5e-5, **speeds: float) -> None:
        self.now, self.overhead, self.speeds, self.steps = 0.0, overhead, speeds, 0

    def seconds(self, step: tuple[int, int], name: str) -> float:
        tokens, width = step
        took = self.overhead + 48 * tokens * width**2 / 1e9 / self.speeds[name]
        self.now, self.steps = self.now + took, self.steps + 1
        return took


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Machine], Machine]]:
    """Puts the measurement on a machine, with an empty cache."""

    def on(machine: Machine) -> Machine:
        monkeypatch.setattr(cpu_speed, "_block", lambda *size: size)
        monkeypatch.setattr(cpu_speed, "_seconds", machine.seconds)
        monkeypatch.setattr(cpu_speed, "time", SimpleNamespace(perf_counter=lambda: machine.now))
        monkeypatch.setenv("EARLYFUSION_CACHE", str(tmp_path / "cache"))
        cpu_speed._kept.cache_clear()
        return machine

    yield on
    cpu_speed._kept.cache_clear()


@pytest.mark.parametrize(
    ("float32", "bfloat16", "precision"),
    [
        (100, 300, "bf16-mixed"),
        (100, 125, "bf16-mixed"),
        (100, 110, "32-true"),
        (100, 30, "32-true"),
        (100, 1, "32-true"),  # emulated
        (4, 0.02, "32-true"),
        (4000, 20000, "bf16-mixed"),
    ],
)
def test_bfloat16_is_taken_if_it_is_faster_by_a_fifth(
    on: Any, float32: float, bfloat16: float, precision: str
):
    machine = on(Machine(float32=float32, bfloat16=bfloat16))
    found = measure()
    assert found.precision == precision
    assert machine.now <= SECONDS
    assert found.float32 == pytest.approx(float32, rel=0.3)
    assert ("float32, bfloat16 is" in found.line) == (precision == "32-true")


def test_this_cpu_is_measured_without_a_trace():
    state = torch.random.get_rng_state()
    found = measure()
    assert found.float32 > 0.1 and found.ratio > 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_answer_is_kept(on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    machine = on(Machine(float32=100, bfloat16=300))
    first = rates()
    steps, file = machine.steps, tmp_path / "cache/cpu_speed.json"
    cpu_speed._kept.cache_clear()
    assert rates() == first and machine.steps == steps
    with monkeypatch.context() as other:
        other.setattr(torch, "get_num_threads", lambda: 77)
        rates()
    assert machine.steps > steps and len(json.loads(file.read_text())) == 2
    for damaged in ("{", "[]", json.dumps(dict.fromkeys(json.loads(file.read_text()), {"float32": "fast"}))):
        file.write_text(damaged)
        cpu_speed._kept.cache_clear()
        assert rates() == first
        assert first._asdict() in json.loads(file.read_text()).values()


def test_a_cache_that_cannot_be_written_is_no_error(on: Any, tmp_path: Path):
    on(Machine(float32=100, bfloat16=300))
    (tmp_path / "cache").write_text("a file")
    assert rates().precision == "bf16-mixed"


def test_a_run_that_resumes_keeps_its_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(trainer, "rates", lambda: Rates(100.0, 2.0))
    monkeypatch.setattr(trainer, "has_bfloat16", lambda: False)

    def precision(checkpoint: Path | None = None, **options: Any) -> tuple[Any, str]:
        made = trainer.for_fit({**ON_CPU, "logger": False, **options}, "", checkpoint)
        assert capsys.readouterr().out == ""  # the settings may still be refused
        for callback in made["callbacks"]:
            if isinstance(callback, LambdaCallback):
                callback.on_fit_start(None, None)  # type: ignore[arg-type]
        return made["precision"], capsys.readouterr().out

    chosen, line = precision()
    assert chosen == "bf16-mixed" and line.count("\n") == 1 and "2 times" in line
    for stored, expected in (({"precision": "32-true"}, "32-true"), ({}, "32-true")):  # {}: earlier versions
        path = tmp_path / "last.ckpt"
        torch.save({"hyper_parameters": {}, "global_step": 3, **stored}, path)
        assert precision(path)[0] == expected
        assert precision(path, precision="bf16-mixed") == ("bf16-mixed", "")
    assert precision(devices=2) == ("32-true", "")  # processes that measured might differ
    assert trainer.for_evaluation(ON_CPU, path)["precision"] == "32-true"
