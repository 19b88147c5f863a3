"""Means of a training's figures between two log entries."""

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor


class Means:
    """Weighted means of named tensors since they were last read; stored in checkpoints, so curves resume."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}

    def add(self, name: str, mean: Tensor, weight: Tensor | float = 1.0) -> None:
        """Add a mean over ``weight`` items; a mean over no item (NaN) adds nothing."""
        if isinstance(weight, Tensor):
            weight = weight.to(mean.device, torch.float32)
        else:  # filled there: copying a number to a GPU would wait for it
            weight = torch.full((), weight, dtype=torch.float32, device=mean.device)
        total = torch.where(weight > 0, mean.detach().float() * weight, 0.0)
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.weights[name] = self.weights.get(name, 0.0) + weight

    def read(self) -> dict[str, float]:
        """The means that have any weight, which starts new ones. The host waits for the device once."""
        if not self.sums:
            return {}
        sums, weights = (torch.stack(list(part.values())) for part in (self.sums, self.weights))
        means, counts = torch.stack([sums / weights, weights]).tolist()
        values = {name: mean for name, mean, count in zip(self.sums, means, counts) if count > 0}
        self.sums, self.weights = {}, {}
        return values

    def reduce(self, strategy: Strategy) -> None:
        """Sum over the ranks, which must all have added the same names."""
        names = sorted(self.sums)
        if not names:
            return
        parts = [torch.stack([part[name] for name in names]) for part in (self.sums, self.weights)]
        sums, weights = strategy.reduce(torch.stack(parts), reduce_op="sum")  # type: ignore[misc]
        self.sums, self.weights = dict(zip(names, sums)), dict(zip(names, weights))

    def clear(self) -> None:
        """Set all sums to 0, under the same names."""
        for part in (self.sums, self.weights):
            part.update({name: torch.zeros_like(value) for name, value in part.items()})

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"sums": dict(self.sums), "weights": dict(self.weights)}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]], device: torch.device) -> None:
        """The inverse of ``state_dict``."""
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.weights = {name: value.to(device) for name, value in state["weights"].items()}
