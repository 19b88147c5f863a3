"""Alignment of a tiny model: its gradient, its parts, and a run that resumes to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.policy import log_probabilities
from earlyfusion.train.loop.fit import fit
from earlyfusion.train.rl.loss import advantages
from earlyfusion.train.rl.module import Alignment
from earlyfusion.train.rl.prompts import Batch, PromptData
from earlyfusion.train.rl.rewards import score
from earlyfusion.train.rl.settings import AlignmentSettings

STEPS = 7
CODE = '''
calls = [0]

def few(samples, net, tokenizer):
    """How few of the codes are in the upper half of the codebook; some codes of any sample are."""
    vocab, values = tokenizer.vocab, []
    for sample in samples:
        tokens = sample.tokens[len(sample.prompt.tokens):]
        codes = vocab.to_codes("image", tokens[vocab.is_("image", tokens)])
        values.append(1 - float((codes >= 16).float().mean()) if len(codes) else 0.0)
    return values

def breaks(samples, net, tokenizer):
    calls[0] += 1
    if calls[0] > 3:
        raise RuntimeError("no such word")
    return few(samples, net, tokenizer)
'''


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A word list, and a module of rewards."""
    (tmp_path / "tiny_rewards.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "words.txt"
    path.write_text("red\napple\nsmall\nhouse\nbird\n")
    return path


def module_of(model_folder: Path, **changes: Any) -> Alignment:
    settings = {
        "rewards": {"tiny_rewards:few": 1.0},
        "samples": 4,
        "max_new_tokens": 24,
        "lr": 1e-2,
        "max_steps": STEPS,
        "warmup_steps": 0,
    }
    return Alignment(AlignmentSettings(init_from=str(model_folder), **{**settings, **changes}))


class Watch(Callback):
    """Remembers every step, and stops the run at one of them as Ctrl+C does."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.steps, self.drawn = stop, {}, {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        drawn = [sample.tokens.tolist() for sample in pl_module.last_samples]
        self.drawn[trainer.global_step] = drawn
        self.steps[trainer.global_step] = float(outputs["loss"]), (batch.inner == 0 and drawn)
        if trainer.global_step == self.stop:
            raise KeyboardInterrupt


def train(module: Alignment, words: Path, run: Path, *callbacks: Callback, **options: Any) -> Path:
    data = PromptData(words=str(words), prompts=3)
    options = {"log_every": 1, "checkpoint_steps": 1, **options}
    return fit(module, data, run, callbacks=callbacks, progress=False, tensorboard=False, **options)


def test_what_is_rewarded_becomes_likelier(model_folder: Path, words: Path, tmp_path: Path):
    folder = train(module_of(model_folder, max_steps=20, samples=8), words, tmp_path / "run")
    curves = read_metrics(tmp_path / "run")
    rewards = [value for _, value in curves["train/reward"]]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
    of_name = [value for _, value in curves["train/reward/tiny_rewards:few"]]
    assert of_name == pytest.approx(rewards)
    assert max(value for _, value in curves["train/sampler_gap"]) < 1e-5
    assert curves["train/kl"][0][1] == pytest.approx(0, abs=1e-6) and curves["train/kl"][-1][1] > 1e-3
    assert 0 < curves["train/entropy"][-1][1] and curves["train/length"][0][1] > 5
    assert curves["train/clipped"][-1][1] == 0  # one step on each rollout
    lm, tokenizer = load_model(folder)
    assert lm.config.vocab_size == tokenizer.vocab.size


def test_a_stopped_run_resumes_to_the_bit(model_folder: Path, words: Path, tmp_path: Path):
    """Between two rollouts, and between the inner steps on one."""
    straight, steps = Watch(), {}
    changes = {"inner_steps": 2, "kl_weight": 0.1, "top_k": 20}
    whole = train(module_of(model_folder, **changes), words, tmp_path / "straight", straight)
    for stop in (2, 5, None):
        watch = Watch(stop)
        try:
            train(module_of(model_folder, **changes), words, tmp_path / "stopped", watch)
        except KeyboardInterrupt:
            assert stop
        steps |= watch.steps
    assert steps == straight.steps and len(steps) == STEPS
    curves = [read_metrics(tmp_path / name) for name in ("straight", "stopped")]
    timed = {name for name in curves[0] if "seconds" in name}
    for figures in curves:
        for name in timed:
            del figures[name]
    assert curves[0] == curves[1]
    weights = [load_model(path / "model").lm.state_dict() for path in (whole.parent, tmp_path / "stopped")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert max(value for _, value in curves[0]["train/clipped"]) > 0
    drawn = straight.drawn  # two steps on each rollout
    assert all(drawn[step] == drawn[step + 1] != drawn[step + 2] for step in (1, 3, 5))


def batch_of(module: Alignment, words: Path, part: int = 0, parts: int = 1) -> Batch:
    data = PromptData(words=str(words), prompts=3)
    data.open(module.tokenizer, module.net.config.context_length)
    return Batch(0, 0, part, parts, data.prompts_of(0))


def test_the_gradient_is_that_of_the_advantages(
    model_folder: Path, words: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Alignment, "global_rank", 0)
    monkeypatch.setattr(Alignment, "global_step", 0)
    monkeypatch.setattr(Alignment, "_log_every", lambda self: 1)
    module = module_of(model_folder)
    parameters = list(module.net.parameters())
    loss = module.training_step(batch_of(module, words), 0)
    found = torch.autograd.grad(loss, parameters)
    draws = module._draws
    assert draws is not None
    totals, _ = score(module.last_samples, module.rewards, module.net, module.tokenizer)
    assert totals == module.last_rewards and len(set(totals)) > 2
    log_p = log_probabilities(module.net, module.vocab, draws, module.options).split(draws.counts)
    gains = [a * p.mean() for a, p in zip(advantages(torch.tensor(totals), 4), log_p, strict=True)]
    expected = torch.autograd.grad(-torch.stack(gains).mean(), parameters)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    parts = module_of(model_folder)  # the same in unequal parts of the batch, as Lightning accumulates them
    sums = [torch.zeros_like(p) for p in parts.net.parameters()]
    for part in range(5):
        share = parts.training_step(batch_of(parts, words, part, 5), 0) / 5
        for total, gradient in zip(sums, torch.autograd.grad(share, list(parts.net.parameters()))):
            total += gradient
    assert [s.tokens.tolist() for s in parts.last_samples] == [s.tokens.tolist() for s in module.last_samples]
    for one, other in zip(sums, found):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_each_rollout_has_random_numbers_of_its_own(
    model_folder: Path, words: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Alignment, "global_rank", 0)
    batch, found = batch_of(module_of(model_folder), words), []
    for rollout, seed in ((0, 0), (1, 0), (0, 1), (0, 0)):
        module = module_of(model_folder, seed=seed)
        module._roll_out(batch._replace(rollout=rollout))
        found.append([sample.tokens.tolist() for sample in module.last_samples])
    assert found[0] == found[3] and found[0] != found[1] != found[2] != found[0]


def test_a_reward_that_fails_keeps_the_last_checkpoint(model_folder: Path, words: Path, tmp_path: Path):
    module = module_of(model_folder, rewards={"tiny_rewards:breaks": 1.0})
    with pytest.raises(ValueError, match="tiny_rewards:breaks.*RuntimeError: no such word"):
        train(module, words, tmp_path / "run")
    checkpoint = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    load_model(tmp_path / "run/model")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("samples", 1),
        ("inner_steps", 0),
        ("clip_low", 1.0),
        ("clip_high", 0.0),
        ("kl_weight", -0.1),
        ("temperature", 0),
        ("top_p", 0),
        ("guidance", -1),
        ("seed", -1),
    ],
)
def test_invalid_settings_are_refused(setting: str, value: Any):
    with pytest.raises(ValueError, match=rf"{setting}.*{value}"):
        AlignmentSettings(**{setting: value})


def test_settings_come_back_from_a_checkpoint():
    settings = AlignmentSettings(rewards={"reading": 2.0}, guidance=1.5, betas=(0.8, 0.9))
    assert AlignmentSettings.load(settings.stored()) == settings


def test_only_the_transformer_is_in_checkpoints(model_folder: Path, words: Path):
    module = module_of(model_folder)
    names = set(module.state_dict())
    assert names and all(name.startswith("net.") for name in names)  # not the reference, not the tokenizers
