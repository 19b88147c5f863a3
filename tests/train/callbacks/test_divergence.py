"""Steps without a finite gradient change nothing; a run that diverges stops with its last good checkpoint."""

import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.train.callbacks.divergence import Diverged, Divergence, Figures, skipped_steps
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.muon import muon
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.loop.fit import fit
from earlyfusion.train.loop.logged_training import LoggedTraining
from earlyfusion.train.loop.optim import adamw, clip_or_skip
from earlyfusion.train.loop.settings import TrainingSettings

CONFIG = FusionLMConfig(
    vocab_size=40, context_length=16, n_layers=1, width=16, n_heads=2, n_kv_heads=1, ffn_width=32
)
SETTINGS: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
HEALTHY = 60
"""Steps before the learning rate becomes absurd."""


def foreach(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), 1e-2, foreach=True, **SETTINGS)


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "fused": lambda network: adamw(network, 1e-2, **SETTINGS),
    "foreach": foreach,
    "muon": lambda network: muon(network, 1e-2, 2e-2, **SETTINGS),
}


def counting() -> Tensor:
    """64 windows (64, 17) in which each token is the one before plus 1."""
    first = torch.randint(0, 40, (64, 1), generator=torch.Generator().manual_seed(0))
    return (first + torch.arange(17)) % 40


