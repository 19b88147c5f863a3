"""Training of the transformer: targets of packed windows, losses, checkpoints, and a run that goes on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.samples import Samples
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.lm.targets import share_of_all, targets_of, weighted_mean, window_loss
from earlyfusion.train.loop.fit import fit
from earlyfusion.train.loop.optim import adamw

CONFIG = FusionLMConfig(
    context_length=64, n_layers=2, width=32, n_heads=2, n_kv_heads=1, ffn_width=48, dropout=0.1
)
STEPS = 20


class Watch(Callback):
    """Remembers every step, and stops the run at one of them as Ctrl+C does."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.steps = stop, []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        self.steps.append((trainer.global_step, float(outputs["loss"]), batch["windows"].tolist()))
        if trainer.global_step == self.stop:
            raise KeyboardInterrupt


def training(prepared: Path, **changes: Any) -> FusionLMTraining:
    torch.manual_seed(0)
    settings = {"lr": 3e-3, "max_steps": STEPS, "warmup_steps": 3}
    return FusionLMTraining(LMSettings(tokenizer=str(prepared), config=CONFIG, **{**settings, **changes}))


def train(prepared: Path, run: Path, *callbacks: Callback, module: Any = None, **options: Any) -> Path:
    options = {"log_every": 5, "validate_every": 10, "checkpoint_steps": 4, **options}
    module = module or training(prepared)
    data = TokenData(str(prepared), batch_size=4)
    return fit(module, data, run, callbacks=callbacks, progress=False, tensorboard=False, **options)


def test_targets_are_the_next_tokens_of_the_same_document(vocab):
    t = int(vocab["text"].ranges[0].token)
    tokens = torch.tensor([[vocab.bos, t, vocab.eos, vocab.bos, t + 1, vocab.eos, vocab.pad, vocab.pad]])
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2]])
    targets = targets_of(tokens, documents, vocab)
    assert targets.tolist() == [[t, vocab.eos, -100, t + 1, vocab.eos, -100, -100, -100]]


def test_the_loss_of_packed_windows_is_that_of_their_documents(prepared: Path):
    module = training(prepared)
    module.net.eval()
    data = TokenData(str(prepared), batch_size=3)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    total, count = 0.0, 0
    for tokens, documents in zip(batch["tokens"], batch["documents"]):
        for number in documents.unique():
            document = tokens[documents == number]
            if document[0] == module.vocab.pad:
                continue
            logits = module.net(document[None, :-1])[0]
            nats = torch.nn.functional.cross_entropy(logits, document[1:], reduction="sum")
            total += float(nats.detach())
            count += len(document) - 1
    with torch.no_grad():
        terms = window_loss(module.net, batch, module.vocab)
    assert int(terms.counts.sum()) == count
    assert float(terms.cross_entropy) == pytest.approx(total / count, rel=1e-5)


class Alone:
    """What a Lightning strategy does for a process that has as much as every other."""

    @staticmethod
    def reduce(value: torch.Tensor, reduce_op: str) -> torch.Tensor:
        return value


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_minimizes_the_cross_entropy_plus_the_weighted_z_loss(prepared: Path, ranks: int):
    """Value and gradient, alone and as one of several ranks, with equal weights of the modalities."""
    module = training(prepared, z_loss_weight=0.25)
    module._trainer = SimpleNamespace(world_size=ranks, strategy=Alone())  # type: ignore[assignment]
    module.net.eval()  # no dropout
    data = TokenData(str(prepared), batch_size=3)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    terms = window_loss(module.net, batch, module.vocab)
    expected = terms.cross_entropy + 0.25 * terms.z
    assert float(terms.z.detach()) > 10  # its sign cannot hide in the tolerance
    weight = module.net.lm_head.weight
    (wanted,) = torch.autograd.grad(expected, weight)
    loss = module.training_step(batch, 0)
    (found,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, wanted)
    assert module.last_loss is not None  # what Divergence checks has no z-loss
    torch.testing.assert_close(module.last_loss, terms.cross_entropy.detach())


