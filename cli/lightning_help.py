"""What can be trained, and the help of each stage (until the registry ``train/loop/trainables.py``)."""

from collections.abc import Mapping
from typing import NamedTuple


class Trainable(NamedTuple):
    """A command whose options Lightning reads."""

    summary: str
    description: str
    examples: str
    stages: Mapping[str, str]


TRAINABLES = {
    "image-tokenizer": Trainable(
        "the VQ-VAE: train it, run it",
        """\
Train the image tokenizer (a VQ-VAE), or run a trained one over images. fit, validate, test
and predict are a Lightning CLI: every field of a config file is an option too. Configs to
begin with: train/configs/. encode, decode and import do without Lightning.""",
        """\
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --data.train=my/images
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --model.config.codebook_size=4096
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --ckpt_path=last   # resume""",
        {
            "fit": "train; writes checkpoints, logs, pictures and the tokenizer folder",
            "validate": "reconstruct the validation images and print the errors",
            "test": "the same as validate, logged as test",
            "predict": "the validation images -> codes and reconstructions, as files",
        },
    ),
    "recognizer": Trainable(
        "the text reader behind the text-aware loss",
        """\
Train the recognizer whose features measure how alike two images of text are (the text-aware
loss of the image tokenizer), on the images of `earlyfusion text-images`. A Lightning CLI:
every field of a config file is an option too. Configs to begin with: train/configs/.""",
        """\
  earlyfusion text-images --out runs/text-images
  earlyfusion recognizer fit --config recogniser.yaml --data.train=runs/text-images""",
        {
            "fit": "train; writes checkpoints, logs and the recognizer folder",
            "validate": "read the validation images and print the errors",
        },
    ),
    "lm": Trainable(
        "the transformer: train it, measure it",
        """\
Train the transformer on the windows of `earlyfusion prepare`, or measure a trained one. A
Lightning CLI: every field of a config file is an option too. Configs to begin with:
train/configs/.""",
        """\
  earlyfusion lm fit --config lm.yaml --data.path=runs/tokens
  earlyfusion lm fit --config lm.yaml --trainer.max_steps=20000
  earlyfusion lm fit --config lm.yaml --ckpt_path=last                             # resume""",
        {
            "fit": "train; writes checkpoints, logs, samples and the model folder",
            "validate": "print the losses on the validation windows, by modality",
            "test": "the same as validate, logged as test",
            "predict": "losses of every token of the validation windows, as files",
        },
    ),
}
