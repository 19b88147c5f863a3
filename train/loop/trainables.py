"""The registry of everything that can be trained, for the command line, ``fit`` from Python and the docs.

To train something new, add a ``Trainable`` to ``TRAINABLES``. Classes are given as
``"folder.module:Class"``, from the package's root, and imported when they are used: this module imports only
the standard library, so that help is instant.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROOT = __name__.removesuffix(".train.loop.trainables")


@dataclass(frozen=True)
class Link:
    """An option that is computed from others, and therefore cannot be set."""

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
    """Label of the progress bar."""
    summary: str
    """One line for the list of commands."""
    description: str
    """The paragraph in the help of the command."""
    stages: Mapping[str, str]
    """Stages of the command (fit, validate, predict), and what each does."""
    examples: str
    """Command lines for the help."""
    then: str
    """The command to try after a fit; ``{model}`` is the folder that it wrote."""
    module: str
    """The LightningModule, a ``LoggedTraining``."""
    settings: str
    """Its settings, a ``TrainingSettings``: the options ``--model.FIELD``."""
    data: str
    """The LightningDataModule: the options ``--data.FIELD``."""
    callbacks: Mapping[str, str] = field(default_factory=dict)
    """Group of options -> callback that reads them."""
    always: tuple[str, ...] = ()
    """Those of ``callbacks`` that ``fit`` from Python adds unless it is given one."""
    predictions: str | None = None
    """The callback that writes the results of ``predict``."""
    links: tuple[Link, ...] = (Link(("trainer.max_steps",), "model.max_steps"),)
    prepare: str | None = None
    """``"folder.module:function"`` that completes the parsed options of a stage, before anything is built."""

    @property
    def linked_settings(self) -> set[str]:
        """Fields of the settings that other options set."""
        targets = (link.target.split(".") for link in self.links)
        return {name for group, name in targets if group == "model"}


IMAGE_TOKENIZER = Trainable(
    name="image-tokenizer",
    title="image tokenizer",
    summary="train or run the image tokenizer (VQ-VAE)",
    description="""\
Train the image tokenizer (a VQ-VAE), or run a trained one over images. Every field of a
config file is also an option of fit, validate and predict; `earlyfusion configs` lists sample
configs.""",
    stages={
        "fit": "train; writes checkpoints, logs, pictures and the tokenizer folder",
        "validate": "reconstruct the validation images and print the errors",
        "predict": "write codes and reconstructions of the validation images",
    },
    examples="""\
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --data.train=my/images
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --model.config.codebook_size=4096
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --ckpt_path=last   # resume""",
    then="earlyfusion eval reconstruction {model} --out reconstruction.json",
    module="train.image.module:ImageTokenizerTraining",
    settings="train.image.settings:ImageTokenizerSettings",
    data="train.image.data:ImageData",
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
    summary="train the text recognizer of the text-aware loss",
    description="""\
Train the recognizer whose features measure how similar two images of text are (the text-aware
loss of the image tokenizer), on the images of `earlyfusion text-images`. Every field of a
config file is also an option; `earlyfusion configs recognizer` prints a sample config.""",
    stages={
        "fit": "train; writes checkpoints, logs and the recognizer folder",
        "validate": "read the validation texts and print the errors",
    },
    examples="""\
  earlyfusion text-images --out runs/text-images
  earlyfusion recognizer fit --config recognizer.yaml --data.train=runs/text-images""",
    then="earlyfusion image-tokenizer fit --config image_tokenizer_small --model.recognizer={model}",
    module="train.image.recognizer_training:RecognizerTraining",
    settings="train.image.recognizer_training:RecognizerSettings",
    data="train.image.data:TextBoxData",
)
LM = Trainable(
    name="lm",
    title="transformer",
    summary="train or validate the transformer",
    description="""\
Train the transformer on the windows of `earlyfusion prepare`, or validate a trained one. Every
field of a config file is also an option; `earlyfusion configs` lists sample configs.""",
    stages={
        "fit": "train; writes checkpoints, logs, samples and the model folder",
        "validate": "print the losses on the validation windows, by modality",
        "predict": "write the loss of every token of the validation windows",
    },
    examples="""\
  earlyfusion lm fit --config lm.yaml --data.path=runs/tokens
  earlyfusion lm fit --config lm.yaml --trainer.max_steps=20000
  earlyfusion lm fit --config lm.yaml --ckpt_path=last                             # resume""",
    then="earlyfusion sample --model {model}",
    module="train.lm.module:FusionLMTraining",
    settings="train.lm.settings:LMSettings",
    data="train.lm.data:TokenData",
    callbacks={
        "samples": "train.lm.samples:Samples",
        "telemetry": "train.lm.telemetry:Telemetry",
        "divergence": "train.callbacks.divergence:Divergence",
    },
    always=("divergence",),
    predictions="train.lm.predictions:LossFiles",
    links=(
        Link(("trainer.max_steps",), "model.max_steps"),
        Link(("data.path",), "model.tokenizer"),
    ),
)
ALIGN = Trainable(
    name="align",
    title="alignment",
    summary="align a model with rewards: it learns from its own samples (GRPO)",
    description="""\
Align a model with rewards: it draws several samples for each prompt, rewards score them, and
the better ones become likelier (GRPO). The sample config teaches the packaged
model to write and read words: a recognizer is the reward for writing, and OCR engines that are
not rewards judge the result. Every field of a config file is also an option.""",
    stages={"fit": "train; writes checkpoints, logs, sheets of samples and the model folder"},
    examples="""\
  earlyfusion align fit --config align.yaml
  earlyfusion align fit --config align.yaml --trainer.max_time 00:00:30:00
  earlyfusion align fit --config align.yaml --ckpt_path=last                       # resume""",
    then='earlyfusion sample "word" --model {model}',
    module="train.rl.module:Alignment",
    settings="train.rl.settings:AlignmentSettings",
    data="train.rl.prompts:PromptData",
    callbacks={
        "judges": "train.rl.judges:Judges",
        "rollouts": "train.rl.sheets:RolloutSheet",
        "divergence": "train.callbacks.divergence:Divergence",
    },
    always=("divergence",),
)
TRAINABLES = {one.name: one for one in (IMAGE_TOKENIZER, RECOGNIZER, LM, ALIGN)}
"""By command."""


def load(path: str) -> Any:
    """The class or function that ``"folder.module:Name"`` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"{ROOT}.{module}"), name)


def trainable_of(training: Any) -> Trainable | None:
    """The entry whose module class ``training`` is an instance of; None if it is not registered."""
    names = {f"{kind.__module__}:{kind.__qualname__}" for kind in type(training).__mro__}
    return next((one for one in TRAINABLES.values() if f"{ROOT}.{one.module}" in names), None)
