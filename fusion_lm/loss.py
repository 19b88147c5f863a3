"""The loss: next-token cross-entropy with z-loss, split by modality. Training and evaluation share it."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Target value of positions where nothing is to be learned (document borders, padding)."""
MODALITIES = ("structure", "text", "image")
"""Names of the values that ``SharedVocab.modality`` returns."""


class LossTerms(NamedTuple):
    """Means over the target tokens that count; weighting them is the trainer's business."""

    cross_entropy: Tensor
    """Nats per token, all modalities (scalar)."""
    z: Tensor
    """Mean of log(Z)^2, Z the softmax's normaliser (scalar); PaLM, arXiv:2204.02311, section 5."""
    by_modality: Tensor
    """Mean cross-entropy per modality (3,), in the order of ``MODALITIES``; NaN where there is no token."""
    counts: Tensor
    """Target tokens per modality (3,) int64."""


class _NllAndLogZ(torch.autograd.Function):
    """Negative log-likelihood and log Z per row, with a gradient of three passes over the logits.

    d nll / d logits = softmax - one_hot(target); d log_z / d logits = softmax.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Logits (N, V) float32 and targets (N,) -> nll (N,), log_z (N,)."""
        log_z = logits.logsumexp(dim=-1)
        ctx.save_for_backward(logits, targets, log_z)
        return log_z - logits.gather(1, targets[:, None])[:, 0], log_z

    @staticmethod
    def backward(ctx: Any, nll_grad: Tensor, log_z_grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Gradient of the logits (N, V)."""
        logits, targets, log_z = ctx.saved_tensors
        grad = (logits - log_z[:, None]).exp_().mul_((nll_grad + log_z_grad)[:, None])
        return grad.scatter_add_(1, targets[:, None], -nll_grad[:, None]), None


def next_token_loss(logits: Tensor, targets: Tensor, modality: Tensor | None = None) -> LossTerms:
    """Cross-entropy of ``logits`` (B, T, V) against ``targets`` (B, T), which are already shifted.

    :param targets: int64 in 0..V-1, or ``IGNORE``; every mean runs over the other tokens, not over rows.
    :param modality: (B, T) int64 modality of each target; None counts everything as structure (0).
    """
    logits, targets = logits.flatten(0, 1).float(), targets.flatten()
    counted = targets != IGNORE
    nll, log_z = _NllAndLogZ.apply(logits, targets.clamp(min=0))  # (B * T,)
    nll = torch.where(counted, nll, 0.0)
    total = counted.sum()
    group = torch.zeros_like(targets) if modality is None else modality.flatten()
    one_hot = F.one_hot(group, len(MODALITIES)) * counted[:, None]  # (B * T, 3)
    counts = one_hot.sum(0)
    return LossTerms(
        cross_entropy=nll.sum() / total.clamp(min=1),
        z=torch.where(counted, log_z.square(), 0.0).sum() / total.clamp(min=1),
        by_modality=(nll.detach() @ one_hot.to(nll.dtype)) / counts,
        counts=counts,
    )
