import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig

TOKENS = torch.arange(18).view(2, 9)


def logits_of(model: FusionLM) -> Tensor:
    with torch.no_grad():
        logits = model(TOKENS)
    assert isinstance(logits, Tensor)
    return logits


@pytest.mark.parametrize("tie", [True, False])
def test_saving_and_loading_keeps_every_bit(build, tie: bool, tmp_path: Path) -> None:
    model = build(tie_embeddings=tie, n_kv_heads=2).train()
    model.save(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["config.json", "model", "model.safetensors"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["kind"] == "fusion_lm" and config["format"] == 1 and config["width"] == 32
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert ("lm_head.weight" in weights) is not tie and "embedding.weight" in weights  # tied: written once
    loaded = FusionLM.load(tmp_path / "model")
    assert loaded.config == model.config and not loaded.training
    assert (loaded.lm_head.weight is loaded.embedding.weight) is tie
    assert sum(t.numel() for t in weights.values()) == sum(p.numel() for p in loaded.parameters())
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_tied_and_untied_weights_are_not_mixed_up(build, tmp_path: Path) -> None:
    build(tie_embeddings=True).save(tmp_path / "tied")
    build().save(tmp_path / "untied")
    tied, untied = tmp_path / "tied" / "model.safetensors", tmp_path / "untied" / "model.safetensors"
    weights = tied.read_bytes()
    tied.write_bytes(untied.read_bytes())
    with pytest.raises(ValueError, match=r"model\.safetensors.*lm_head\.weight"):
        FusionLM.load(tmp_path / "tied")
    untied.write_bytes(weights)
    with pytest.raises(ValueError, match=r"model\.safetensors.*lm_head\.weight"):
        FusionLM.load(tmp_path / "untied")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "image_tokenizer"}, "'image_tokenizer'.*'fusion_lm'"),
        ({"format": 0}, r"format 0.*format 1"),
        ({"depth": 2}, "'depth'.*context_length, dropout"),
        ({"vocab_size": 0}, r"embedding\.weight.*\(50, 32\).*\(0, 32\)"),
        ({"vocab_size": 51}, r"embedding\.weight.*\(50, 32\).*\(51, 32\)"),
        ({"width": "32"}, r"config\.json: "),
        ({"n_layers": 3}, r"'blocks\.2\."),
        ({"n_layers": 1}, r"'blocks\.1\."),
        ({"n_kv_heads": 2}, r"attention\.k_norm\.bias.*\(4, 8\).*\(2, 8\)"),
    ],
)
def test_a_config_that_does_not_fit(build, tmp_path: Path, values: dict, message: str) -> None:
    build().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(ValueError, match=message):
        FusionLM.load(tmp_path)


@pytest.mark.parametrize(("older", "today"), [(True, "layer"), (False, "none")])
def test_a_folder_of_the_first_version_still_loads(build, older: bool, today: str, tmp_path: Path) -> None:
    model = build(qk_norm=today)
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("norm_placement", "logit_soft_cap"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps({**config, "qk_norm": older}))
    again = FusionLM.load(tmp_path)
    assert again.config == model.config
    assert torch.equal(logits_of(again), logits_of(model))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context_length": 0}, "context_length.*0"),
        ({"n_layers": 0}, "n_layers.*0"),
        ({"ffn_width": -8}, "ffn_width.*-8"),
        ({"vocab_size": -1}, "vocab_size.*-1"),
        ({"width": 36}, "width.*n_heads.*4.*36"),
        ({"width": 30}, "width.*n_heads.*4.*30"),
        ({"n_kv_heads": 3}, "n_kv_heads.*n_heads.*4.*3"),
        ({"n_kv_heads": 8}, "n_kv_heads.*n_heads.*4.*8"),
        ({"dropout": 1.0}, r"dropout.*1\.0"),
        ({"qk_norm": "batch"}, "qk_norm.*'batch'.*layer, rms, none"),
        ({"norm_placement": "post"}, "norm_placement.*'post'.*pre, reordered"),
        ({"logit_soft_cap": 0.0}, r"logit_soft_cap.*0\.0"),
    ],
)
def test_bad_settings_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusionLMConfig(**fields)


def test_a_model_needs_a_vocabulary() -> None:
    with pytest.raises(ValueError, match="vocab_size.*0"):
        FusionLM(FusionLMConfig())
