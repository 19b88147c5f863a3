"""The Trainer of the command line and of ``fit`` from Python: defaults, logs, precision, callbacks."""

import logging
import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from ...tokenizers.vqvae.cpu import has_bfloat16
from ..callbacks.busy import Busy
from ..callbacks.checkpoints import ModelFolder
from ..callbacks.progress_bar import StepBar
from ..callbacks.random_states import RandomStates
from ..callbacks.stopping import Stopping
from .cpu_speed import CpuPrecision, rates
from .logs import CsvLog, Curves
from .resume import stored_precision
from .start import SameStart

DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,  # trainer.max_steps sets the length of a training
    "val_check_interval": 1000,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 20,
    "enable_model_summary": False,
}
"""Arguments of Lightning's Trainer that differ from Lightning's own defaults."""
_REMARKS = (
    "does not have many workers",
    "Checkpoint directory .* exists and is not empty",
    "callbacks used to create the checkpoint need to be provided",
    "Couldn't infer the batch indices",
    "is smaller than the logging interval",
    "deprecated in v4",  # Lightning's use of jsonargparse
    "JsonargparseDeprecationWarning",
)


def loggers(run_folder: str | Path, tensorboard: bool = True) -> list[Logger]:
    """RUN/metrics.csv, and RUN/tensorboard."""
    logs: list[Logger] = [CsvLog(run_folder)]
    if tensorboard:
        logs.append(TensorBoardLogger(run_folder, name="tensorboard", version="", default_hp_metric=False))
    return logs


def for_fit(options: Mapping[str, Any], title: str, checkpoint: str | Path | None = None) -> dict[str, Any]:
    """Arguments of a Trainer for training: the given ones, with logs, precision and callbacks added.

    Args:
        options: Arguments of Lightning's Trainer, ``default_root_dir`` among them.
        title: Label of the progress bar.
        checkpoint: What the run resumes from, whose precision it keeps.
    """
    precision, reason = _precision(options, checkpoint)
    made = {**options, "precision": precision}
    if options.get("logger") in (None, True):
        made["logger"] = loggers(options["default_root_dir"])
    interval, max_steps = options.get("val_check_interval"), options.get("max_steps", -1)
    if isinstance(interval, int) and max_steps > 0:
        made["val_check_interval"] = min(interval, max_steps)  # at least once, at the end
    told = [LambdaCallback(on_fit_start=lambda *_: rank_zero_only(print)(reason))] if reason else []
    bar = [] if options.get("enable_progress_bar") is False else [StepBar(title), Busy(), *told]
    standard = [SameStart(), ModelFolder(), RandomStates(), Curves(), *bar, Stopping()]
    return {**made, "callbacks": [*(options.get("callbacks") or []), *standard]}


def for_evaluation(options: Mapping[str, Any], checkpoint: str | Path | None = None) -> dict[str, Any]:
    """Arguments of a Trainer for validation or prediction, in the precision of the run that wrote
    ``checkpoint``, without logs unless a logger is given."""
    logger = False if options.get("logger") in (None, True) else options["logger"]
    return {**options, "precision": _precision(options, checkpoint)[0], "logger": logger}


def _precision(options: Mapping[str, Any], checkpoint: str | Path | None) -> tuple[Any, str]:
    """The precision and, if it was chosen here, why.

    It is the given one; else on a CPU that of the checkpoint, or the faster one; on a GPU None, Lightning's
    float32.
    """
    given = options.get("precision")
    if given is not None or not on_cpu(options.get("accelerator")):
        return given, ""
    by_flags: CpuPrecision = "bf16-mixed" if has_bfloat16() else "32-true"  # as earlier versions chose
    if checkpoint is not None:
        stored = stored_precision(checkpoint) or by_flags
        return stored, f"precision: {stored}, as before"
    if _has_several_processes(options):  # which might measure differently
        return by_flags, ""
    found = rates()
    return found.precision, found.line


def _has_several_processes(options: Mapping[str, Any]) -> bool:
    alone = str(options.get("devices") or "auto") in ("auto", "1") and options.get("num_nodes") in (None, 1)
    return not alone or int(os.environ.get("WORLD_SIZE") or 1) > 1


def on_cpu(accelerator: Any) -> bool:
    """Whether a Trainer with this accelerator runs on the CPU."""
    if accelerator in ("auto", None):
        return not torch.cuda.is_available() and not torch.backends.mps.is_available()
    return accelerator == "cpu"


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Lightning's SystemExit after Ctrl+C into KeyboardInterrupt, and restore the signal handler."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's remarks on hardware and on the number of loader processes."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for remark in _REMARKS:
                warnings.filterwarnings("ignore", message=f"(?s).*{remark}")
            warnings.filterwarnings("ignore", category=FutureWarning, module="(lightning|torch).*")
            yield
    finally:
        for log, level in zip(logs, levels):
            log.setLevel(level)
