"""``earlyfusion lm``, ``image-tokenizer`` and ``recognizer``: Lightning's CLI with this project's defaults.

Every field of a config file is an option too: those of the settings are ``--model.FIELD``. A run writes below
``trainer.default_root_dir``: config.yaml, last.ckpt, metrics.csv, tensorboard/, model/ and pictures.
"""

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from ...eval.report.curves import read_metrics
from ...storage.nearest import did_you_mean, similar_path
from ...tokenizers.progress import suggest
from ..callbacks.checkpoints import Checkpoints
from .logged_training import LoggedTraining
from .resume import CHECKPOINT, LAST, MODEL, read_checkpoint, recover
from .settings import TrainingSettings
from .start import LAST_OR_NEW, check_predictions, make_room, move_predictions, starting_point
from .trainables import TRAINABLES, Link, Trainable, load
from .trainer import DEFAULTS, for_evaluation, for_fit, interruptible, quiet

MISSING = r"\1 is missing: give --config FILE, or --\1=..."
MESSAGES = {
    r'Parser key "([\w.]+)": .* Got value: None': MISSING,
    r"the following arguments are required: (?:fit|validate|predict)\.([\w.]+).*": MISSING,
    r"Parser key \"([\w.]+)\": Expected an? <class '(\w+)'>\. Got value: (.*)": r"\1: expected \2, got \3",
}
"""Messages of jsonargparse -> what to print instead."""


def run(name: str, argv: Sequence[str]) -> int:
    """Run a stage (fit, validate, predict) of a command.

    Args:
        name: The command, a key of ``TRAINABLES``.
        argv: The stage and its options.

    Returns:
        The exit code.

    Raises:
        ValueError: An option, a config key or a checkpoint cannot be used; the message is one line.
        FileNotFoundError: A file that an option names is missing.
    """
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    with quiet(), interruptible():
        try:
            _Cli(TRAINABLES[name], list(argv))
        except argparse.ArgumentError as error:
            raise ValueError(_today(load(TRAINABLES[name].settings), _plain(str(error)))) from None
    return 0


