"""Training from Python: a Trainer with this project's callbacks and logs, which writes a model folder."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from ..callbacks.checkpoints import Checkpoints
from .logged_training import LoggedTraining
from .resume import MODEL, read_checkpoint, recover
from .start import check_new, make_room
from .trainables import Trainable, load, trainable_of
from .trainer import DEFAULTS, for_fit, interruptible, loggers, quiet


def fit(
    training: LoggedTraining,
    data: L.LightningDataModule,
    run_folder: str | Path,
    *,
    seed: int = 0,
    clip: float | None = 1.0,
    log_every: int = 20,
    validate_every: int | None = None,
    checkpoint_seconds: float = 30,
    checkpoint_steps: int | None = None,
    accelerator: str = "auto",
    precision: Any = None,
    tensorboard: bool = True,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    overwrite: bool = False,
) -> Path:
    """Train until ``max_steps`` of the settings, and return the model folder, RUN/model.

    A stopped run resumes from RUN/last.ckpt; a finished one returns at once.

    Args:
        training: What to train, with its settings.
        data: What to train it on.
        run_folder: RUN, the folder to write.
        seed: Random seed.
        clip: Largest norm of the gradient; None or 0 turns clipping off.
        log_every: Steps between two rows of RUN/metrics.csv (see ``eval.report.curves.read_metrics``).
        validate_every: Steps between two validations; None validates only at the end.
        checkpoint_seconds: Seconds between two checkpoints.
        checkpoint_steps: Steps between two checkpoints, instead of seconds.
        accelerator: Lightning's; auto uses a GPU if there is one.
        precision: Lightning's; None is the faster one on this CPU, or that of the run if it resumes, and
            float32 on a GPU.
        tensorboard: Whether to write RUN/tensorboard too.
        progress: Whether to show a progress bar.
        callbacks: More callbacks.
        overwrite: Start a new run, and move an earlier one in RUN aside, to RUN.before-1.

    Returns:
        RUN/model.

    Raises:
        ValueError: ``overwrite`` is false, and the checkpoint in RUN was trained with other settings, or RUN
            holds a model or curves without a checkpoint.
        Diverged: The loss rose and stayed there, or gradients were not finite ten times in a row.
        KeyboardInterrupt: The user stopped it; the step is finished and saved in the checkpoint.
    """
    run_folder = Path(run_folder)
    model, checkpoint = run_folder / MODEL, None if overwrite else recover(run_folder)
    max_steps = training.settings.max_steps
    if max_steps < 1:
        raise ValueError(f"max_steps must be positive to train, got {max_steps}")
    if checkpoint is not None:
        stored, step = read_checkpoint(checkpoint)
        training.check_resumed(stored, step)
        if model.is_dir() and step >= max_steps:
            return model
    else:
        check_new(run_folder, overwrite)
    trainable = trainable_of(training)
    options = {
        "accelerator": accelerator,
        "devices": 1,
        "precision": precision,
        "max_steps": max_steps,
        "default_root_dir": run_folder,
        "logger": loggers(run_folder, tensorboard),
        "callbacks": [*_with_always(trainable, callbacks), Checkpoints(checkpoint_seconds, checkpoint_steps)],
        "gradient_clip_val": clip,
        "log_every_n_steps": log_every,
        "val_check_interval": validate_every or max_steps,
        "enable_progress_bar": progress,
    }
    title = "training" if trainable is None else trainable.title
    with quiet():
        L.seed_everything(seed, verbose=False)
        trainer = L.Trainer(**for_fit({**DEFAULTS, **options}, title, checkpoint))
        if trainer.is_global_zero:
            make_room(run_folder, overwrite, asdict(training.settings))
        run_folder.mkdir(parents=True, exist_ok=True)
        with interruptible():
            trainer.fit(training, data, ckpt_path=checkpoint)
    return model


def _with_always(trainable: Trainable | None, callbacks: Sequence[Callback]) -> list[Callback]:
    """``callbacks``, and those that the registry adds to every training."""
    found = list(callbacks)
    if trainable is None:
        return found
    for name in trainable.always:
        kind = load(trainable.callbacks[name])
        if not any(isinstance(callback, kind) for callback in found):
            found.append(kind())
    return found
