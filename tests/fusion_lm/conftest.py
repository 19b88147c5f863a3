from collections.abc import Callable

import pytest
import torch

from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig


@pytest.fixture
def build() -> Callable[..., FusionLM]:
    """A function that builds a tiny transformer with 50 tokens and random weights, gains and biases."""

    def build(seed: int = 0, **fields) -> FusionLM:
        shape = {
            "context_length": 64,
            "n_layers": 2,
            "width": 32,
            "n_heads": 4,
            "n_kv_heads": 4,
            "ffn_width": 48,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = FusionLM(FusionLMConfig(**{"vocab_size": 50, **shape, **fields})).eval()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "norm" in name:  # gains of 1 and biases of 0 would hide a mistake
                        parameter.add_(0.3 * torch.randn_like(parameter))
                    else:
                        parameter.mul_(5)
        return model

    return build
