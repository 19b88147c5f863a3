"""The loss of GRPO (Shao et al., DeepSeekMath, arXiv:2402.03300, equations 3 and 4): pure functions."""

from typing import NamedTuple

import torch
from torch import Tensor

SPREAD = 1e-4
"""Added to the standard deviation of a group's rewards."""


class PolicyLoss(NamedTuple):
    """The loss, and what happened (without gradients)."""

    loss: Tensor
    """Scalar, differentiable."""
    kl: Tensor
    """Mean estimate of the KL divergence to the reference, nats per token; NaN without a reference."""
    clipped: Tensor
    """Fraction of the tokens whose ratio was clipped."""


def advantages(rewards: Tensor, samples: int) -> Tensor:
    """How much better each sample is than the others of its prompt, in standard deviations.

    Args:
        rewards: (prompts * samples,), the samples of a prompt one after the other.
        samples: Samples of each prompt.

    Returns:
        (prompts * samples,) float32; 0 in a group of equal rewards.
    """
    groups = rewards.float().view(-1, samples)
    centered = groups - groups.mean(dim=1, keepdim=True)
    return (centered / (groups.std(dim=1, keepdim=True) + SPREAD)).flatten()


def policy_loss(
    log_p: Tensor,
    before: Tensor,
    advantage: Tensor,
    row: Tensor,
    rows: int,
    *,
    clip_low: float,
    clip_high: float,
    reference: Tensor | None = None,
    kl_weight: float = 0.0,
) -> PolicyLoss:
    """The clipped objective, a mean over the tokens of each sample and then over samples.

    Args:
        log_p: (N,) of the drawn tokens, differentiable.
        before: (N,) the same before the first step on these samples.
        advantage: (N,) of the token's sample.
        row: (N,) int64, the sample of each token, 0..rows-1.
        rows: Number of samples, also those without a token.
        clip_low: Ratios are clipped to 1 - clip_low ...
        clip_high: ... and 1 + clip_high.
        reference: (N,) log p under the reference model.
        kl_weight: Weight of the KL divergence to it.
    """
    ratio = (log_p - before).exp()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    gain = torch.minimum(ratio * advantage, bounded * advantage)
    kl = torch.full_like(log_p.detach(), torch.nan)
    if reference is not None:
        more = reference - log_p
        kl = more.exp() - more - 1  # unbiased, and never negative
        if kl_weight:
            gain = gain - kl_weight * kl
    lengths = row.bincount(minlength=rows)  # tokens of each sample
    loss = -(gain / lengths[row]).sum() / rows
    clipped = (ratio * advantage > bounded * advantage).float().mean()
    return PolicyLoss(loss, kl.detach().mean(), clipped)