class Training(LoggedTraining):
    """A tiny transformer, trained as FusionLMTraining trains its own."""

    net: FusionLM

    def __init__(
        self, max_steps: int, *, bad: Any = (), absurd: bool = False, optimizer: str = "fused", high: Any = ()
    ) -> None:
        """``bad``: batches whose loss is NaN; ``high``: those that report 6 nats, the others 2."""
        super().__init__(TrainingSettings(max_steps=max_steps))
        torch.manual_seed(0)
        self.net = FusionLM(CONFIG)
        self.made_by, self.bad, self.absurd, self.high = OPTIMIZERS[optimizer], bad, absurd, high
        self.last_loss: Tensor | None = None
        self.skipped = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.net(batch[:, :-1], targets=batch[:, 1:]).cross_entropy
        if batch_idx in self.bad:
            loss = loss * math.nan
        self.last_loss = torch.tensor(6.0 if batch_idx in self.high else 2.0) if self.high else loss.detach()
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        self.grad_norm, self.skipped = clip_or_skip(self.net.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        optimizer = self.made_by(self.net)
        if not self.absurd:
            return optimizer
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < HEALTHY else 300.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def save_folder(self, folder: Path) -> None:
        self.net.save(folder)


class Watch(Callback):
    """Keeps weights and optimizer state after every batch, and what the run counted."""

    def __init__(self) -> None:
        self.states: list[dict[str, dict]] = []
        self.skipped: list[int] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        state = {"net": pl_module.net.state_dict(), "optimizer": trainer.optimizers[0].state_dict()["state"]}
        self.states.append(deepcopy(state))
        self.skipped.append(skipped_steps(trainer))
        self.losses.append(float(pl_module.last_loss))


def train(run: Path, training: Training, *callbacks: Callback, **options: Any) -> Path:
    data: Any = DataLoader(counting().repeat(100, 1), batch_size=4)  # type: ignore[arg-type]
    options = {"checkpoint_steps": 5, "tensorboard": False, "progress": False, "log_every": 5, **options}
    options["precision"] = "32-true"
    module: Any = training
    return fit(module, data, run, callbacks=callbacks, validate_every=None, **options)


def same(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


def step_of(run: Path) -> int:
    return torch.load(run / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("limit", [1.0, None])
def test_a_gradient_that_is_not_finite_changes_nothing(name: str, value: float, limit: float | None):
    torch.manual_seed(0)
    network = FusionLM(CONFIG)
    optimizer = OPTIMIZERS[name](network)
    tokens = counting()[:4]

    def step(broken: bool) -> tuple[Tensor, bool]:
        optimizer.zero_grad()
        network(tokens[:, :-1], targets=tokens[:, 1:]).cross_entropy.backward()
        if broken:
            assert network.norm.weight.grad is not None
            network.norm.weight.grad[3] = value
        answer = clip_or_skip(network.parameters(), limit)
        optimizer.step()
        return answer

    assert step(broken=True)[1]  # before there is any state
    assert not optimizer.state
    norm, skipped = step(broken=False)
    assert not skipped and norm.isfinite()
    before = deepcopy({"net": network.state_dict(), "optimizer": optimizer.state_dict()["state"]})
    norm, skipped = step(broken=True)
    assert skipped and not norm.isfinite()
    assert same(before, {"net": network.state_dict(), "optimizer": optimizer.state_dict()["state"]})
    assert not step(broken=False)[1]
    assert not same(before["net"], network.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_without_a_finite_loss_is_left_out_and_counted(tmp_path: Path, name: str):
    watch = Watch()
    train(tmp_path, Training(8, bad={3, 4}, optimizer=name), Divergence(), watch)
    changed = [not same(a, b) for a, b in zip(watch.states, watch.states[1:])]
    assert changed == [True, True, False, False, True, True, True]  # into batches 1 to 7
    assert watch.skipped == [0, 0, 0, 1, 2, 2, 2, 2]
    assert step_of(tmp_path) == 8


def test_one_micro_batch_spoils_the_whole_step(tmp_path: Path):
    watch = Watch()
    trainer = L.Trainer(
        max_steps=4,
        accumulate_grad_batches=3,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[Divergence(), watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Training(4, bad={4}), DataLoader(counting(), batch_size=4))  # type: ignore[arg-type]
    assert trainer.global_step == 4
    changed = [not same(a, b) for a, b in zip(watch.states, watch.states[1:])]
    assert changed == [False, True, False, False, False, False, False, True, False, False, True]
    assert watch.skipped == [0] * 5 + [1] * 7


def test_too_many_in_a_row_stop_the_run(tmp_path: Path):
    watch = Watch()
    message = r"step 16: .*gradient.* 4 step.*last\.ckpt.*step 10.*lower lr \(init_from: .*model\)"
    bad = {2, 3, 4, 6, *range(12, 30)}
    with pytest.raises(Diverged, match=message):
        train(tmp_path, Training(40, bad=bad), Divergence(max_skipped=4), watch)
    assert watch.skipped[-1] == 7 and len(watch.skipped) == 15  # the 16th raised first
    # At step 5 the run was in the middle of a row, at 15 too: neither was written.
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 10
    weights = {name.removeprefix("net."): value for name, value in kept["state_dict"].items()}
    assert same(weights, dict(watch.states[9]["net"]))
    assert same(weights, dict(FusionLM.load(tmp_path / "model").state_dict()))


def test_before_the_first_checkpoint_there_is_none_to_go_on_from(tmp_path: Path):
    with pytest.raises(Diverged, match="step 3: .*gradient.*lower lr") as error:
        train(tmp_path, Training(40, bad=range(30)), Divergence(max_skipped=3))
    assert "last.ckpt" not in str(error.value) and "init_from" not in str(error.value)
    assert not (tmp_path / "last.ckpt").exists() and not (tmp_path / "model").exists()


def test_an_absurd_learning_rate_is_found_out(tmp_path: Path):
    watch, guard = Watch(), Divergence(patience=20)
    with pytest.raises(Diverged) as error:
        train(tmp_path, Training(300, absurd=True), watch, guard, checkpoint_steps=20)
    text, best = str(error.value), guard.figures.best
    assert best is not None and guard.figures.best_step in (HEALTHY, HEALTHY + 1)
    assert f"{best:.4g} at step {guard.figures.best_step}" in text
    assert f"diverged: at step {len(watch.losses)} " in text
    assert f"last.ckpt (step {HEALTHY})" in text
    assert len(watch.losses) < HEALTHY + 20 + 10  # the patience, and what the average takes to rise
    assert step_of(tmp_path) == HEALTHY
    tokens, kept = counting(), FusionLM.load(tmp_path / "model")
    with torch.no_grad():
        assert float(kept(tokens[:, :-1], targets=tokens[:, 1:]).cross_entropy) < 0.1
    assert min(watch.losses[HEALTHY + 5 :]) > 1


def test_a_healthy_run_never_stops(tmp_path: Path):
    guard, watch = Divergence(tolerance=0.5, patience=0, max_skipped=1), Watch()
    train(tmp_path, Training(100), guard, watch, checkpoint_steps=20)
    assert guard.figures.skipped == 0 and guard.figures.above_since is None
    assert guard.figures.best == guard.figures.average < 1.0 < watch.losses[0]
    assert step_of(tmp_path) == 100


def test_what_a_run_counted_goes_on_after_a_stop(tmp_path: Path):
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 17:
                raise KeyboardInterrupt

    bad = {2, 11, 18, 19}
    straight, guard = Divergence(), Divergence()
    train(tmp_path / "straight", Training(25, bad=bad), straight)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", Training(25, bad=bad), Divergence(), Stop())
    checkpoint = torch.load(tmp_path / "stopped/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 15
    assert Figures(**checkpoint["callbacks"]["Divergence"]).skipped == 2
    train(tmp_path / "stopped", Training(25, bad=bad), guard)
    assert guard.figures.skipped == straight.figures.skipped == 4
    assert guard.figures.steps == straight.figures.steps


def test_a_run_that_ends_in_trouble_keeps_its_last_good_state(tmp_path: Path):
    with pytest.warns(UserWarning, match="loss is .* step 30"):
        train(tmp_path, Training(34, high={31, 32, 33}), Divergence())
    assert step_of(tmp_path) == 30
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    folder = FusionLM.load(tmp_path / "model").state_dict()
    assert all(torch.equal(value, kept[f"net.{name}"]) for name, value in folder.items())


def test_nothing_is_written_while_the_loss_stands_high_and_again_afterwards(tmp_path: Path):
    class Seen(Callback):
        steps: list[int] = []

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if (tmp_path / "last.ckpt").exists():
                self.steps.append(step_of(tmp_path))

    guard, seen = Divergence(), Seen()
    train(tmp_path, Training(45, high={28, 29}), guard, seen)
    assert sorted(set(seen.steps)) == [5, 10, 15, 20, 25, 35, 40]
    assert guard.figures.above_since is None  # two steps are not the long average's matter


def test_the_training_of_the_transformer_leaves_such_steps_out(tmp_path: Path, prepared: Path):
    class Poisoned(FusionLMTraining):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * math.nan if self.global_step in (3, 4) else loss

    config = FusionLMConfig(context_length=64, n_layers=1, width=16, n_heads=2, n_kv_heads=1, ffn_width=16)
    torch.manual_seed(0)
    watch = Watch()
    options = {"precision": "32-true", "log_every": 2, "tensorboard": False, "progress": False}
    data = TokenData(str(prepared), batch_size=4)
    settings = LMSettings(tokenizer=str(prepared), config=config, max_steps=8)
    fit(Poisoned(settings), data, tmp_path, callbacks=[watch], **options)
    changed = [not same(a, b) for a, b in zip(watch.states, watch.states[1:])]
    assert changed == [True, True, False, False, True, True, True]
    assert read_metrics(tmp_path)["train/skipped_steps"] == [(1, 0), (3, 1), (5, 2), (7, 2)]


class Alone:
    """As much of a Trainer as a look needs: one process."""

    callbacks = ()

    class strategy:
        reduce = staticmethod(lambda value, reduce_op: value)


def look(guard: Divergence, losses: Tensor, every: int = 1) -> Figures:
    trainer: Any = Alone()
    for step, loss in enumerate(losses, start=1):
        guard._add(loss)
        guard._step = step
        if every == 1 or step <= every or step % every == 0:
            guard._look(trainer)
    return guard.figures


def test_a_look_now_and_then_sees_what_a_look_at_every_step_sees():
    generator = torch.Generator().manual_seed(0)
    losses = 5 + 0.1 * torch.randn(400, generator=generator) + 4 * (torch.arange(400) >= 200)
    each, seldom = look(Divergence(), losses), look(Divergence(), losses, every=20)
    assert each.average == pytest.approx(seldom.average, abs=0.03)
    assert each.best == pytest.approx(seldom.best, abs=0.05)
    assert each.above_since is not None and 200 < each.above_since < 225
    assert seldom.above_since is not None and 0 <= seldom.above_since - each.above_since < 20


def test_the_first_steps_are_a_measure_but_no_best_of_many():
    guard, trainer = Divergence(), Alone()
    explodes = look(guard, torch.tensor([6.0] * 12 + [20.0] * 3))
    assert explodes.best == pytest.approx(6) and explodes.above_since == 13
    assert "6 at step 10" in guard.trouble(trainer)  # type: ignore[arg-type]
    dips = torch.tensor([6.0] * 10 + [1.0] * 5 + [6.0] * 9)
    assert look(Divergence(), dips).best == pytest.approx(6)
    assert look(Divergence(), torch.tensor([6.0] * 10 + [5.0] * 30)).best == pytest.approx(5.25)


def test_losses_that_are_not_finite_leave_the_average_alone():
    figures = look(Divergence(), torch.tensor([3.0] * 30 + [math.nan, math.inf] + [3.0] * 8), every=20)
    assert figures.average == pytest.approx(3.0) and figures.above_since is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance.*0.0"),
        ({"patience": -1}, "patience.*-1"),
        ({"max_skipped": 0}, "max_skipped.*0"),
        ({"every": 0}, "every.*0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Divergence(**settings)
