"""GRPO's advantages and loss against the formulas of the paper."""

import math
from typing import Any

import torch

from earlyfusion.train.rl.loss import SPREAD, advantages, policy_loss


def test_advantages_are_standard_scores_within_each_group():
    rewards = [1.0, 0.0, 0.0, 1.5, 2.0, 2.0, 2.0, 2.0]
    found = advantages(torch.tensor(rewards), 4).tolist()
    first = rewards[:4]
    mean = sum(first) / 4
    spread = math.sqrt(sum((r - mean) ** 2 for r in first) / 3)
    assert all(abs(a - (r - mean) / (spread + SPREAD)) < 1e-6 for a, r in zip(found, first))
    assert found[4:] == [0.0] * 4  # nothing to learn where all are equally good


def example() -> dict[str, Any]:
    """Three samples of 4, 1 and 2 tokens."""
    generator = torch.Generator().manual_seed(0)
    row = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    log_p = -3 * torch.rand(7, generator=generator, dtype=torch.float64)
    before = log_p + 0.4 * torch.randn(7, generator=generator, dtype=torch.float64)
    reference = log_p + 0.3 * torch.randn(7, generator=generator, dtype=torch.float64)
    advantage = torch.tensor([1.2, -0.7, -0.5], dtype=torch.float64)[row]
    return {"log_p": log_p, "before": before, "advantage": advantage, "row": row, "reference": reference}


def test_the_loss_is_equation_3_with_the_divergence_of_equation_4():
    values = example()
    log_p = values.pop("log_p").requires_grad_()
    low, high, beta = 0.2, 0.3, 0.1
    found = policy_loss(log_p, **values, rows=3, clip_low=low, clip_high=high, kl_weight=beta)
    total, slopes, clipped, divergence = 0.0, [0.0] * 7, 0, 0.0
    lengths = [4, 1, 2]
    for i in range(7):
        p, old, a = (float(x[i]) for x in (log_p.detach(), values["before"], values["advantage"]))
        ratio, more = math.exp(p - old), float(values["reference"][i]) - p
        bounded = min(max(ratio, 1 - low), 1 + high)
        kl = math.exp(more) - more - 1
        share = 1 / lengths[int(values["row"][i])] / 3
        total -= share * (min(ratio * a, bounded * a) - beta * kl)
        held = bounded * a < ratio * a
        slopes[i] = -share * ((0 if held else ratio * a) - beta * (1 - math.exp(more)))
        clipped, divergence = clipped + held, divergence + kl / 7
    assert 0 < clipped < 7
    assert abs(float(found.loss.detach()) - total) < 1e-12 and abs(float(found.clipped) - clipped / 7) < 1e-6
    assert abs(float(found.kl) - divergence) < 1e-12
    [gradient] = torch.autograd.grad(found.loss, log_p)
    torch.testing.assert_close(gradient, torch.tensor(slopes, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_sample_without_a_token_counts_among_the_samples():
    values = example()
    log_p = values.pop("log_p")
    three = policy_loss(log_p, **values, rows=3, clip_low=0.2, clip_high=0.2).loss
    four = policy_loss(log_p, **values, rows=4, clip_low=0.2, clip_high=0.2).loss
    torch.testing.assert_close(four, three * 3 / 4)


def test_without_a_reference_there_is_no_divergence():
    values = example()
    del values["reference"]
    found = policy_loss(values.pop("log_p"), **values, rows=3, clip_low=0.2, clip_high=0.2)
    assert bool(found.kl.isnan()) and bool(found.loss.isfinite())


def test_the_estimate_of_the_divergence_is_unbiased():
    """Its mean over all tokens, weighted by their probabilities, is KL(policy, reference)."""
    generator = torch.Generator().manual_seed(1)
    policy, reference = (torch.randn(50, generator=generator).double().log_softmax(0) for _ in range(2))
    more = torch.exp(reference - policy) - (reference - policy) - 1
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * more).sum(), exact)
    row = torch.zeros(50, dtype=torch.int64)
    settings = {"rows": 1, "clip_low": 0.2, "clip_high": 0.2, "kl_weight": 1.0}
    for number in (3, 17):
        one = slice(number, number + 1)
        values = policy[one], policy[one], torch.zeros(1), row[one]
        found = policy_loss(*values, reference=reference[one], **settings)
        torch.testing.assert_close(found.loss, more[number])
