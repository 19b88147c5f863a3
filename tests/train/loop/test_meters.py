"""Means of figures between two log entries."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from earlyfusion.train.loop.meters import Means


def test_means_are_weighted_also_over_ranks() -> None:
    means = Means()
    means.add("a", torch.tensor(1.0), 1)
    means.add("a", torch.tensor(4.0), 2)
    means.add("a", torch.tensor(float("nan")), 0)
    means.add("b", torch.tensor(float("nan")), 0)
    strategy: Any = SimpleNamespace(
        reduce=lambda parts, reduce_op: parts + torch.tensor([[5.0, 0], [1.0, 0]])
    )
    means.reduce(strategy)
    assert means.read() == {"a": pytest.approx((1 + 8 + 5) / 4)} and means.read() == {}
