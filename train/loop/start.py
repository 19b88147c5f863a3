"""Whether a fit starts or resumes, and what becomes of an earlier run in its folder."""

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from ...storage.results import move_aside
from .logs import FILE as METRICS
from .resume import CHECKPOINT, LAST, MODEL, recover

PREDICTIONS = "predictions"
LAST_OR_NEW = "last-or-new"
"""``--ckpt_path`` that resumes if there is a checkpoint, and starts a run if there is none."""
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""Where torchrun and SLURM count how often they started a job again."""
OWN_CONFIG = "# lightning"
"""How a config.yaml begins that a run wrote."""


def held_run(folder: Path) -> str | None:
    """What in ``folder`` is of a run, or of a finished model, such as "last.ckpt"; None if nothing is."""
    if not folder.is_dir():
        return None
    if checkpoints := sorted(path.name for path in folder.glob("*.ckpt")):
        return CHECKPOINT if CHECKPOINT in checkpoints else checkpoints[0]
    for name in (f"{MODEL}/", "model.safetensors"):
        if (folder / name).exists():
            return name
    return METRICS if _has_rows(folder / METRICS) else None


def starting_point(folder: Path, asked: str | Path | None, overwrite: bool = False) -> Path | None:
    """The checkpoint that a fit in ``folder`` resumes from; None: it starts. Writes nothing.

    Every rank comes here before any of them writes: rank 0 cannot continue until all have joined it.

    Args:
        folder: The folder of the run.
        asked: ``--ckpt_path``: a path, last, last-or-new, or None.
        overwrite: Whether an earlier run is to be moved aside (``make_room``).

    Raises:
        FileNotFoundError: The folder has no checkpoint.
        ValueError: ``folder`` holds a run that would be lost, or the options contradict each other.
    """
    last = recover(folder)
    if overwrite:
        if asked in (LAST, LAST_OR_NEW):
            raise ValueError(
                f"--overwrite starts a new run and --ckpt_path={asked} resumes one: give one of the two"
            )
        if (count := max(int(os.environ.get(name) or 0) for name in RESTARTS)) > 0:
            raise ValueError(
                f"--overwrite in start {count + 1} of this job would move aside what it trained before: give "
                f"--ckpt_path={LAST_OR_NEW} instead"
            )
    elif asked == LAST:
        if last is None:
            raise FileNotFoundError(
                f"{folder / CHECKPOINT} not found, nothing to resume: correct trainer.default_root_dir, or "
                f"give --ckpt_path={LAST_OR_NEW}, which starts a run without one"
            )
        return last
    elif asked == LAST_OR_NEW and last is not None:
        return last
    path = None if asked in (None, LAST_OR_NEW) else Path(asked)
    if path is not None and not path.exists():
        raise FileNotFoundError(
            f"{path} not found: --ckpt_path is a checkpoint, {LAST} (that of the run's folder), or "
            f"{LAST_OR_NEW}"
        )
    if path is not None and last is not None and path.samefile(last):
        return path
    found = held_run(folder)
    lost = found is not None and not overwrite and not (asked == LAST_OR_NEW and found == METRICS)
    if lost:
        resume = f"resume it (--ckpt_path={LAST})" if last is not None and path is None else ""
        raise ValueError(f"{folder} holds a run ({found}): {_choices(resume, 'trainer.default_root_dir')}")
    return path


def check_new(folder: Path, overwrite: bool) -> None:
    """The same for ``fit`` from Python, where ``folder`` has no checkpoint to resume from.

    Raises:
        ValueError: ``folder`` holds a run that would be lost.
    """
    if not overwrite and (found := held_run(folder)) is not None:
        raise ValueError(f"{folder} holds a run ({found}): {_choices('', 'run_folder', 'overwrite=True')}")


def make_room(folder: Path, overwrite: bool, settings: Mapping[str, Any]) -> None:
    """Move an earlier run aside if ``overwrite`` is set; rank 0 does it, when nothing else can fail.

    Args:
        folder: The folder of the run.
        overwrite: As in ``starting_point``. Otherwise, only a config.yaml is moved that no run wrote.
        settings: All settings of the new run, to see that it reads nothing that would be moved.

    Raises:
        ValueError: The run reads files in ``folder``, or the system refuses.
    """
    if overwrite and held_run(folder) is not None:
        print(f"the earlier run in {folder} is now {move_aside(folder, _paths(settings))}")
    config = folder / "config.yaml"
    if config.is_file() and not config.read_bytes().startswith(OWN_CONFIG.encode()):
        print(f"{config} is now {move_aside(config)}: the run writes its own")


def check_predictions(folder: Path, overwrite: bool) -> None:
    """Refuse to replace RUN/predictions.

    Raises:
        ValueError: They are there, and ``overwrite`` is false.
    """
    if not overwrite and (path := _predictions(folder)):
        raise ValueError(f"{path} holds earlier predictions: {_choices('', 'trainer.default_root_dir')}")


def move_predictions(folder: Path) -> None:
    """Move RUN/predictions aside; rank 0 does it."""
    if path := _predictions(folder):
        print(f"the earlier predictions are now {move_aside(path)}")


def _predictions(folder: Path) -> Path | None:
    path = folder / PREDICTIONS
    return path if path.is_dir() and any(path.iterdir()) else None


class SameStart(Callback):
    """Checks that all ranks start from the same checkpoint, or all from none."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """
        Raises:
            ValueError: They do not.
        """
        if stage != "fit" or trainer.world_size == 1:
            return
        mine = str(trainer.ckpt_path)
        first = trainer.strategy.broadcast(mine)
        if not trainer.strategy.reduce_boolean_decision(first == mine, all=True):
            raise ValueError(
                f"rank {trainer.global_rank} starts from {mine}, rank 0 from {first}: all machines must see "
                f"the same folder {trainer.default_root_dir}"
            )


def _choices(resume: str, folder: str, overwrite: str = "--overwrite") -> str:
    ways = [resume, f"give another folder ({folder})", f"or {overwrite}, which moves it aside"]
    return ", ".join(way for way in ways if way)


def _has_rows(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return len([row for _, row in zip(range(2), csv.reader(file))]) > 1


def _paths(value: Any) -> Iterable[str]:
    """The existing files and folders that settings name."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            if name != "default_root_dir":
                yield from _paths(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one)
    elif isinstance(value, str | Path) and os.path.exists(value):
        yield str(value)
