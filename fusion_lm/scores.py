"""How sure the model is of each token of a document, and how well two parts of a document go together."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..tokenizers.documents import split
from ..tokenizers.vocab import SharedVocab
from .inputs import Inputs
from .model import FusionLM


class TokenScores(NamedTuple):
    """Of each token (T,) float32, in nats; NaN for the first token, which has no prefix."""

    log_p: Tensor
    """log p of the token after its prefix, among all V tokens: without grammar, sampling and guidance."""
    entropy: Tensor
    """Of the distribution that it comes from: from 0, where the model is certain, to log V."""


@torch.inference_mode()
def token_scores(lm: FusionLM, tokens: Tensor) -> TokenScores:
    """The scores of one document, tokens (T,), in one pass.

    Raises:
        ValueError: The tokens are not one document, or more than the context holds.
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
        log_p = lm(Inputs(tokens[None]))[0, :-1].float().log_softmax(dim=-1)  # (T - 1, V)
    finally:
        lm.train(was_training)
    chosen = log_p.gather(1, tokens[1:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).nan_to_num().sum(dim=-1)
    return TokenScores(*(torch.cat([torch.tensor([torch.nan]), x.cpu()]) for x in (chosen, entropy)))


def both_ways(lm: FusionLM, vocab: SharedVocab, tokens: Tensor, prompt_length: int) -> float:
    """How well a prompt and its continuation go together: mean log p of the continuation's tokens after the
    prompt, plus mean log p of the prompt's tokens after the continuation, nats per token.

    A word that is drawn wrong may be a likely picture, but not one after which that word is likely, for a
    model that saw documents in both orders (MMI-bidi, Li et al., arXiv:1510.03055, with means in place of
    sums, since images have many more tokens than words).

    Args:
        lm: The transformer.
        vocab: Its vocabulary.
        tokens: (T,) of the prompt, which begins with ``bos``, and its continuation.
        prompt_length: Tokens of the prompt.

    Returns:
        -inf if the continuation is empty or ends inside a block.

    Raises:
        ValueError: As ``check_standalone``.
    """
    check_standalone(tokens[:prompt_length], vocab)
    prompt, continuation = tokens[1:prompt_length].cpu(), tokens[prompt_length:].cpu()
    ends = [vocab.eos] if vocab.sep is None else [vocab.eos, vocab.sep]
    while len(continuation) and int(continuation[-1]) in ends:
        continuation = continuation[:-1]
    try:
        parts = split(continuation, vocab)
    except ValueError:
        parts = []
    if not parts:
        return float("-inf")
    total = 0.0
    for first, second in ((prompt, continuation), (continuation, prompt)):
        document = torch.cat([torch.tensor([vocab.bos]), first, second, torch.tensor([vocab.eos])])
        document = document[: lm.config.context_length]  # what fills the context has no end
        total += float(token_scores(lm, document).log_p[1 + len(first) :].mean())
    return total


def check_standalone(prompt: Tensor, vocab: SharedVocab) -> None:
    """Refuse a prompt (T,) that cannot come after its continuation.

    Raises:
        ValueError: It is nothing but ``bos``, or ends inside a block.
    """
    if len(prompt) < 2:
        raise ValueError('best_by="both" needs a non-empty prompt')
    try:
        split(prompt, vocab)
    except ValueError as error:
        raise ValueError(f'best_by="both" needs a prompt that is complete: {error}') from None
