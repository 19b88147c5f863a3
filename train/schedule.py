"""What both trainings share: the learning rate over the steps, the optimiser's groups, and the refusal to go
on from a checkpoint with other settings."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

NEW_RUN = "start a new run (init_from takes over the weights), or give the old value to go on"


def warmup_stable_decay(step: int, max_steps: int, warmup_steps: int, decay_fraction: float) -> float:
    """Factor of the learning rate at ``step`` (0 is the first): linear warm-up, then 1, then linear to 0 over
    the last ``decay_fraction`` of the steps (Zhai et al., arXiv:2106.04560; Hu et al., arXiv:2404.06395)."""
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    return warm * min(1.0, (max_steps - step) / max(1.0, max_steps * decay_fraction))


def check_schedule(lr: float, warmup_steps: int, max_steps: int, decay_fraction: float) -> None:
    """Raises ValueError, naming the field, for settings that no schedule has."""
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
    if max_steps < -1 or max_steps == 0:
        raise ValueError(f"max_steps must be positive, got {max_steps}")
    if not 0 <= decay_fraction <= 1:
        raise ValueError(f"decay_fraction must lie between 0 and 1, got {decay_fraction}")


def check_resumed(
    old: Mapping[str, Any], new: Mapping[str, Any], step: int, free: Iterable[str] = ()
) -> None:
    """Refuse to go on from a checkpoint whose settings ``old`` are not ``new``.

    Lightning would silently keep the checkpoint's learning rate. ``max_steps`` may change as long as ``step``
    lies before the decay of both schedules: up to there they are the same.

    :raises ValueError: a setting differs; the message names it, both values and what to do.
    """
    for name in sorted(set(new) & set(old) - {"init_from", *free}):
        before, now = _plain(old[name]), _plain(new[name])
        if before == now:
            continue
        if name == "max_steps":
            fraction = float(new.get("decay_fraction", 0))
            if step <= min(before, now) * (1 - fraction):
                continue
            raise ValueError(
                f"the checkpoint is at step {step}, where the learning rate of its {before} steps already "
                f"falls, or that of the {now} steps asked for would: {NEW_RUN}"
            )
        if isinstance(before, dict) and isinstance(now, dict):
            field = next(key for key in [*now, *before] if before.get(key) != now.get(key))
            name, before, now = f"{name}.{field}", before.get(field), now.get(field)
        raise ValueError(f"the checkpoint was trained with {name}={before}, now it is {now}: {NEW_RUN}")


def check_config(folder: str, found: Any, wanted: Any) -> None:
    """Refuse weights (``init_from``) of a network with another config than ``wanted``.

    :raises ValueError: names the first field that differs.
    """
    for name, value in asdict(wanted).items():
        if getattr(found, name) != value:
            raise ValueError(
                f"init_from={folder} has config.{name}={getattr(found, name)}, not {value}: give its config"
            )


def _plain(value: Any) -> Any:
    """Tuples as lists, also in dictionaries: what a checkpoint makes of them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if not key.startswith("_")}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def weight_decay_groups(
    network: nn.Module, parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Two groups of ``parameters``: matrices and filters, which decay, and norms and biases, which do not."""
    # QK-norm has a gain and a bias per head, (H, D): two axes, and still no matrix.
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
    """AdamW that decays matrices and filters only: no norms, no biases."""
    # QK-norm has a gain and a bias per head, (H, D): two axes, and still no matrix.
    norms = {
        id(p) for m in network.modules() if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)
    }
    groups = [
        {"params": [], "weight_decay": weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for parameter in network.parameters():
        groups[parameter.ndim < 2 or id(parameter) in norms]["params"].append(parameter)
    device = next(network.parameters()).device.type
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=device in ("cpu", "cuda"))


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Clip gradients to the norm ``limit`` (None or 0: leave them); returns the norm before."""
    parameters = list(parameters)
    if limit:
        return nn.utils.clip_grad_norm_(parameters, limit)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
