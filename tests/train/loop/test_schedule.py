"""Learning rates over the steps, what a run may go on with, and which weights decay."""

from typing import Any

import pytest
import torch
from torch import nn

from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.train.lm.muon import muon
from earlyfusion.train.loop.optim import adamw
from earlyfusion.train.loop.resume import check_resumed
from earlyfusion.train.loop.schedule import (
    SCHEDULES,
    check_schedule,
    lr_factor,
    warmup_cosine,
    warmup_exponential,
    warmup_stable_decay,
)

FIELDS: dict[str, Any] = {"max_steps": 100, "warmup_steps": 10, "decay_fraction": 0.4, "final_lr": 0.1}
CONFIG: dict[str, Any] = {"vocab_size": 50, "width": 32, "n_heads": 2, "n_kv_heads": 1, "n_layers": 1}
OPTIMIZER: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_warms_up_peaks_once_and_falls(schedule: str):
    factors = [lr_factor(schedule, step, **FIELDS) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[9] == factors[10] == 1.0 == max(factors)
    assert all(later <= before for before, later in zip(factors[10:], factors[11:]))
    end = 0.0 if schedule == "wsd" else 0.1
    assert factors[100] == lr_factor(schedule, 150, **FIELDS) == pytest.approx(end)
    assert lr_factor(schedule, 0, **{**FIELDS, "warmup_steps": 0}) == 1.0


def test_their_shapes():
    assert [warmup_stable_decay(step, 100, 10, 0.4) for step in (60, 80, 90)] == [1.0, 0.5, 0.25]
    assert warmup_cosine(55, 100, 10, 0.0) == pytest.approx(0.5)  # half-way
    assert warmup_cosine(55, 100, 10, 0.2) == pytest.approx(0.6)
    assert warmup_cosine(100, 100, 10) == 0.0
    falls = [warmup_exponential(step, 110, 10, 0.01) for step in range(10, 111)]
    ratios = [later / before for before, later in zip(falls, falls[1:])]
    assert ratios == pytest.approx([0.01 ** (1 / 100)] * 100)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": float("nan")}, "lr.*nan"),
        ({"warmup_steps": -1}, "warmup_steps.*-1"),
        ({"max_steps": 0}, "max_steps.*0"),
        ({"decay_fraction": 1.5}, "decay_fraction.*1.5"),
        ({"schedule": "linear"}, "schedule.*'linear'.*wsd, cosine, exponential"),
        ({"schedule": "cosine", "final_lr": -0.1}, "final_lr.*-0.1"),
        ({"schedule": "exponential", "final_lr": 2.0}, "final_lr.*2.0"),
        ({"schedule": "exponential", "final_lr": 0.0}, "final_lr.*0.*schedule=exponential"),
    ],
)
def test_settings_that_no_schedule_has(fields: dict[str, Any], message: str):
    settings = {"lr": 1e-3, "warmup_steps": 10, "max_steps": 100, "decay_fraction": 0.4}
    check_schedule(**settings)
    check_schedule(**settings, schedule="cosine", final_lr=0.0)
    with pytest.raises(ValueError, match=message):
        check_schedule(**{**settings, **fields})


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule.*'step'.*wsd, cosine, exponential"):
        lr_factor("step", 0, **FIELDS)


def rates(optimizer: torch.optim.Optimizer, schedule: Any, steps: int) -> list[float]:
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


@pytest.mark.parametrize(("decay_fraction", "stop"), [(0.0, 5), (0.0, 3), (0.4, 3)])
def test_a_run_that_is_extended_has_the_learning_rates_of_the_longer_one(decay_fraction: float, stop: int):
    def run(max_steps: int) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor("wsd", step, max_steps, 2, decay_fraction, 0.1)
        )

    short, longer = run(5), run(10)
    first = rates(*short, stop)
    settings = {"decay_fraction": decay_fraction, "schedule": "wsd"}
    check_resumed({**settings, "max_steps": 5}, {**settings, "max_steps": 10}, stop)
    longer[0].load_state_dict(short[0].state_dict())
    longer[1].load_state_dict(short[1].state_dict())
    assert first + rates(*longer, 10 - stop) == rates(*run(10), 10)


@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_max_steps_shape_every_step_of_the_others(schedule: str):
    settings = {"schedule": schedule, "decay_fraction": 0.4, "max_steps": 100}
    check_resumed(settings, settings, 50)
    with pytest.raises(ValueError, match=f"max_steps=100.*200.*schedule={schedule}"):
        check_resumed(settings, {**settings, "max_steps": 200}, 1)


def test_max_steps_may_change_before_the_decay_of_wsd():
    settings = {"schedule": "wsd", "decay_fraction": 0.4, "max_steps": 100}
    check_resumed(settings, {**settings, "max_steps": 200}, 60)
    for step, other in ((61, 200), (50, 80)):
        with pytest.raises(ValueError, match=f"step {step}.*max_steps=100.*max_steps={other}"):
            check_resumed(settings, {**settings, "max_steps": other}, step)


def test_another_schedule_is_refused_also_by_checkpoints_from_before_there_was_a_choice():
    old = {"lr": 1e-3, "decay_fraction": 0.4}
    new = {**old, "schedule": "wsd", "final_lr": 0.1}
    check_resumed(old, new, 5)
    with pytest.raises(ValueError, match="schedule=wsd.*cosine"):
        check_resumed(old, {**new, "schedule": "cosine"}, 5)


@pytest.mark.parametrize("qk_norm", ["layer", "rms", "none"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("by_muon", [False, True])
def test_matrices_and_embeddings_decay_norms_and_biases_do_not(qk_norm: Any, tied: bool, by_muon: bool):
    net = FusionLM(FusionLMConfig(**CONFIG, ffn_width=32, qk_norm=qk_norm, tie_embeddings=tied))
    optimizer = muon(net, 1e-3, 0.02, **OPTIMIZER) if by_muon else adamw(net, 1e-3, **OPTIMIZER)
    names = {id(p): name for name, p in net.named_parameters()}  # a tied matrix has one name
    grouped = [
        (names[id(p)], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    ]
    assert sorted(name for name, _ in grouped) == sorted(names.values())  # each once
    decayed = {name for name, decay in grouped if decay == 0.1}
    matrices = ("attention.qkv", "attention.out", "ffn.gate_up", "ffn.down")
    expected = {"embedding.weight", *(f"blocks.0.{matrix}.weight" for matrix in matrices)}
    assert decayed == expected | (set() if tied else {"lm_head.weight"})
    plain = {name for name, decay in grouped if decay == 0.0}
    assert {"norm.weight", "blocks.0.ffn_norm.weight"} < plain
    assert ("blocks.0.attention.q_norm.weight" in plain) == (qk_norm != "none")
    assert ("blocks.0.attention.k_norm.bias" in plain) == (qk_norm == "layer")


def test_biases_do_not_decay():
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv2d(4, 4, 3))
    decayed, plain = adamw(net, 1e-3, **OPTIMIZER).param_groups
    assert [p.ndim for p in decayed["params"]] == [2, 4]
    assert {id(p) for p in plain["params"]} == {id(p) for p in net.parameters() if p.ndim == 1}
