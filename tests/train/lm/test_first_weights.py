"""Weights that are made a part at a time: as those that are made at once, and read to the bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from earlyfusion.fusion_lm.folder import save_model
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.documents import DocumentTokenizer
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.lm.first_weights import drawn, fill, shell, stored
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings

CPU = torch.device("cpu")


@pytest.fixture
def config(document_tokenizer: DocumentTokenizer) -> FusionLMConfig:
    return FusionLMConfig(
        vocab_size=document_tokenizer.vocab.size,
        context_length=32,
        n_layers=3,
        width=64,
        n_heads=4,
        n_kv_heads=2,
        ffn_width=128,
    )


def test_drawn_weights_are_spread_as_those_that_are_made_at_once(
    config: FusionLMConfig, document_tokenizer: DocumentTokenizer
):
    whole, parts = FusionLM(config), shell(config)
    assert all(p.is_meta for p in parts.parameters())
    fill(parts, CPU, drawn(config, None))
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        if one.unique().numel() <= 2:  # gains and biases of norms
            assert torch.equal(one, other), name
        else:
            assert float(other.detach().std()) == pytest.approx(float(one.detach().std()), rel=0.1), name
            assert not torch.equal(one, other), name
    fill(parts, CPU, drawn(config, document_tokenizer))
    tokens = document_tokenizer.vocab.ids_to_tokens("image", torch.arange(32))
    assert float(parts.lm_head.weight[tokens].detach().std()) == pytest.approx(0.02, rel=0.2)
    tokens = torch.randint(0, config.vocab_size, (2, 9))
    assert parts(tokens).isfinite().all()


def test_stored_weights_are_those_of_the_folder(
    config: FusionLMConfig, document_tokenizer: DocumentTokenizer, tmp_path: Path
):
    net = FusionLM(config)
    save_model(tmp_path / "model", net, document_tokenizer)
    document_tokenizer.save(tmp_path / "tokenizer")
    parts = shell(config)
    fill(parts, CPU, stored(tmp_path / "model", config, tmp_path / "tokenizer"))
    for one, other in zip(net.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="config.width=64.*32"):
        next(stored(tmp_path / "model", replace(config, width=32), tmp_path / "tokenizer"))


def test_what_cannot_be_made_in_parts_is_told(
    config: FusionLMConfig, document_tokenizer: DocumentTokenizer, tmp_path: Path
):
    with pytest.raises(ValueError, match="build_in_shards.*tie"):
        shell(replace(config, tie_embeddings=True))
    save_model(tmp_path / "model", FusionLM(config), document_tokenizer)
    text = TextTokenizer.train(["Other words than those."] * 30, vocab_size=300, threads=1)
    vocab = SharedVocab.build(text=text, codebook_size=32, max_grid=16)
    DocumentTokenizer(vocab, text=text, image=document_tokenizer.image).save(tmp_path / "other")
    with pytest.raises(ValueError, match="init_from=.*tokenizer"):
        next(stored(tmp_path / "model", config, tmp_path / "other"))
    with pytest.raises(ValueError, match="build_in_shards.*lora"):
        FusionLMTraining(
            LMSettings(
                tokenizer=str(tmp_path / "model" / "tokenizer"),
                init_from=str(tmp_path / "model"),
                trained_part="lora",
                build_in_shards=True,
                max_steps=1,
            )
        )
