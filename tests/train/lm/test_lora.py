"""Fine-tuning of a part: what is trained changes, nothing else does, and what is saved is a plain model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from earlyfusion.cli.main import main
from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.fusion_lm.folder import load_model, save_model
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.documents import DocumentTokenizer
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.lora import LoRALinear, adapt, merged, trained_names
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.loop.fit import fit

CONFIG = FusionLMConfig(
    context_length=64, n_layers=2, width=32, n_heads=2, n_kv_heads=1, ffn_width=48, dropout=0.1
)
STEPS = 8


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base(request, tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """A model folder with random weights."""
    torch.manual_seed(1)
    tokenizer = DocumentTokenizer.load(prepared / "tokenizer")
    config = replace(CONFIG, vocab_size=tokenizer.vocab.size, tie_embeddings=request.param)
    folder = tmp_path_factory.mktemp("base") / "model"
    save_model(folder, FusionLM(config), tokenizer)
    return folder


class Stop(Callback):
    """Ctrl+C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def train(prepared: Path, base: Path, run: Path, *callbacks: Callback, **changes: Any) -> FusionLMTraining:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"lr": 1e-2, "max_steps": STEPS, "warmup_steps": 2, "init_from": str(base)}
    module = FusionLMTraining(LMSettings(tokenizer=str(prepared), **{**settings, **changes}))
    data = TokenData(str(prepared), batch_size=4)
    options: dict[str, Any] = {"log_every": 2, "validate_every": 4, "checkpoint_steps": 3}
    fit(module, data, run, callbacks=callbacks, progress=False, tensorboard=False, **options)
    return module


@pytest.mark.parametrize("part", ["lora", "image_rows"])
def test_the_adapted_model_begins_as_the_model_it_was(base: Path, part: Any):
    lm, tokenizer = load_model(base)
    tokens = torch.randint(tokenizer.vocab.size, (2, 20))
    before = lm(tokens)
    adapt(lm, part, tokenizer.vocab, rank=3)
    assert torch.equal(lm(tokens), before)
    assert sum(isinstance(module, LoRALinear) for module in lm.modules()) == (8 if part == "lora" else 0)
    trained = sum(p.numel() for p in lm.parameters() if p.requires_grad)
    assert 0 < trained < sum(p.numel() for p in lm.parameters())


@pytest.mark.parametrize("part", ["lora", "image_rows"])
def test_only_what_is_named_changes_and_the_folder_is_a_plain_model(
    prepared: Path, base: Path, tmp_path: Path, part: Any
):
    module = train(prepared, base, tmp_path / "run", trained_part=part, lora_rank=4, lora_alpha=8)
    before, after = load_model(base).lm, load_model(tmp_path / "run" / "model").lm
    vocab = module.vocab
    tokens = torch.arange(vocab.size)
    frozen = vocab.is_text(tokens) | (tokens == vocab.pad)
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    for name in old:
        if name in ("embedding.weight", "lm_head.weight"):
            assert torch.equal(old[name][frozen], new[name][frozen])
            assert bool((old[name] != new[name])[~frozen].any(dim=1).all())
        elif part == "lora" and name.endswith(("qkv.weight", "out.weight", "gate_up.weight", "down.weight")):
            change = new[name] - old[name]
            assert int(torch.linalg.matrix_rank(change, rtol=1e-3)) == 4
        else:
            assert torch.equal(old[name], new[name]), name
    module.eval()
    probe = torch.randint(vocab.size, (2, 30))
    torch.testing.assert_close(after(probe), module.net(probe), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_sum_of_the_matrices():
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 5, bias=False).double()
    lora = LoRALinear(linear, rank=2, alpha=6)
    torch.nn.init.normal_(lora.lora_b)
    x = torch.randn(7, 6, dtype=torch.float64)
    a, b = (p.detach().clone().requires_grad_() for p in (lora.lora_a, lora.lora_b))
    wanted = x @ (linear.weight.detach() + 3 * b @ a).T
    wanted.square().sum().backward()
    lora(x).square().sum().backward()
    torch.testing.assert_close(lora(x), wanted)
    torch.testing.assert_close(lora.lora_a.grad, a.grad)
    torch.testing.assert_close(lora.lora_b.grad, b.grad)
    torch.testing.assert_close(x @ lora.merged().T, wanted)


def test_a_stopped_run_goes_on_and_its_checkpoint_holds_what_is_trained(
    prepared: Path, base: Path, tmp_path: Path
):
    settings = {"trained_part": "lora", "lora_rank": 4}
    whole = train(prepared, base, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(prepared, base, tmp_path / "run", Stop(5), **settings)
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == trained_names(whole)
    train(prepared, base, tmp_path / "run", **settings)
    expected = merged(whole.net).state_dict()
    for name, tensor in load_model(tmp_path / "run" / "model").lm.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert read_metrics(tmp_path / "run")["train/loss"] == read_metrics(tmp_path / "whole")["train/loss"]
    with pytest.raises(ValueError, match="lora_rank=4.*2"):
        train(prepared, base, tmp_path / "run", **{**settings, "lora_rank": 2})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(base)
    with pytest.raises(ValueError, match="init_from="):
        train(prepared, elsewhere, tmp_path / "run", **settings)


def test_the_config_comes_with_the_weights(prepared: Path, base: Path):
    module = FusionLMTraining(LMSettings(tokenizer=str(prepared), init_from=str(base)))
    assert module.config == load_model(base).lm.config
    with pytest.raises(ValueError, match="config.n_layers=2.*3"):
        FusionLMTraining(
            LMSettings(
                tokenizer=str(prepared), config=replace(module.config, n_layers=3), init_from=str(base)
            )
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trained_part": "rows"}, "trained_part.*'rows'.*all, lora, image_rows"),
        ({"trained_part": "lora", "lora_rank": 0}, "lora_rank.*0"),
        ({"trained_part": "lora", "muon_lr": 0.02}, "trained_part=lora.*muon_lr"),
        ({"trained_part": "lora", "init_from": None}, "trained_part=lora.*init_from"),
    ],
)
def test_settings_that_make_no_sense(prepared: Path, base: Path, settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        FusionLMTraining(LMSettings(tokenizer=str(prepared), **{"init_from": str(base), **settings}))


def test_the_command(prepared: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    options = [
        f"--data.path={prepared}",
        "--data.batch_size=4",
        f"--model.init_from={base}",
        "--model.trained_part=lora",
        "--model.lora_rank=2",
        "--model.warmup_steps=1",
        "--trainer.max_steps=3",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        f"--trainer.default_root_dir={run}",
        "--telemetry.every=0",
    ]
    assert main(["lm", "fit", *options]) == 0
    told = capsys.readouterr().out.splitlines()
    assert any(str(run / "model") in line for line in told)
    assert told[-1] == f"next: earlyfusion sample --model {run / 'model'}"
    assert load_model(run / "model").lm.config == load_model(base).lm.config
    assert main(["lm", "validate", *options, f"--ckpt_path={run / 'last.ckpt'}"]) == 0
    assert "validation/loss" in capsys.readouterr().out
