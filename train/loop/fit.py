"""Training from Python: a Trainer with this project's callbacks and logs, that gives a model folder."""

import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from ..image.data import ImageData
from ..image.module import ImageTokenizerTraining
from ..lm.data import TokenData
from ..lm.module import FusionLMTraining
from .callbacks import MODEL, Checkpoints, Curves, ModelFolder, RandomStates, StepBar, recover
from .divergence import Divergence
from .logs import CsvLog
from .process import best_cpu_precision
from .schedule import check_resumed
from .stopping import Stopping


def loggers(run_folder: str | Path, tensorboard: bool = True) -> list[Logger]:
    """RUN/metrics.csv, and RUN/tensorboard."""
    logs: list[Logger] = [CsvLog(run_folder)]
    if tensorboard:
        logs.append(TensorBoardLogger(run_folder, name="tensorboard", version="", default_hp_metric=False))
    return logs


def fit_image_tokenizer(
    training: ImageTokenizerTraining, data: ImageData, run_folder: str | Path, **options: Any
) -> Path:
    """Train until ``training.max_steps`` and return the image tokenizer's folder, RUN/model.

    A run that was stopped goes on from RUN/last.ckpt; a finished one returns at once. ``options`` as in
    :func:`fit`.
    """
    if data.factor != training.config.factor:
        raise ValueError(
            f"the data's factor is {data.factor}, the image tokenizer's {training.config.factor}"
        )
    return fit(training, data, run_folder, title="image tokenizer", **options)


def fit_lm(training: FusionLMTraining, data: TokenData, run_folder: str | Path, **options: Any) -> Path:
    """Train until ``training.max_steps`` and return the model folder, RUN/model.

    A run that was stopped goes on from RUN/last.ckpt; a finished one returns at once. ``options`` as in
    :func:`fit`.

    :raises Diverged: the loss went up and stayed there, or gradients were not finite ten times in a row.
    """
    callbacks = list(options.pop("callbacks", ()))
    if not any(isinstance(callback, Divergence) for callback in callbacks):
        callbacks.append(Divergence())
    return fit(training, data, run_folder, title="transformer", callbacks=callbacks, **options)


def fit(
    training: ImageTokenizerTraining | FusionLMTraining,
    data: ImageData | TokenData,
    run_folder: str | Path,
    *,
    title: str = "training",
    seed: int = 0,
    clip: float | None = 1.0,
    log_every: int = 20,
    validate_every: int | None = None,
    checkpoint_seconds: float = 30,
    checkpoint_steps: int | None = None,
    accelerator: str = "cpu",
    precision: Any = None,
    tensorboard: bool = True,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train, or go on training, in ``run_folder``.

    :param clip: largest norm of the gradient.
    :param log_every: steps between two rows of RUN/metrics.csv (see ``eval.report.curves.read_metrics``).
    :param validate_every: steps between two validations; None: at the end only.
    :param checkpoint_seconds: between two checkpoints; ``checkpoint_steps`` counts steps instead.
    :param precision: Lightning's; None takes what is fast on this CPU.
    :returns: RUN/model.
    :raises ValueError: the settings are not those that the checkpoint in RUN was trained with.
    :raises KeyboardInterrupt: when the user stops it; the step is finished and kept in the checkpoint.
    """
    run_folder = Path(run_folder)
    model, checkpoint = run_folder / MODEL, recover(run_folder)
    if training.max_steps < 1:
        raise ValueError(f"max_steps must be positive to train, got {training.max_steps}")
    if checkpoint is not None:
        settings, step = read_checkpoint(checkpoint)
        check_resumed(settings, training.hparams, step, training.may_differ)
        if model.is_dir() and step >= training.max_steps:
            return model
    run_folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        L.seed_everything(seed, verbose=False)
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=precision or (best_cpu_precision() if accelerator == "cpu" else "32-true"),
            max_steps=training.max_steps,
            max_epochs=-1,
            default_root_dir=run_folder,
            logger=loggers(run_folder, tensorboard),
            callbacks=[
                *callbacks,
                ModelFolder(),
                RandomStates(),
                Curves(),
                *([StepBar(title)] if progress else []),
                Checkpoints(checkpoint_seconds, checkpoint_steps),
                Stopping(),
            ],
            gradient_clip_val=clip,
            log_every_n_steps=log_every,
            val_check_interval=validate_every or training.max_steps,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            enable_progress_bar=progress,
            enable_model_summary=False,
        )
        with interruptible():
            trainer.fit(training, data, ckpt_path=checkpoint)
    return model


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], int]:
    """The hyper-parameters in a checkpoint of this project, and its step.

    :raises ValueError: it is none.
    """
    file = Path(path) / "meta.pt" if Path(path).is_dir() else path  # beside the shards
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return checkpoint["hyper_parameters"], checkpoint["global_step"]
    except Exception as error:  # torch raises whatever reading a zip, a pickle or a dictionary meets
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is no checkpoint of a training: {reason}") from None


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl+C leaves Lightning as KeyboardInterrupt, not as SystemExit, and works again afterwards."""
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


_REMARKS = (
    "does not have many workers",
    "Checkpoint directory .* exists and is not empty",
    "callbacks used to create the checkpoint need to be provided",
    "Couldn't infer the batch indices",
    "is smaller than the logging interval",
    "deprecated in v4",  # Lightning's use of jsonargparse
    "JsonargparseDeprecationWarning",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's remarks on hardware and on the number of loader processes."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for remark in _REMARKS:
                warnings.filterwarnings("ignore", message=f"(?s).*{remark}")
            warnings.filterwarnings("ignore", category=FutureWarning, module="(lightning|torch).*")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
