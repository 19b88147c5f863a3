"""Muon for the matrices of the blocks, AdamW for everything else, as one optimizer.

Muon (Jordan, https://kellerjordan.github.io/posts/muon) takes the momentum of a matrix's gradient and makes
its singular values similar by a Newton-Schulz iteration. ``torch.optim.Muon`` does not fit for two reasons:
it always computes in bfloat16, a hundred times slower than float32 on CPUs without bfloat16 instructions, and
it accepts matrices only, while Lightning's automatic optimization needs one optimizer for all parameters.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..loop.optim import weight_decay_groups

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration, from Jordan's page: steep at 0; singular values end in about 0.7..1.2."""


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix (m, n) with the singular vectors of ``matrix`` and singular values near 1."""
    a, b, c = _QUINTIC
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for the parameters of groups with ``muon=True``, AdamW for the others."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        """
        Args:
            groups: With ``muon=True`` they have lr, momentum and weight_decay, else lr, betas, eps and
                weight_decay.
        """
        super().__init__(groups, defaults={})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (self._muon if group["muon"] else self._adamw)(parameter, parameter.grad, group)
        return loss

    def _muon(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = orthogonalize(gradient.lerp(momentum, group["momentum"]))  # Nesterov's momentum
        scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)

    def _adamw(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        first, second = group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        denominator = (square / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, denominator, value=-group["lr"] / (1 - first ** state["step"]))


def muon(
    network: nn.Module,
    lr: float,
    muon_lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    momentum: float = 0.95,
) -> Muon:
    """``Muon`` for a ``FusionLM``: Muon for the matrices of its blocks, AdamW for all else."""
    matrices = [m.weight for m in network.get_submodule("blocks").modules() if isinstance(m, nn.Linear)]
    known = {id(matrix) for matrix in matrices}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in known]
    by_muon = {"params": matrices, "muon": True, "lr": muon_lr, "momentum": momentum}
    by_adamw = {"muon": False, "lr": lr, "betas": betas, "eps": eps}
    return Muon(
        [
            {**by_muon, "weight_decay": weight_decay},
            *({**by_adamw, **group} for group in weight_decay_groups(network, rest, weight_decay)),
        ]
    )
