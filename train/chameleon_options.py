"""The options of `earlyfusion import chameleon`."""

from argparse import Namespace
from typing import Any

from .arguments import add


def add_chameleon(commands: Any) -> None:
    """`import chameleon`."""

    def run(args: Namespace) -> None:
        from .chameleon import import_chameleon

        import_chameleon(args)

    group = add(commands, "import", "Models of others. There is one kind, `chameleon`.")
    parser = add(
        group.add_subparsers(dest="kind", metavar="chameleon", required=True),
        "chameleon",
        """\
Turn a Chameleon model into a model folder, weights and vocabulary as they are: from a folder
of `transformers` (config.json, safetensors, tokenizer.json), or from Meta's (models/SIZE with
params.json and consolidated shards, tokenizer/ with text_tokenizer.json and vqgan.ckpt).
Weights pass one tensor at a time; of pickles tensors alone are read.

The port in `transformers` has no VQ decoder: without --vqgan the model reads images and
draws none. Needs the extra `chameleon`.""",
        """\
  earlyfusion import chameleon chameleon-7b --vqgan vqgan.ckpt --out runs/chameleon-7b
  earlyfusion sample --model runs/chameleon-7b --out runs/said photo.png "This is\"""",
        run,
    )
    parser.add_argument("folder", metavar="FOLDER", help="the model's folder")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--vqgan", metavar="FILE", help="a VQGAN checkpoint with the decoder of the model's image tokenizer"
    )
