"""``earlyfusion image-tokenizer`` and ``earlyfusion lm``: Lightning's CLI with this project's defaults.

Every field of a config file is an option too. What a run writes stands below ``trainer.default_root_dir``:
config.yaml, last.ckpt, metrics.csv, tensorboard/, model/ and pictures.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import lightning as L
import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from ...data.images import ImageData
from ...data.windows import TokenData
from ...tokenizers.image import ImageTokenizer
from ..image.bench import Bench
from ..image.module import DECODER, ImageTokenizerTraining
from ..image.recognizer_training import RecognizerTraining, TextBoxData
from ..lm.module import FusionLMTraining
from ..lm.telemetry import Telemetry
from .callbacks import CHECKPOINT, Checkpoints, Curves, ModelFolder, RandomStates, StepBar, recover
from .divergence import Divergence
from .fit import interruptible, loggers, quiet, read_checkpoint
from .pictures import Predictions, Reconstructions, Samples
from .process import best_cpu_precision
from .schedule import check_resumed
from .stopping import Stopping

Kind = Literal["image-tokenizer", "recognizer", "lm"]

_DESCRIPTIONS = {
    "image-tokenizer": {
        "fit": "Train the image tokenizer. Checkpoints, logs, pictures and the tokenizer (model/) are "
        "written below trainer.default_root_dir; --ckpt_path=last goes on after a stop.",
        "validate": "Reconstruct the validation images and print the errors.",
        "test": "The same as validate, logged as test.",
        "predict": "Images -> codes and reconstructions, below trainer.default_root_dir.",
    },
    "recognizer": {
        "fit": "Train the recognizer, whose features measure how alike two images of text are, on rendered "
        "text (`earlyfusion text-images`). Checkpoints, logs and the recognizer (model/) are written below "
        "trainer.default_root_dir; --ckpt_path=last goes on after a stop.",
        "validate": "Read the validation texts and print the errors.",
    },
    "lm": {
        "fit": "Train the transformer on the windows of `earlyfusion prepare`. Checkpoints, logs, samples "
        "and the model (model/) are written below trainer.default_root_dir; --ckpt_path=last goes on after a "
        "stop.",
        "validate": "Print the losses on the validation windows, by modality.",
        "test": "The same as validate, logged as test.",
        "predict": "Losses of every token of the validation windows, below trainer.default_root_dir.",
    },
}
_DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,  # trainings are as long as trainer.max_steps says
    "val_check_interval": 1000,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 20,
    "enable_model_summary": False,
}
_LINKED = {
    "image-tokenizer": ("max_steps",),
    "recognizer": ("max_steps",),
    "lm": ("max_steps", "tokenizer"),
}
"""Fields of the model that other options give."""


def run(kind: Kind, argv: Sequence[str]) -> int:
    """Run ``fit``, ``validate``, ``test`` or ``predict``; returns the exit code.

    :raises ValueError: an option, a config key or a checkpoint that cannot be used, in one line.
    :raises FileNotFoundError: a file that an option names is missing.
    """
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    by_kind: dict[str, tuple[type, type]] = {
        "image-tokenizer": (ImageTokenizerTraining, ImageData),
        "recognizer": (RecognizerTraining, TextBoxData),
        "lm": (FusionLMTraining, TokenData),
    }
    model, data = by_kind[kind]
    stages = {
        stage: {
            "usage": f"earlyfusion {kind} {stage} --config FILE [options]",
            "description": f"{description} Every option below can stand in the config file too.",
        }
        for stage, description in _DESCRIPTIONS[kind].items()
        if stage in _asked(argv, _DESCRIPTIONS[kind])
    }
    with quiet(), interruptible():
        try:
            _Cli(kind, list(argv), model, data, {"prog": f"earlyfusion {kind}", **stages})
        except argparse.ArgumentError as error:
            raise ValueError(_one_line(str(error))) from None
    return 0


class _Parser(LightningArgumentParser):
    """Raises instead of printing its usage; its help has this project's options before the Trainer's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"exit_on_error": False, **kwargs})  # classes have parsers inside

    def format_help(self) -> str:
        """The Trainer's hundred lines come last."""

        def of_trainer(group: Any) -> bool:
            return any(action.dest.startswith("trainer.") for action in group._group_actions)

        self._action_groups = sorted(self._action_groups, key=of_trainer)  # stable
        return super().format_help()


