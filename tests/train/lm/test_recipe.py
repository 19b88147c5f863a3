"""The recipe's switches in the training of the transformer."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.fusion_lm.loss import IGNORE
from earlyfusion.fusion_lm.model import FusionLMConfig
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.lm.targets import drop_conditions, targets_of, weighted_mean, window_loss
from earlyfusion.train.loop.fit import fit

CONFIG = FusionLMConfig(context_length=64, n_layers=2, width=32, n_heads=2, n_kv_heads=1, ffn_width=48)
STEPS = 6


def training(prepared: Path, config: FusionLMConfig = CONFIG, **changes: Any) -> FusionLMTraining:
    torch.manual_seed(0)
    return FusionLMTraining(
        LMSettings(
            tokenizer=str(prepared),
            config=config,
            **{"lr": 3e-3, "max_steps": STEPS, "warmup_steps": 2, **changes},
        )
    )


def batch_of(prepared: Path, size: int = 4) -> dict[str, torch.Tensor]:
    data = TokenData(str(prepared), batch_size=size)
    data.setup()
    return next(iter(data.train_dataloader()))


class Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        self.losses.append(float(outputs["loss"]))


def losses(prepared: Path, run: Path, **changes: Any) -> list[float]:
    watch = Losses()
    options = {"progress": False, "tensorboard": False, "log_every": 2, "callbacks": [watch]}
    fit(training(prepared, **changes), TokenData(str(prepared), batch_size=4), run, **options)
    return watch.losses


def test_equal_weights_give_the_plain_mean(prepared: Path):
    module = training(prepared)
    terms = window_loss(module.net, batch_of(prepared), module.vocab)
    torch.testing.assert_close(weighted_mean(terms, torch.full((3,), 2.0)), terms.cross_entropy)


def test_weights_by_modality(prepared: Path):
    module = training(prepared)
    terms = window_loss(module.net, batch_of(prepared), module.vocab)
    assert (terms.counts > 0).all()
    structure, text, image = terms.by_modality.tolist()
    a, b, c = terms.counts.tolist()
    found = float(weighted_mean(terms, torch.tensor([1.0, 2.0, 0.5])).detach())
    assert found == pytest.approx((a * structure + 2 * b * text + c * image / 2) / (a + 2 * b + c / 2))
    assert float(weighted_mean(terms, torch.tensor([0.0, 1.0, 0.0])).detach()) == pytest.approx(text)


def test_without_image_targets_no_image_code_is_learned(prepared: Path):
    module = training(prepared, modality_weights={"image": 0.0}, z_loss_weight=0.0)
    batch = batch_of(prepared)
    terms = window_loss(module.net, batch, module.vocab)
    module.zero_grad()
    weighted_mean(terms, module.modality_weights).backward(retain_graph=True)
    without = module.net.lm_head.weight.grad
    module.zero_grad()  # to None: `without` stays
    ((terms.nll_sums[0] + terms.nll_sums[1]) / (terms.counts[0] + terms.counts[1])).backward()
    torch.testing.assert_close(module.net.lm_head.weight.grad, without)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"text": -1.0}, "text.*-1.0"),
        ({"structure": 0, "text": 0, "image": 0}, "0.0"),
        ({"video": 2.0}, "'video'"),
        ((1.0, 1.0), r"\[1.0, 1.0\]"),
    ],
)
def test_weights_that_give_no_mean(prepared: Path, weights: Any, told: str):
    with pytest.raises(ValueError, match=f"modality_weights.*{told}"):
        training(prepared, modality_weights=weights)


def test_a_list_of_weights_is_understood(prepared: Path):
    """Earlier versions had three: structure, text, image."""
    module = training(prepared, modality_weights=[2.0, 1.0, 0.5])
    assert module.settings.modality_weights == {"structure": 2.0, "image": 0.5}
    assert module.modality_weights.tolist() == [2.0, 1.0, 0.5]
    old = {**module.hparams, "modality_weights": [2.0, 1.0, 0.5], "rows_from_codebook": True}
    module.check_resumed(old, 3)
    with pytest.raises(ValueError, match="modality_weights.image=0.25.*0.5"):
        module.check_resumed({**old, "modality_weights": [2.0, 1.0, 0.25]}, 3)
    with pytest.raises(ValueError, match="rows_from_codebook=False.*True"):
        module.check_resumed({**old, "rows_from_codebook": False}, 3)


@pytest.mark.parametrize(("schedule", "ends"), [("wsd", 0.5), ("cosine", 0.2318), ("exponential", 0.1778)])
def test_the_schedule_is_that_of_the_config(prepared: Path, tmp_path: Path, schedule: str, ends: float):
    """Learning rate at the last of 6 steps after 2 of warm-up, as a part of the peak."""
    losses(prepared, tmp_path, schedule=schedule, final_lr=0.1, decay_fraction=1 / 3)
    figures = read_metrics(tmp_path)["train/lr"]
    assert figures[-1][0] == STEPS - 1
    assert figures[-1][1] / 3e-3 == pytest.approx(ends, abs=1e-3)


@pytest.mark.parametrize(
    "config",
    [{"norm_placement": "reordered"}, {"qk_norm": "rms"}, {"qk_norm": "none"}, {"logit_soft_cap": 30.0}],
)
def test_every_switch_trains(prepared: Path, tmp_path: Path, config: dict):
    made = losses(prepared, tmp_path, config=replace(CONFIG, **config), max_steps=30)
    assert made[-1] < 0.8 * made[0]


def test_checkpointing_changes_no_loss(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plain = losses(prepared, tmp_path / "plain", compile="auto")
    assert "compile: off, this training of about 0 minutes" in capsys.readouterr().out
    assert losses(prepared, tmp_path / "checkpointing", activation_checkpointing=True) == plain


def test_compiling_changes_neither_the_loss_nor_the_names(prepared: Path, monkeypatch):
    """Traced, guarded and differentiated as ever, without the C++ that takes half a minute to make."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    batch, made = batch_of(prepared), []
    for compile in (False, True):
        module = training(prepared, replace(CONFIG, n_layers=1), compile=compile)
        loss = window_loss(module.net, batch, module.vocab).cross_entropy
        loss.backward()
        made.append((loss, {name: p.grad for name, p in module.named_parameters()}))
    torch.testing.assert_close(made[1][0], made[0][0])
    torch.testing.assert_close(made[1][1], made[0][1], atol=1e-6, rtol=1e-4)  # the names too


