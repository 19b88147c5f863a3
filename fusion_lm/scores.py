"""Scores of documents: the likelihood of each token, and how well a prompt and its continuation match."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..tokenizers.documents import split
from ..tokenizers.vocab import SharedVocab
from .inputs import Inputs
from .loss import IGNORE, LossTerms
from .model import FusionLM


class TokenScores(NamedTuple):
    """Scores of each token, (T,) float32 in nats; NaN for the first token, which has no prefix."""

    log_p: Tensor
    """log p of the token given its prefix, among all V tokens: without grammar, sampling and guidance."""
    entropy: Tensor
    """Entropy of the distribution of the token: 0 if the model is certain, at most log V."""


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
    """How well a prompt and its continuation match.

    The score is the mean log p of the continuation's tokens after the prompt, plus the mean log p of the
    prompt's tokens after the continuation (MMI-bidi, Li et al., arXiv:1510.03055, with means instead of sums,
    since images have many more tokens than words). A misspelled word may be a likely picture, but the word
    itself is unlikely after that picture, if the model was trained on documents in both orders.

    Args:
        lm: The transformer.
        vocab: Its vocabulary.
        tokens: (T,) of the prompt, which begins with ``bos``, and its continuation.
        prompt_length: Tokens of the prompt.

    Returns:
        Nats per token; -inf if the continuation is empty or ends inside a block, or if a log p is NaN.

    Raises:
        ValueError: As ``check_standalone``.
    """
    documents = _both_orders(vocab, tokens, prompt_length, lm.config.context_length)
    total = sum(float(token_scores(lm, document).log_p[first:].mean()) for document, first in documents)
    return total if documents and total == total else float("-inf")


@torch.inference_mode()
def both_ways_many(
    lm: FusionLM, vocab: SharedVocab, rows: Sequence[tuple[Tensor, int]], batch_size: int = 64
) -> list[float]:
    """``both_ways`` of many rows, up to rounding, in batches of similar length.

    Args:
        lm: The transformer.
        vocab: Its vocabulary.
        rows: (tokens, prompt_length) of each.
        batch_size: Documents per forward pass; each row makes two.

    Raises:
        ValueError: As ``both_ways``.
    """
    context, device = lm.config.context_length, lm.embedding.weight.device
    found = [
        (row, *one)
        for row, (tokens, length) in enumerate(rows)
        for one in _both_orders(vocab, tokens, length, context)
    ]
    totals = [float("-inf")] * len(rows)
    for row, *_ in found:
        totals[row] = 0.0
    found.sort(key=lambda one: len(one[1]))
    was_training = lm.training
    lm.eval()
    try:
        for start in range(0, len(found), batch_size):
            some = found[start : start + batch_size]
            longest = len(some[-1][1])
            tokens = torch.full((len(some), longest), vocab.pad)
            targets = torch.full((len(some), longest), IGNORE)
            for place, (_, document, first) in enumerate(some):
                tokens[place, : len(document)] = document
                targets[place, first - 1 : len(document) - 1] = document[first:]
            targets = targets.to(device)
            terms = lm(Inputs(tokens.to(device)), targets=targets)
            assert isinstance(terms, LossTerms)
            means = terms.nll.sum(dim=1) / (targets != IGNORE).sum(dim=1)  # (B,); NaN without targets
            for (row, *_), mean in zip(some, means.tolist()):
                totals[row] -= mean
    finally:
        lm.train(was_training)
    return [total if total == total else float("-inf") for total in totals]


def _both_orders(
    vocab: SharedVocab, tokens: Tensor, prompt_length: int, context: int
) -> list[tuple[Tensor, int]]:
    """The documents of a prompt and its continuation in both orders, each with the index of its second part;
    empty if the continuation is empty or ends inside a block."""
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
        return []
    documents = []
    for first, second in ((prompt, continuation), (continuation, prompt)):
        document = torch.cat([torch.tensor([vocab.bos]), first, second, torch.tensor([vocab.eos])])
        # without eos if the rest fills the context
        documents.append((document[:context], 1 + len(first)))
    return documents


def check_standalone(prompt: Tensor, vocab: SharedVocab) -> None:
    """Check that a prompt (T,) can also follow its continuation.

    Raises:
        ValueError: It is only ``bos``, or ends inside a block.
    """
    if len(prompt) < 2:
        raise ValueError('best_by="both" needs a non-empty prompt: add text or images, or use "forward"')
    try:
        split(prompt, vocab)
    except ValueError as error:
        raise ValueError(f'best_by="both" needs a prompt that is complete: {error}') from None
