"""SIGTERM and Ctrl+C: the step is finished and saved, and the run goes on to the same end."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.fusion_lm.model import FusionLMConfig
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.loop.fit import fit
from earlyfusion.train.loop.resume import read_checkpoint, recover, stored_precision

CONFIG = FusionLMConfig(context_length=64, n_layers=1, width=32, n_heads=2, n_kv_heads=2, ffn_width=48)


class Send(Callback):
    """Sends signals to this process in the middle of a step."""

    def __init__(self, step: int, *signals: int) -> None:
        self.step, self.signals = step, signals

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step == self.step - 1:
            for number in self.signals:
                os.kill(os.getpid(), number)


def train(prepared: Path, run: Path, *callbacks: Callback) -> Path:
    torch.manual_seed(0)
    module = FusionLMTraining(
        LMSettings(tokenizer=str(prepared), config=CONFIG, max_steps=12, warmup_steps=2)
    )
    options: dict[str, Any] = {"log_every": 1, "validate_every": 4, "checkpoint_seconds": 1000}
    data = TokenData(str(prepared), batch_size=4)
    return fit(module, data, run, progress=False, tensorboard=False, callbacks=callbacks, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """A run that is not stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(prepared, run)
    return run


@pytest.mark.parametrize(
    ("number", "expected", "step"),
    [(signal.SIGTERM, SystemExit, 8), (signal.SIGINT, KeyboardInterrupt, 5)],  # at 8 there is a validation
)
def test_the_step_is_finished_and_saved(
    prepared: Path, tmp_path: Path, whole: Path, number: int, expected: type, step: int, capsys
):
    before = signal.getsignal(number)
    with pytest.raises(expected) as stop:
        train(prepared, tmp_path / "run", Send(step, number))
    if expected is SystemExit:
        assert stop.value.code == 143
    assert signal.getsignal(number) is before
    assert f"{signal.Signals(number).name} after step {step}" in capsys.readouterr().err
    assert read_checkpoint(tmp_path / "run/last.ckpt")[1] == step
    train(prepared, tmp_path / "run")
    for name in ("train/loss", "train/lr", "validation/loss", f"train/epochs/{prepared}"):
        curves = [read_metrics(run)[name] for run in (tmp_path / "run", whole)]
        assert curves[0] == curves[1] and len(curves[0]) == (3 if name.startswith("validation") else 12)
    ends = [torch.load(run / "last.ckpt", weights_only=True) for run in (tmp_path / "run", whole)]
    assert stored_precision(tmp_path / "run/last.ckpt") == "32-true"
    for key, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][key])
    assert ends[0]["optimizer_states"][0]["state"].keys() == ends[1]["optimizer_states"][0]["state"].keys()


def test_a_second_ctrl_c_stops_at_once(prepared: Path, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        train(prepared, tmp_path / "run", Send(5, signal.SIGINT, signal.SIGINT))
    assert not (tmp_path / "run/last.ckpt").exists()


def test_a_checkpoint_that_was_being_replaced_is_put_back(tmp_path: Path):
    assert recover(tmp_path) is None
    (tmp_path / ".last.ckpt.old").mkdir()
    (tmp_path / ".last.ckpt.old/meta.pt").write_text("old")
    assert recover(tmp_path) == tmp_path / "last.ckpt"
    assert (tmp_path / "last.ckpt/meta.pt").read_text() == "old"
    (tmp_path / ".last.ckpt.old").mkdir()
    assert recover(tmp_path) == tmp_path / "last.ckpt"  # the newer one stays
    assert (tmp_path / "last.ckpt/meta.pt").read_text() == "old"
