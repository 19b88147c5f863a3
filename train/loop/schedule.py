"""What both trainings share: the learning rate over the steps, the optimizer's groups, and the refusal to go
on from a checkpoint with other settings."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

SCHEDULES = ("wsd", "cosine", "exponential")
"""How the learning rate goes on after the warm-up, see :func:`lr_factor`."""
NEW_RUN = "start a new run (init_from takes over the weights), or give the old value to go on"


def lr_factor(
    schedule: str, step: int, max_steps: int, warmup_steps: int, decay_fraction: float, final_lr: float
) -> float:
    """Factor of the learning rate at ``step`` (0 is the first) under one of ``SCHEDULES``.

    ``decay_fraction`` is that of wsd, which ends at 0; ``final_lr`` is where cosine and exponential end, as a
    fraction of the peak. All reach their end at ``max_steps``, one step after the last.

    :raises ValueError: there is no such schedule.
    """
    if schedule == "wsd":
        return warmup_stable_decay(step, max_steps, warmup_steps, decay_fraction)
    if schedule == "cosine":
        return warmup_cosine(step, max_steps, warmup_steps, final_lr)
    if schedule == "exponential":
        return warmup_exponential(step, max_steps, warmup_steps, final_lr)
    raise ValueError(f"schedule is {schedule!r}, expected one of {', '.join(SCHEDULES)}")


def warmup_stable_decay(step: int, max_steps: int, warmup_steps: int, decay_fraction: float) -> float:
    """Linear warm-up, then 1, then linear to 0 over the last ``decay_fraction`` of the steps (Zhai et al.,
    arXiv:2106.04560; Hu et al., arXiv:2404.06395)."""
    warm = _warm(step, warmup_steps)
    if decay_fraction == 0:  # also at max_steps, where a finished run that is extended goes on
        return warm
    return warm * min(1.0, max(0.0, max_steps - step) / max(1.0, max_steps * decay_fraction))


def warmup_cosine(step: int, max_steps: int, warmup_steps: int, final_lr: float = 0.0) -> float:
    """Linear warm-up, then half a cosine from 1 to ``final_lr`` (Loshchilov and Hutter, arXiv:1608.03983)."""
    share = (1 + math.cos(math.pi * _progress(step, max_steps, warmup_steps))) / 2
    return _warm(step, warmup_steps) * (final_lr + (1 - final_lr) * share)


def warmup_exponential(step: int, max_steps: int, warmup_steps: int, final_lr: float) -> float:
    """Linear warm-up, then an exponential decay from 1 to ``final_lr`` (Chameleon, arXiv:2405.09818, section
    2.3, decays "to 0", which no exponential reaches)."""
    return _warm(step, warmup_steps) * final_lr ** _progress(step, max_steps, warmup_steps)


def _warm(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / max(1, warmup_steps))


def _progress(step: int, max_steps: int, warmup_steps: int) -> float:
    """0 at the end of the warm-up, 1 at ``max_steps``."""
    return min(1.0, max(0.0, (step - warmup_steps) / max(1, max_steps - warmup_steps)))


def check_schedule(
    lr: float,
    warmup_steps: int,
    max_steps: int,
    decay_fraction: float,
    schedule: str = "wsd",
    final_lr: float = 0.1,
) -> None:
    """Raises ValueError, naming the field, for settings that no schedule has."""
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
    if max_steps < -1 or max_steps == 0:
        raise ValueError(f"max_steps must be positive, got {max_steps}")
    if not 0 <= decay_fraction <= 1:
        raise ValueError(f"decay_fraction must lie between 0 and 1, got {decay_fraction}")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}, expected one of {', '.join(SCHEDULES)}")
    if not 0 <= final_lr <= 1:
        raise ValueError(f"final_lr is a fraction of lr, between 0 and 1, got {final_lr}")
    if schedule == "exponential" and final_lr == 0:
        raise ValueError("final_lr must be above 0 for schedule=exponential, which never reaches 0: try 0.01")


def check_resumed(
    old: Mapping[str, Any], new: Mapping[str, Any], step: int, free: Iterable[str] = ()
) -> None:
    """Refuse to go on from a checkpoint whose settings ``old`` are not ``new``.

    Lightning would silently keep the checkpoint's learning rate. Under wsd ``max_steps`` may change as long
    as ``step`` lies before the decay of both: up to there they are the same. Under the others every step
    after the warm-up would have had another learning rate.

    :raises ValueError: a setting differs; the message names it, both values and what to do.
    """
    if "schedule" in new:  # checkpoints from before there was a choice
        old = {"schedule": "wsd", **old}
    if new.get("trained_part", "all") == "all":  # else the checkpoint lacks what is not trained
        free = {"init_from", *free}
    for name in sorted(set(new) & set(old) - set(free)):
        before, now = _plain(old[name]), _plain(new[name])
        if before == now:
            continue
        if name == "max_steps":
            schedule = new.get("schedule", "wsd")
            fraction = float(new.get("decay_fraction", 0))
            if schedule != "wsd":
                raise ValueError(
                    f"the checkpoint was trained with max_steps={before}, now it is {now}, and with "
                    f"schedule={schedule} every learning rate so far depends on it: {NEW_RUN}"
                )
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


def check_config(folder: str, found: Any, wanted: Any, free: Iterable[str] = ()) -> None:
    """Refuse weights (``init_from``) of a network with another config than ``wanted``, but for ``free``.

    :raises ValueError: names the first field that differs.
    """
    for name, value in asdict(wanted).items():
        if name not in free and getattr(found, name) != value:
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
    """Two groups of ``parameters``: matrices, filters and embeddings, which decay (as in GPT-3, Llama and
    Chameleon), and norms and biases, which do not."""
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
    """AdamW with the groups of :func:`weight_decay_groups`."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = weight_decay_groups(network, trained, weight_decay)
    device = next(network.parameters()).device.type
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=device in ("cpu", "cuda"))


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Clip gradients to the norm ``limit`` (None or 0: leave them); returns the norm before."""
    parameters = list(parameters)
    if limit:
        return nn.utils.clip_grad_norm_(parameters, limit)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