class _Cli(LightningCLI):
    """See the module's docstring."""

    def __init__(
        self, kind: Kind, argv: list[str], model: type, data: type, parser_kwargs: dict[str, Any]
    ) -> None:
        self.kind, self.argv = kind, argv
        super().__init__(
            model,
            data,
            args=argv,
            parser_class=_Parser,
            parser_kwargs=parser_kwargs,
            trainer_defaults={**_DEFAULTS, "default_root_dir": f"runs/{kind}"},
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,  # the modules make their own optimizer
            load_from_checkpoint_support=False,  # the modules save plain hyper-parameters themselves
        )

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The one that is asked for: the options of each take a second to gather."""
        return _asked(self.argv, super().subcommands())

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks with options, and options that follow from others."""
        parser.link_arguments("trainer.max_steps", "model.max_steps")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")  # type: ignore[arg-type]
        if self.kind == "image-tokenizer":
            sources: Any = ("model.config.stem", "model.config.channels")
            parser.link_arguments(sources, "data.factor", compute_fn=_factor)
            parser.add_lightning_class_args(Reconstructions, "pictures")
            parser.add_lightning_class_args(Bench, "bench")
        elif self.kind == "lm":
            parser.link_arguments("data.path", "model.tokenizer")
            parser.add_lightning_class_args(Samples, "samples")
            parser.add_lightning_class_args(Telemetry, "telemetry")
            parser.add_lightning_class_args(Divergence, "divergence")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Without Lightning's warning that sys.argv holds something too."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Not as Lightning does it: a checkpoint's settings would silently win over the command line's."""

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint; where nothing is trained, its settings of the network are the right ones."""
        config = self.config[self.config.subcommand]
        folder = Path(config.trainer.default_root_dir)
        if self.config.subcommand == "fit" and config.trainer.max_steps < 1:
            raise ValueError(f"max_steps must be positive to train, got {config.trainer.max_steps}")
        for name in ("train", "validation"):  # here, before a logger writes its first file
            source = config.data.get(name)
            if source is not None and not Path(source).exists():
                raise FileNotFoundError(f"{source} not found: a data set is expected there (data.{name})")
        if self.kind == "image-tokenizer" and config.model.trained_part == "decoder":
            self._keep_encoder(config)
        if config.get("ckpt_path") == "last":
            last = recover(folder)
            config.ckpt_path = None if last is None else str(last)
            if config.ckpt_path is None and self.config.subcommand != "fit":
                raise FileNotFoundError(f"{folder / CHECKPOINT} not found: --ckpt_path=last expects it there")
        path = config.get("ckpt_path")
        if path is None:
            return
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} not found: a checkpoint is expected there (--ckpt_path)")
        if self.config.subcommand == "fit":
            return  # what differs is refused below
        values, _ = read_checkpoint(path)
        whole = values.get("trained_part", "all") == "all"  # else its other weights are in init_from
        for name in set(values) - set(_LINKED[self.kind]) - ({"init_from"} if whole else set()):
            if name != "config":
                config.model[name] = values[name]
        for name, value in values.get("config", {}).items():
            config.model.config[name] = value
        if self.kind == "image-tokenizer":
            config.data.factor = _factor(config.model.config.stem, config.model.config.channels)

    @staticmethod
    def _keep_encoder(config: Any) -> None:
        """All but the decoder is as in ``init_from``, whatever the defaults are."""
        if config.model.init_from is None:
            return  # which the training refuses
        given = ImageTokenizer.read_config(config.model.init_from)
        for name, value in asdict(given).items():
            if name not in DECODER:
                config.model.config[name] = value
        config.data.factor = given.factor

    def after_instantiate_classes(self) -> None:
        """Refuse to go on with other settings before anything is written."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path is not None and self.subcommand == "fit":
            settings, step = read_checkpoint(path)
            check_resumed(settings, self.model.hparams, step, self.model.may_differ)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The Trainer, with logs and callbacks that need no options."""
        if self.subcommand != "fit":
            self.save_config_callback = None  # the folder's config.yaml is that of its training
        trainer = self._get(self.config_init, "trainer")
        folder = trainer.default_root_dir
        if trainer.logger in (None, True):
            kwargs["logger"] = loggers(folder) if self.subcommand == "fit" else False
        if trainer.precision is None and _on_cpu(trainer.accelerator):
            kwargs["precision"] = best_cpu_precision()
        if isinstance(trainer.val_check_interval, int) and trainer.max_steps > 0:
            kwargs["val_check_interval"] = min(trainer.val_check_interval, trainer.max_steps)
        bar = [] if trainer.enable_progress_bar is False else [StepBar(self.kind)]
        # Lightning's own bar serves validate, test and predict, which have no steps.
        extra = (
            [ModelFolder(), RandomStates(), Curves(), *bar, Stopping()]
            if self.subcommand == "fit"
            else [Predictions()]
        )
        kwargs["callbacks"] = [*(trainer.callbacks or []), *extra]
        return super().instantiate_trainer(**kwargs)


def _asked(argv: Sequence[str], stages: Mapping[str, Any]) -> dict[str, Any]:
    """The stage that ``argv`` begins with alone, or all of them where it begins with none."""
    return {stage: what for stage, what in stages.items() if stage in argv[:1]} or dict(stages)


def _factor(stem: int, channels: Sequence[int]) -> int:
    return stem * 2 ** (len(channels) - 1)


def _on_cpu(accelerator: Any) -> bool:
    if accelerator in ("auto", None):
        return not torch.cuda.is_available() and not torch.backends.mps.is_available()
    return accelerator == "cpu"


def _one_line(message: str) -> str:
    return re.sub(r"\s+", " ", message).strip()
