"""How sure the model is of each token of a document."""

from typing import NamedTuple

import torch
from torch import Tensor

from .model import FusionLM


class TokenScores(NamedTuple):
    """Of each token (T,) float32, in nats; NaN for the first one, which nothing stands before."""

    log_p: Tensor
    """log p of the token after what stands before it, among all V tokens: without grammar, sampling and
    guidance."""
    entropy: Tensor
    """Of the distribution that it comes from: 0 where there is no doubt, log V at most."""


@torch.inference_mode()
def token_scores(lm: FusionLM, tokens: Tensor) -> TokenScores:
    """The scores of one document, tokens (T,), in one pass.

    :raises ValueError: tokens are no single document, or more than the context holds.
    """
    if tokens.ndim != 1 or not 1 <= len(tokens) <= lm.config.context_length:
        raise ValueError(
            f"tokens have the shape {tuple(tokens.shape)}, expected one document of 1 to "
            f"{lm.config.context_length} tokens, the model's context"
        )
    was_training = lm.training
    lm.eval()
    try:
        tokens = tokens.to(lm.embedding.weight.device)
        log_p = lm(tokens[None])[0, :-1].float().log_softmax(dim=-1)  # (T - 1, V)
    finally:
        lm.train(was_training)
    chosen = log_p.gather(1, tokens[1:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).nan_to_num().sum(dim=-1)
    return TokenScores(*(torch.cat([torch.tensor([torch.nan]), x.cpu()]) for x in (chosen, entropy)))