class _Parser(LightningArgumentParser):
    """Raises instead of printing its usage; its help has this project's options before the Trainer's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"exit_on_error": False, **kwargs})  # classes have parsers inside

    def format_help(self) -> str:
        def of_trainer(group: Any) -> bool:
            return any(action.dest.startswith("trainer.") for action in group._group_actions)

        self._action_groups = sorted(self._action_groups, key=of_trainer)  # stable; the Trainer's are 100
        return super().format_help()


class _Cli(LightningCLI):
    """The command line of one trainable; see the module's docstring."""

    def __init__(self, trainable: Trainable, argv: list[str]) -> None:
        self.trainable = trainable
        self.stages = _asked(argv, trainable.stages)
        stages = {
            stage: {
                "usage": f"earlyfusion {trainable.name} {stage} --config FILE [options]",
                "description": f"{what[0].upper()}{what[1:]}. Files are written to trainer.default_root_dir; "
                "--ckpt_path=last loads its last.ckpt, to resume a stopped fit; with last-or-new, fit starts "
                "if there is none. Every option can also be set in the config file.",
            }
            for stage, what in self.stages.items()
        }
        super().__init__(
            load(trainable.module),
            load(trainable.data),
            args=argv,
            parser_class=_Parser,
            parser_kwargs={"prog": f"earlyfusion {trainable.name}", **stages},
            trainer_defaults={**DEFAULTS, "default_root_dir": f"runs/{trainable.name}"},
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,  # the modules make their own optimizer
            load_from_checkpoint_support=False,  # the modules save plain hyper-parameters themselves
        )

    # options

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Only the requested one, since gathering the options of each takes a second."""
        return {stage: what for stage, what in super().subcommands().items() if stage in self.stages}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The module's options are the fields of its settings."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        parser.add_class_arguments(load(self.trainable.settings), "model", sub_configs=True)
        parser.add_lightning_class_args(self.datamodule_class, "data")  # type: ignore[arg-type]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--overwrite",
            action="store_true",
            help="move what an earlier run wrote aside (to RUN.before-1), instead of refusing",
        )
        parser.add_lightning_class_args(Checkpoints, "checkpoints")  # type: ignore[arg-type]
        for name, callback in self.trainable.callbacks.items():
            parser.add_lightning_class_args(load(callback), name)
        for link in self.trainable.links:
            sources: Any = link.sources if len(link.sources) > 1 else "".join(link.sources)
            compute = load(link.compute) if link.compute else None
            parser.link_arguments(sources, link.target, compute_fn=compute)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)  # Lightning's would warn that sys.argv is not empty
        except argparse.ArgumentError as error:
            unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", str(error), re.I)
            if unknown is None or _today(load(self.trainable.settings), str(error)) != str(error):
                raise  # to say what replaced it
            hint = f"unknown option {unknown[1]}; {did_you_mean(unknown[1], _options(parser))}".rstrip("; ")
            command = f"earlyfusion {self.trainable.name} {next(iter(self.stages))}"
            raise ValueError(f"{hint} (see `{command} --help`)") from None

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would silently prefer the checkpoint's settings to the command line's."""

    def before_instantiate_classes(self) -> None:
        """Check paths and find the checkpoint; stages other than fit take the network's settings from it."""
        stage = self.config.subcommand
        config = self.config[stage]
        folder = Path(config.trainer.default_root_dir)
        if stage == "fit" and config.trainer.max_steps < 1:
            raise ValueError(f"max_steps must be positive to train, got {config.trainer.max_steps}")
        for name in ("train", "validation"):  # here, before a logger writes its first file
            source = config.data.get(name)
            if source is not None and not Path(source).exists():
                hint = similar_path(source)
                raise FileNotFoundError(f"{source} not found: {hint}expected a data set (data.{name})")
        if self.trainable.prepare is not None:
            load(self.trainable.prepare)(config)
        self.overwrite = config.pop("overwrite", False)  # not for the config.yaml of the run
        if stage == "fit":
            asked = config.get("ckpt_path")
            if asked in (LAST, LAST_OR_NEW) or not config.trainer.fast_dev_run:  # which writes nothing
                path = starting_point(folder, asked, self.overwrite)
                config.ckpt_path = None if path is None else str(path)
        elif config.get("ckpt_path") == LAST:
            if (last := recover(folder)) is None:
                raise FileNotFoundError(
                    f"{folder / CHECKPOINT} not found (--ckpt_path={LAST}): run fit first"
                )
            config.ckpt_path = str(last)
        if stage == "predict":
            check_predictions(folder, self.overwrite)
        path = config.get("ckpt_path")
        if path is None:
            return
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} not found: expected a checkpoint (--ckpt_path)")
        if stage != "fit":  # fit rejects other settings instead
            self._take_settings(config, read_checkpoint(path)[0])

    def _take_settings(self, config: Any, stored: Mapping[str, Any]) -> None:
        """Take the settings of a checkpoint, except those that other options set."""
        values = load(self.trainable.settings).upgraded(stored)
        whole = values.get("trained_part", "all") == "all"  # else its other weights are in init_from
        kept = self.trainable.linked_settings | ({"init_from"} if whole else set())
        for name in set(values) - kept:
            if name != "config":
                config.model[name] = values[name]
        for name, value in values.get("config", {}).items():
            config.model.config[name] = value
        for link in self.trainable.links:
            _follow(link, config)

    # from options to objects

    def instantiate_classes(self) -> None:
        self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._model_class(self._get(self.config_init, "model"))  # type: ignore[operator]
        self._add_configure_optimizers_method_to_model(self.subcommand)
        self.trainer = self.instantiate_trainer()

    def after_instantiate_classes(self) -> None:
        """Refuse to resume with other settings before anything is written; then make room."""
        config = self.config[self.config.subcommand]
        path, folder = config.get("ckpt_path"), Path(config.trainer.default_root_dir)
        first = self.trainer.is_global_zero
        if self.subcommand == "predict" and self.overwrite and first:
            move_predictions(folder)
        if self.subcommand != "fit":
            return
        if path is not None:
            training: LoggedTraining = self.model  # type: ignore[assignment]
            settings, step = read_checkpoint(path)
            training.check_resumed(settings, step)
            if step >= config.trainer.max_steps and first:
                print(f"{path} is of step {step} of {config.trainer.max_steps}: nothing is left to train")
        if first and not config.trainer.fast_dev_run:
            make_room(folder, self.overwrite, {**config.as_dict(), "config": None})

    def after_fit(self) -> None:
        folder = Path(self.trainer.default_root_dir) / MODEL
        if self.trainer.is_global_zero and folder.is_dir():
            print(f"trained to step {self.trainer.global_step}{_last_figures(folder.parent)}")
            print(f"model: {folder}")
            suggest(self.trainable.then.format(model=shlex.quote(str(folder))))

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        options = {**self._get(self.config_init, "trainer"), **kwargs}
        checkpoint = self._get(self.config, "ckpt_path")
        if self.subcommand == "fit":
            return super().instantiate_trainer(**for_fit(options, self.trainable.title, checkpoint))
        self.save_config_callback = None  # the folder's config.yaml is that of its training
        callbacks = list(options.get("callbacks") or [])
        if self.subcommand == "predict" and self.trainable.predictions is not None:
            callbacks.append(load(self.trainable.predictions)())
        # Lightning's own bar serves the stages that have no steps.
        return super().instantiate_trainer(**for_evaluation({**options, "callbacks": callbacks}, checkpoint))


def _asked(argv: Sequence[str], stages: Mapping[str, str]) -> dict[str, str]:
    """The stage that ``argv`` begins with, or else all stages."""
    return {stage: what for stage, what in stages.items() if stage in argv[:1]} or dict(stages)


def _last_figures(run: Path) -> str:
    """The last losses that a run logged, such as ": train loss 1.23, validation loss 1.31"."""
    curves = read_metrics(run)
    told = [
        f"{part} {name} {curves[f'{part}/{name}'][-1][1]:.4g}"
        for part in ("train", "validation")
        for name in ("loss", "psnr")
        if f"{part}/{name}" in curves
    ]
    return f": {', '.join(told)}" if told else ""


def _options(parser: Any) -> list[str]:
    """The options of a parser and of its stages."""
    names = [name for action in parser._actions for name in action.option_strings]
    stages = parser._subcommands_action.choices.values() if parser._subcommands_action else ()
    return names + [name for stage in stages for name in _options(stage)]


def _plain(message: str) -> str:
    """``message`` of jsonargparse in one line and, if known, in plain words."""
    message = re.sub(r"\s+", " ", message).strip()
    matches = ((re.fullmatch(pattern, message), words) for pattern, words in MESSAGES.items())
    return next((match.expand(words) for match, words in matches if match), message)


def _today(settings: type[TrainingSettings], message: str) -> str:
    """``message``, or what replaced the option of an earlier version that it rejects."""
    for old, new in settings.renamed.items():
        if f"model.{old}" in message:
            return f"model.{old} is now called model.{new}: rename it"
    for old, value in settings.removed.items():
        if f"model.{old}" in message:
            return f"model.{old} is now always {value}: remove it"
    return message


def _follow(link: Link, config: Any) -> None:
    """Set the option that ``link`` describes from its sources."""
    values = [config.get(source) for source in link.sources]
    config[link.target] = load(link.compute)(*values) if link.compute else values[0]
