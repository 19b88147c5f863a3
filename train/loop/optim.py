"""AdamW with weight decay on matrices only, and gradient clipping."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def weight_decay_groups(
    network: nn.Module, parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Two groups of ``parameters``: matrices, filters and embeddings, which decay (as in GPT-3, Llama and
    Chameleon), and norms and biases, which do not."""
    # QK-norm has a gain and a bias per head, (H, D): two axes, but not a matrix.
    layers = [module for module in network.modules() if "Norm" in type(module).__name__]
    norms = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for parameter in parameters:
        groups[parameter.ndim < 2 or id(parameter) in norms]["params"].append(parameter)
    return groups


def adamw(
    network: nn.Module, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW for the parameters that are trained, in the groups of ``weight_decay_groups``."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = weight_decay_groups(network, trained, weight_decay)
    device = next(network.parameters()).device.type
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=device in ("cpu", "cuda"))


def scheduled(optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> dict[str, Any]:
    """``optimizer`` with its learning rates times ``factor(step)``, for ``configure_optimizers``."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Clip gradients to the norm ``limit`` (None or 0: do not clip); returns the norm before clipping."""
    parameters = list(parameters)
    if limit:
        return nn.utils.clip_grad_norm_(parameters, limit)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip_or_skip(parameters: Iterable[nn.Parameter], limit: float | None) -> tuple[Tensor, bool]:
    """Clip gradients to the norm ``limit``, or drop them all if the norm is not finite.

    Without gradients AdamW and Muon change neither weights, momenta nor step counts. Gradients accumulated
    over micro-batches are dropped as a whole. Does not work for float16 with a gradient scaler and a fused
    optimizer: its gradients are still scaled here, and overflow while the scaler searches for its scale.

    Args:
        parameters: The parameters whose gradients are clipped.
        limit: Largest norm; None or 0 turns clipping off.

    Returns:
        The norm before clipping, and whether the step is skipped, for which the host waits for the device.
    """
    parameters = list(parameters)
    norm = clip(parameters, limit)
    skipped = not bool(norm.isfinite())
    if skipped:
        for parameter in parameters:
            parameter.grad = None
    return norm, skipped