@pytest.mark.parametrize("z_loss_weight", [0.0, 0.25])
def test_the_shares_of_the_ranks_average_to_the_loss_of_all_targets(prepared: Path, z_loss_weight: float):
    """Ranks with different numbers of targets, and modalities with different weights."""
    module = training(prepared)
    module.net.eval()
    data = TokenData(str(prepared), batch_size=4)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    weights = torch.linspace(0.5, 2, len(module.vocab.names))
    targets = targets_of(batch["tokens"], batch["documents"], module.vocab)
    targets[0, : targets.shape[1] // 2] = -100  # so that the ranks differ

    def terms(rows: slice) -> Any:
        part = {name: value[rows] for name, value in batch.items()}
        return window_loss(module.net, part, module.vocab, targets=targets[rows])

    whole, parts = terms(slice(None)), [terms(slice(0, 1)), terms(slice(1, 4))]
    counts = [torch.stack([(weights * p.counts).sum(), p.counts.sum().float()]) for p in parts]
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: {"mean": sum(counts) / 2}[reduce_op])
    shares = [share_of_all(p, weights, z_loss_weight, strategy) for p in parts]
    expected = weighted_mean(whole, weights) + z_loss_weight * whole.z
    torch.testing.assert_close(sum(shares) / 2, expected)


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, prepared: Path):
    straight = Watch()
    train(prepared, tmp_path / "straight", straight)
    seen: dict[int, tuple] = {}
    for stop in (6, 11, None):
        watch = Watch(stop)
        try:
            train(prepared, tmp_path / "stopped", watch)
        except KeyboardInterrupt:
            assert stop
        assert watch.steps[0][0] == {6: 1, 11: 5, None: 9}[stop]
        seen |= {step[0]: step for step in watch.steps}
    assert [seen[n] for n in range(1, STEPS + 1)] == straight.steps  # dropout's numbers too
    curves = [read_metrics(tmp_path / name) for name in ("straight", "stopped")]
    for figures in curves:
        del figures["train/tokens_per_second"]
    assert curves[0] == curves[1]


def test_what_a_run_writes(tmp_path: Path, prepared: Path, vocab):
    folder = train(
        prepared, tmp_path, Samples(every=10, count=2, prompts=["A red apple:"], max_new_tokens=40)
    )
    lm, tokenizer = load_model(folder)
    assert lm.config.vocab_size == tokenizer.vocab.size == vocab.size
    curves = read_metrics(tmp_path)
    for name in ("loss", "structure", "text", "image", "z"):
        assert [step for step, _ in curves[f"train/{name}"]] == [4, 9, 14, 19]
        assert [step for step, _ in curves[f"validation/{name}"]] == [9, 19]
    assert curves["train/loss"][-1][1] < curves["train/loss"][0][1]
    assert len((tmp_path / "samples/step-000020.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "samples/step-000010.png").stat().st_size > 500


def test_samples_do_not_change_the_training(tmp_path: Path, prepared: Path):
    watches = Watch(), Watch()
    train(prepared, tmp_path / "without", watches[0])
    train(prepared, tmp_path / "with", watches[1], Samples(every=3, count=1, max_new_tokens=8))
    assert watches[0].steps == watches[1].steps


def test_checkpoints_hold_plain_values_and_load(tmp_path: Path, prepared: Path):
    folder = train(prepared, tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["config"]["width"] == 32
    loaded = FusionLMTraining.load_from_checkpoint(tmp_path / "last.ckpt")
    expected = FusionLM.load(folder).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.net.state_dict().items())


def test_other_settings_are_refused(tmp_path: Path, prepared: Path):
    train(prepared, tmp_path)
    with pytest.raises(ValueError, match="weight_decay=0.1.*0.2"):
        train(prepared, tmp_path, module=training(prepared, weight_decay=0.2))
    small = FusionLMTraining(
        LMSettings(tokenizer=str(prepared), config=FusionLMConfig(context_length=32, width=32), max_steps=5)
    )
    with pytest.raises(ValueError, match="context_length.*32.*64"):
        train(prepared, tmp_path / "small", module=small)


def test_a_run_may_begin_with_given_weights(tmp_path: Path, prepared: Path):
    folder = train(prepared, tmp_path / "first")
    module = training(prepared, init_from=str(folder))
    expected = FusionLM.load(folder).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in module.net.state_dict().items())
    with pytest.raises(ValueError, match="config.n_layers=2.*3"):
        FusionLMTraining(
            LMSettings(tokenizer=str(prepared), config=replace(CONFIG, n_layers=3), init_from=str(folder))
        )


def test_the_vocabulary_comes_from_the_folder(tmp_path: Path, prepared: Path, vocab):
    assert training(prepared).net.embedding.weight.shape[0] == vocab.size
    assert training(prepared / "tokenizer").config.vocab_size == vocab.size
    with pytest.raises(ValueError, match=f"vocab_size.*7.*{vocab.size}"):
        FusionLMTraining(LMSettings(tokenizer=str(prepared), config=FusionLMConfig(vocab_size=7)))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FusionLMTraining(LMSettings(tokenizer=str(tmp_path / "nowhere")))


def test_only_matrices_decay():
    net = FusionLM(FusionLMConfig(vocab_size=50, width=32, n_heads=2, n_kv_heads=2, n_layers=1, ffn_width=32))
    decayed, plain = adamw(net, 1e-3, (0.9, 0.95), 1e-8, 0.1).param_groups
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)].split(".")[-2] for p in decayed["params"]} == {
        "embedding", "qkv", "out", "gate_up", "down", "lm_head"
    }  # fmt: skip
    assert all("norm" in names[id(p)] for p in plain["params"])
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
