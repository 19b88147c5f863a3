"""Checks what a run starts from: a checkpoint of the same settings, or weights of the same network."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from ...storage.pickles import check_stored, reason
from .cpu_speed import CpuPrecision
from .shards import check_shards

MODEL = "model"
"""Folder of the model in a run's folder."""
LAST = "last"
CHECKPOINT = f"{LAST}.ckpt"
"""File in a run's folder to resume from."""
FORMAT = 2
"""Format of the checkpoints. Format 1 has no number in the file, and other names for some settings."""
NEW_RUN = "start a new run (init_from reuses the weights), or set the old value to resume"


def recover(run_folder: str | Path) -> Path | None:
    """RUN/last.ckpt, or None if absent; restored if a run was killed while replacing it."""
    path = Path(run_folder) / CHECKPOINT
    old = path.with_name(f".{path.name}.old")
    if not path.exists() and old.exists():
        with suppress(FileNotFoundError):  # another rank was faster
            os.replace(old, path)
    return path if path.exists() else None


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], int]:
    """The hyper-parameters in a checkpoint of this project, and its step.

    Raises:
        ValueError: The file is not such a checkpoint, or one of a later version.
    """
    checkpoint = _read(path)
    return checkpoint["hyper_parameters"], checkpoint["global_step"]


def stored_precision(path: str | Path) -> CpuPrecision | None:
    """The precision of the run that wrote a checkpoint; None in those of earlier versions, and of runs on a
    GPU in another.

    Raises:
        ValueError: As in ``read_checkpoint``.
    """
    found = _read(path).get("precision")
    return next((known for known in get_args(CpuPrecision) if known == found), None)


def _read(path: str | Path) -> dict[str, Any]:
    shards = Path(path).is_dir()
    file = Path(path) / "meta.pt" if shards else path  # beside the shards
    if shards:
        check_shards(Path(path))
    try:
        check_stored(file)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        _ = checkpoint["hyper_parameters"], checkpoint["global_step"]  # both must be there
    except Exception as error:  # torch raises errors of many kinds
        raise ValueError(f"{path} is not a checkpoint of a training run: {reason(error)}") from None
    if (found := checkpoint.get("format", 1)) not in (1, FORMAT):
        raise ValueError(f"{path} has format {found}, expected 1 or {FORMAT}: update earlyfusion")
    return checkpoint


def check_resumed(
    old: Mapping[str, Any], new: Mapping[str, Any], step: int, free: Iterable[str] = ()
) -> None:
    """Refuse to resume from a checkpoint whose settings ``old`` differ from ``new``.

    Lightning would silently keep the checkpoint's learning rate. With wsd, ``max_steps`` may change as long
    as ``step`` is before the decay of both: until then the learning rates are the same. With other schedules
    every learning rate after the warm-up depends on it.

    Args:
        old: The checkpoint's settings, under today's names (``TrainingSettings.upgraded``).
        new: The settings of the run that resumes.
        step: The checkpoint's step.
        free: Settings that may differ.

    Raises:
        ValueError: A setting differs; the message has its name, both values and what to do.
    """
    if "schedule" in new:  # checkpoints from before `schedule` existed
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
                f"the checkpoint is at step {step}, where the learning rate of a run of max_steps={before} "
                f"or of max_steps={now} already decays: {NEW_RUN}"
            )
        if isinstance(before, dict) and isinstance(now, dict):
            field = next(key for key in [*now, *before] if before.get(key) != now.get(key))
            name, before, now = f"{name}.{field}", before.get(field), now.get(field)
        raise ValueError(f"the checkpoint was trained with {name}={before}, now it is {now}: {NEW_RUN}")


def check_config(folder: str, found: Any, wanted: Any, free: Iterable[str] = ()) -> None:
    """Refuse weights (``init_from``) of a network with another config than ``wanted``.

    Args:
        folder: The folder of the weights, for the message.
        found: Its config.
        wanted: The config of the network that takes the weights.
        free: Fields that may differ.

    Raises:
        ValueError: A field differs; the message names the first one.
    """
    for name, value in asdict(wanted).items():
        if name not in free and getattr(found, name) != value:
            raise ValueError(
                f"init_from={folder} has config.{name}={getattr(found, name)}, but this run sets {value}: "
                "use the config of init_from"
            )


def _plain(value: Any) -> Any:
    """Tuples as lists, also in dictionaries, as checkpoints store them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if not key.startswith("_")}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
