"""Targets of packed windows, and one loss from the losses of the targets."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...fusion_lm.inputs import Inputs
from ...fusion_lm.loss import IGNORE, LossTerms
from ...fusion_lm.model import FusionLM
from ...tokenizers.vocab import SharedVocab


def targets_of(
    tokens: Tensor, documents: Tensor, vocab: SharedVocab, learned: Tensor | None = None
) -> Tensor:
    """The targets of packed windows: their tokens, shifted by one.

    Args:
        tokens: (B, T).
        documents: (B, T), the document of each token.
        vocab: The vocabulary of the tokens.
        learned: (B, T), nonzero for tokens that are learned, as in conversations; None: all.

    Returns:
        The next tokens (B, T) int64; IGNORE if one belongs to another document, is padding or not learned.
    """
    following = torch.cat([tokens[:, 1:], tokens.new_full((len(tokens), 1), vocab.pad)], dim=1)
    same = torch.zeros_like(tokens, dtype=torch.bool)
    same[:, :-1] = documents[:, 1:] == documents[:, :-1]
    counted = same & (following != vocab.pad)
    if learned is not None:
        counted[:, :-1] &= learned[:, 1:] != 0
    return torch.where(counted, following, IGNORE)


def drop_conditions(
    tokens: Tensor, documents: Tensor, vocab: SharedVocab, dropped: Tensor
) -> tuple[Tensor, Tensor]:
    """Cut images off from their prefix, as guidance requires (condition dropout, arXiv:2207.12598).

    The token before such an image becomes the begin-of-document token of a new document, and the rest of the
    prefix stays a document; no target then crosses the border. The same holds for blocks of every modality
    with a begin token.

    Args:
        tokens: Packed windows (B, T).
        documents: Their documents (B, T).
        vocab: The vocabulary of the tokens.
        dropped: (B, T) bool; has an effect only before an image that does not already begin its document.

    Returns:
        Tokens and documents (B, T).
    """
    same = torch.zeros_like(dropped)
    same[:, :-1] = (documents[:, 1:] == documents[:, :-1]) & vocab.is_begin(tokens[:, 1:])
    dropped = dropped & same & (tokens != vocab.bos)
    border = documents.diff(dim=1, prepend=documents[:, :1]) != 0
    return tokens.masked_fill(dropped, vocab.bos), (border | dropped).cumsum(dim=1)


def window_loss(
    net: FusionLM,
    batch: Mapping[str, Tensor],
    vocab: SharedVocab,
    *,
    targets: Tensor | None = None,
    statistics: bool = False,
) -> LossTerms:
    """The losses of packed windows, by modality; training, validation and telemetry share it.

    Args:
        net: The transformer.
        batch: ``tokens`` and ``documents`` (B, T), and ``learned`` if not all tokens are.
        vocab: The vocabulary of the tokens.
        targets: ``targets_of`` the batch, if they exist already.
        statistics: Also compute entropies and in-modality losses.
    """
    if targets is None:
        targets = targets_of(batch["tokens"], batch["documents"], vocab, batch.get("learned"))
    terms = net(
        Inputs(batch["tokens"], batch["documents"]),
        targets=targets,
        modalities=vocab.table(targets.device),
        statistics=statistics,
    )
    assert isinstance(terms, LossTerms)
    return terms


def weighted_mean(terms: LossTerms, weights: Tensor) -> Tensor:
    """Mean cross-entropy (scalar) of the targets, each with the weight of its modality (G,).

    With equal weights it is ``terms.cross_entropy``; a batch without a target of positive weight gives 0.
    """
    total = (weights * terms.counts).sum()
    return (weights * terms.nll_sums).sum() / torch.where(total > 0, total, 1.0)


def share_of_all(terms: LossTerms, weights: Tensor, z_loss_weight: float, strategy: Any) -> Tensor:
    """This rank's share of the loss over all ranks' targets, times the number of ranks.

    The ranks average their gradients, so the result is the gradient of a single process, however many targets
    each rank has.
    """
    own = torch.stack([(weights * terms.counts).sum(), terms.counts.sum().float()])
    every = strategy.reduce(own.clone(), reduce_op="mean")
    nll = (weights * terms.nll_sums).sum() / every[0].clamp(min=1e-9)
    return nll + z_loss_weight * terms.z * own[1] / every[1].clamp(min=1.0)
