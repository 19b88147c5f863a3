"""Muon for the matrices of the blocks, AdamW for everything else, as one optimizer.

Muon (Jordan, https://kellerjordan.github.io/posts/muon) takes the momentum of a matrix's gradient and makes
its singular values similar by a Newton-Schulz iteration. ``torch.optim.Muon`` does not fit for two reasons:
it always computes in bfloat16, a hundred times slower than float32 on CPUs without bfloat16 instructions, and
it accepts matrices only, while Lightning's automatic optimization needs one optimizer for all parameters.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_* has no public name.
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ..loop.optim import weight_decay_groups

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration, from Jordan's page: steep at 0; singular values end in about 0.7..1.2."""
LARGEST_STACK = 2**24
"""Most elements of the matrices that are orthogonalized together; a larger one is alone."""
RESTART = 3
"""Iterations on X X^T alone, whose rounding errors grow twelvefold in each. With a restart after three the
result is as exact as without: 2e-6 for singular values from 1 to 1e-5, against 4e-5 with five."""
WIDE = 1.5
"""Columns per row from which iterating on X X^T takes fewer operations."""


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices (..., m, n) with the singular vectors of ``matrices`` and singular values near 1.

    On GPUs it computes in bfloat16, elsewhere in float32.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    shape = x.shape
    x = x.reshape(-1, *shape[-2:])
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    # bfloat16 is too coarse for more than one iteration at a time.
    at_once = RESTART if x.dtype == torch.float32 and x.shape[-1] > WIDE * x.shape[-2] else 1
    for begun in range(0, steps, at_once):
        x = _iterate(x, min(at_once, steps - begun))
    x = x.reshape(shape)
    return (x.mT if tall else x).to(matrices.dtype)


def _iterate(x: Tensor, steps: int) -> Tensor:
    """``steps`` times x <- P(G) x on wide matrices (N, m, n), with G = x x^T and P(G) = a + b G + c G^2.

    All P(G) commute with G, so the next G is P(G)^2 G, and only the first and the last product take (m, n).
    """
    a, b, c = _QUINTIC
    gram = x @ x.mT
    rest = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # P(G) - a
    scale, product = a, rest  # of all P(G) so far: scale + product
    for _ in range(steps - 1):
        gram = torch.baddbmm(gram, rest, gram, beta=a)
        gram = torch.baddbmm(gram, gram, rest, beta=a)
        rest = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        product = torch.baddbmm(a * product + scale * rest, rest, product)
        scale = a * scale
    return torch.baddbmm(x, product, x, beta=scale)


def stacks(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """``parameters`` with the same shape, type and device together, at most ``LARGEST_STACK`` elements."""
    alike: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        alike.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(parameter)
    for found in alike.values():
        count = max(1, LARGEST_STACK // found[0].numel())
        yield from (found[begun : begun + count] for begun in range(0, len(found), count))


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
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["muon"]:
                for stack in stacks(parameters):
                    self._muon(stack, group)
            elif parameters:
                self._adamw(parameters, group)
        return loss

    def _muon(self, stack: list[Tensor], group: dict[str, Any]) -> None:
        """Move matrices of one shape."""
        gradients = [_gradient(parameter) for parameter in stack]
        momenta = []
        for parameter in stack:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momenta.append(state["momentum"])
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, momenta, group["momentum"])
        updates = orthogonalize(torch.stack(nesterov)).unbind()
        scale = max(1.0, stack[0].shape[0] / stack[0].shape[1]) ** 0.5
        torch._foreach_mul_(stack, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(stack, updates, alpha=-group["lr"] * scale)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Move other parameters by torch's AdamW, which counts steps in tensors; checkpoints have numbers."""
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states):
            if not state:
                state["step"] = 0
                state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        adamw(
            parameters,
            [_gradient(parameter) for parameter in parameters],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [torch.full((), float(s["step"]), device=p.device) for p, s in zip(parameters, states)],
            fused=all(parameter.device.type in ("cpu", "cuda") for parameter in parameters),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for state in states:
            state["step"] += 1


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


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