def test_accumulated_batches_are_one_large_batch(prepared: Path):
    """Up to the weights of the two halves, which have unequal numbers of targets."""
    module = training(prepared, z_loss_weight=0.0)
    batch = batch_of(prepared, 4)
    halves = [{name: value[i : i + 2] for name, value in batch.items()} for i in (0, 2)]
    counts = [int(window_loss(module.net, half, module.vocab).counts.sum()) for half in halves]
    module.zero_grad()
    window_loss(module.net, batch, module.vocab).cross_entropy.backward()
    whole = [p.grad for p in module.net.parameters()]
    module.zero_grad()  # to None: `whole` stays
    for half, count in zip(halves, counts, strict=True):
        (window_loss(module.net, half, module.vocab).cross_entropy * count / sum(counts)).backward()
    for a, b in zip(whole, module.net.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a, atol=1e-6, rtol=1e-4)


# condition dropout


def test_a_dropped_condition_makes_an_image_a_document(prepared: Path):
    """What the image follows becomes its bos, in a document of its own."""
    vocab = training(prepared).vocab
    bos, begin, end, eos, text = (
        vocab.bos,
        vocab.layout("image").begin,
        vocab.layout("image").end,
        vocab.eos,
        vocab["text"].ranges[0].token,
    )
    rows = [bos, text, text, begin, end, text, begin, end, eos, bos, begin, end, eos, bos, text]
    tokens, documents = torch.tensor([rows]), torch.tensor([[4] * 9 + [5] * 4 + [6] * 2])
    everything = torch.ones_like(tokens, dtype=torch.bool)
    changed, split = drop_conditions(tokens, documents, vocab, everything)
    assert changed[0].tolist() == [bos, text, bos, begin, end, bos, begin, end, eos, *rows[9:]]
    assert split.tolist() == [[0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4]]
    targets = targets_of(changed, split, vocab)[0].tolist()
    assert targets[:9] == [text, IGNORE, begin, end, IGNORE, begin, end, eos, IGNORE]
    same, kept = drop_conditions(tokens, documents, vocab, ~everything)
    assert torch.equal(same, tokens)
    expected = targets_of(tokens, documents, vocab)
    assert torch.equal(targets_of(same, kept, vocab), expected)


def test_condition_dropout_in_a_training(prepared: Path, tmp_path: Path):
    plain = losses(prepared, tmp_path / "plain")
    assert losses(prepared, tmp_path / "none", condition_dropout=0.0) == plain
    assert losses(prepared, tmp_path / "some", condition_dropout=0.5)[0] != plain[0]
    with pytest.raises(ValueError, match=r"condition_dropout.*1\.0"):
        training(prepared, condition_dropout=1.0)
