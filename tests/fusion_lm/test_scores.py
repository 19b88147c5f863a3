"""Probabilities and entropies of tokens, against the plain softmax of each prefix."""

import math

import pytest
import torch

from earlyfusion.fusion_lm.cpu.packed_weights import for_generation
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.fusion_lm.scores import token_scores


@pytest.fixture
def lm() -> FusionLM:
    torch.manual_seed(0)
    config = FusionLMConfig(
        vocab_size=50, context_length=16, n_layers=2, width=32, n_heads=4, n_kv_heads=4, ffn_width=48
    )
    return FusionLM(config)


def test_scores_are_those_of_each_prefix(lm: FusionLM):
    lm.train()
    tokens = torch.randint(0, 50, (12,))
    log_p, entropy = token_scores(lm, tokens)
    assert lm.training  # it is left as it was
    assert log_p.shape == entropy.shape == (12,) and math.isnan(log_p[0]) and math.isnan(entropy[0])
    lm.eval()
    for t in range(1, 12):
        with torch.no_grad():
            p = lm(tokens[None, :t])[0, -1].softmax(-1)
        assert float(log_p[t].exp()) == pytest.approx(float(p[tokens[t]]), rel=1e-4)
        assert float(entropy[t]) == pytest.approx(-float((p * p.log()).sum()), rel=1e-4)


def test_one_token_has_no_score_and_packed_weights_agree(lm: FusionLM):
    assert token_scores(lm, torch.tensor([3])).log_p.isnan().all()
    tokens = torch.randint(0, 50, (16,))
    plain = token_scores(lm, tokens)
    packed = token_scores(for_generation(lm, "float32"), tokens)
    torch.testing.assert_close(plain.log_p[1:], packed.log_p[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(0,), (17,), (1, 4)])
def test_what_is_no_document_is_refused(lm: FusionLM, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="1 to 16 tokens"):
        token_scores(lm, torch.zeros(shape, dtype=torch.int64))
