"""Everything that can be trained, in one list: the command line, ``fit`` from Python and the docs read it.

A new thing to train is one more :class:`Trainable` in ``TRAINABLES``. Classes are named as
``"folder.module:Class"``, from the package's root, and imported when they are used: this module imports the
standard library alone, so that help is printed at once.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROOT = __package__.removesuffix(".train.loop")


@dataclass(frozen=True)
class Link:
    """An option that follows from others, and is not one of the command's therefore."""

    sources: tuple[str, ...]
    target: str
    compute: str | None = None
    """``"folder.module:function"`` of the sources' values; None: the value of the only source."""


@dataclass(frozen=True)
class Trainable:
    """One thing that can be trained."""

    name: str
    """The command, and the default folder of its runs below ``runs/``."""
    title: str
    """What the progress bar says."""
    summary: str
    """One line for the list of commands."""
    about: str
    """What the help of the command begins with."""
    stages: Mapping[str, str]
    """Stages of the command (fit, validate, predict), and what each does."""
    examples: str
    module: str
    """The LightningModule, a ``LoggedTraining``."""
    settings: str
    """Its settings, a ``TrainingSettings``: the options ``--model.FIELD``."""
    data: str
    """The LightningDataModule: the options ``--data.FIELD``."""
    callbacks: Mapping[str, str] = field(default_factory=dict)
    """Group of options -> callback that reads them."""
    always: tuple[str, ...] = ()
    """Those of ``callbacks`` that a fit from Python has unless it is given one."""
    predictions: str | None = None
    """The callback that writes what ``predict`` returns."""
    links: tuple[Link, ...] = (Link(("trainer.max_steps",), "model.max_steps"),)
    prepare: str | None = None
    """``"folder.module:function"`` that completes the parsed options of a stage, before anything is built."""
    more: str = ""
    """Commands of the same name that are not stages, for the help."""
    more_usage: str = ""

    @property
    def linked_settings(self) -> set[str]:
        """Fields of the settings that other options give."""
        targets = (link.target.split(".") for link in self.links)
        return {name for group, name in targets if group == "model"}

    def help(self) -> str:
        """The help of the command; that of a stage lists the options, and takes some seconds."""
        usage = f"usage: earlyfusion {self.name} {{{','.join(self.stages)}}} --config FILE [options]"
        lines = "\n".join(f"  {stage:10}  {what}" for stage, what in self.stages.items())
        hint = f"`earlyfusion {self.name} fit --help` lists the options (it loads Lightning: some seconds)."
        parts = [
            f"{usage}\n{self.more_usage}".rstrip(),
            f"{self.about}\nEvery field of a config file is an option too. Example configs: train/configs/.",
            lines,
            self.more,
            f"examples:\n{self.examples}",
            hint,
        ]
        return "\n\n".join(part for part in parts if part)


IMAGE_TOKENIZER = Trainable(
    name="image-tokenizer",
    title="image tokenizer",
    summary="fit, validate, predict: the VQ-VAE; encode, decode, import",
    about="Train the image tokenizer (a VQ-VAE), or run a trained one over images.",
    stages={
        "fit": "train; writes checkpoints, logs, pictures and the tokenizer folder",
        "validate": "reconstruct the validation images and print the errors",
        "predict": "the validation images -> codes and reconstructions, as files",
    },
    more_usage="       earlyfusion image-tokenizer {encode,decode,import} ...",
    more="""\
With a trained one, and without Lightning (`earlyfusion image-tokenizer encode --help`):

  encode      a folder of pictures -> a small file of codes for each
  decode      codes -> pictures
  import      a VQGAN checkpoint in taming's layout -> a tokenizer folder""",
    examples="""\
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --data.train=my/images
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --model.config.codebook_size=4096
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --ckpt_path=last   # resume""",
    module="train.image.module:ImageTokenizerTraining",
    settings="train.image.settings:ImageTokenizerSettings",
    data="data.images:ImageData",
    callbacks={
        "pictures": "train.image.reconstructions:Reconstructions",
        "bench": "train.image.bench:Bench",
    },
    predictions="train.image.reconstructions:ReconstructionFiles",
    links=(
        Link(("trainer.max_steps",), "model.max_steps"),
        Link(("model.config.stem", "model.config.channels"), "data.factor", "train.image.settings:factor_of"),
    ),
    prepare="train.image.settings:keep_encoder",
)
RECOGNIZER = Trainable(
    name="recognizer",
    title="recognizer",
    summary="fit, validate: the network behind the text-aware loss",
    about="""\
Train the recognizer whose features measure how similar two images of text are (the text-aware
loss of the image tokenizer), on the images of `earlyfusion text-images`.""",
    stages={
        "fit": "train; writes checkpoints, logs and the recognizer folder",
        "validate": "read the validation texts and print the errors",
    },
    examples="""\
  earlyfusion text-images --out runs/text-images
  earlyfusion recognizer fit --config recognizer.yaml --data.train=runs/text-images""",
    module="train.image.recognizer_training:RecognizerTraining",
    settings="train.image.recognizer_training:RecognizerSettings",
    data="train.image.recognizer_training:TextBoxData",
)
LM = Trainable(
    name="lm",
    title="transformer",
    summary="fit, validate, predict: the transformer",
    about="Train the transformer on the windows of `earlyfusion prepare`, or measure a trained one.",
    stages={
        "fit": "train; writes checkpoints, logs, samples and the model folder",
        "validate": "print the losses on the validation windows, by modality",
        "predict": "losses of every token of the validation windows, as files",
    },
    examples="""\
  earlyfusion lm fit --config lm.yaml --data.path=runs/tokens
  earlyfusion lm fit --config lm.yaml --trainer.max_steps=20000
  earlyfusion lm fit --config lm.yaml --ckpt_path=last                             # resume""",
    module="train.lm.module:FusionLMTraining",
    settings="train.lm.settings:LMSettings",
    data="data.windows:TokenData",
    callbacks={
        "samples": "train.lm.samples:Samples",
        "telemetry": "train.lm.telemetry:Telemetry",
        "divergence": "train.loop.divergence:Divergence",
    },
    always=("divergence",),
    predictions="train.lm.predictions:LossFiles",
    links=(
        Link(("trainer.max_steps",), "model.max_steps"),
        Link(("data.path",), "model.tokenizer"),
    ),
)
TRAINABLES = {one.name: one for one in (IMAGE_TOKENIZER, RECOGNIZER, LM)}
"""By command."""
RENAMED = {"recogniser": "recognizer"}
"""Commands of earlier versions, for one more release."""


def load(path: str) -> Any:
    """The class or function that ``"folder.module:Name"`` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"{ROOT}.{module}"), name)


def trainable_of(training: Any) -> Trainable | None:
    """The entry whose module class ``training`` is an instance of; None if it is not registered."""
    names = {f"{kind.__module__}:{kind.__qualname__}" for kind in type(training).__mro__}
    return next((one for one in TRAINABLES.values() if f"{ROOT}.{one.module}" in names), None)


def current_name(command: str) -> str:
    """``command``, or its name of today, with a warning on stderr."""
    if command not in RENAMED:
        return command
    new = RENAMED[command]
    print(f"DeprecationWarning: the command `{command}` is now `{new}`", file=sys.stderr)
    return new
