"""The learning rate over the steps."""

import math

SCHEDULES = ("wsd", "cosine", "exponential")
"""Shapes of the learning rate after the warm-up; see ``lr_factor``."""


def lr_factor(
    schedule: str, step: int, max_steps: int, warmup_steps: int, decay_fraction: float, final_lr: float
) -> float:
    """Factor of the learning rate at ``step`` (0 is the first).

    Args:
        schedule: One of ``SCHEDULES``.
        step: The step.
        max_steps: Total number of steps; every schedule ends there.
        warmup_steps: Steps of the linear warm-up.
        decay_fraction: Fraction of the steps over which wsd falls to 0.
        final_lr: Where cosine and exponential end, as a fraction of the peak.

    Raises:
        ValueError: Unknown schedule.
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
    if decay_fraction == 0:  # also at max_steps, where an extended run resumes
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
    """Check the settings of a schedule.

    Raises:
        ValueError: A setting is out of range; the message has its name and value.
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
    if max_steps < -1 or max_steps == 0:
        raise ValueError(f"max_steps must be positive, got {max_steps}")
    if not 0 <= decay_fraction <= 1:
        raise ValueError(f"decay_fraction must be between 0 and 1, got {decay_fraction}")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}, expected one of {', '.join(SCHEDULES)}")
    if not 0 <= final_lr <= 1:
        raise ValueError(f"final_lr must be between 0 and 1 (a fraction of lr), got {final_lr}")
    if schedule == "exponential" and final_lr == 0:
        raise ValueError("final_lr must be above 0 with schedule=exponential, got 0: try 0.01")
