"""The options of `earlyfusion import chameleon` and `earlyfusion export chameleon`."""

from argparse import Namespace
from typing import Any

from .terminal import add


def add_chameleon(commands: Any) -> None:
    """`import chameleon` and `export chameleon`."""

    def run(args: Namespace) -> None:
        from ..fusion_lm.chameleon.importer import import_chameleon

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
  earlyfusion import chameleon facebook/chameleon-7b --out runs/chameleon-7b
  earlyfusion import chameleon chameleon-7b --vqgan vqgan.ckpt --out runs/chameleon-7b
  earlyfusion sample --model runs/chameleon-7b --out runs/said photo.png "This is\"""",
        run,
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="the model's folder, or its name on the Hugging Face Hub (owner/name)",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--vqgan", metavar="FILE", help="a VQGAN checkpoint with the decoder of the model's image tokenizer"
    )

    parser.add_argument(
        "--preprocessing",
        choices=("meta", "hf"),
        default="meta",
        help="how images become numbers: as Meta does, or as transformers' port, whose codes can differ "
        "(default: %(default)s)",
    )

    def run_export(args: Namespace) -> None:
        from ..fusion_lm.chameleon.exporter import export_chameleon

        export_chameleon(args)

    group = add(commands, "export", "Models for others. There is one kind, `chameleon`.")
    parser = add(
        group.add_subparsers(dest="kind", metavar="chameleon", required=True),
        "chameleon",
        """\
Write a model folder as `transformers` loads it, with `ChameleonForConditionalGeneration` and
`ChameleonProcessor`: weights, VQ encoder, text tokenizer and vocabulary. The VQ decoder lies
beside them (vq_decoder.safetensors); `import` takes it back. A model that the format cannot
say is refused, with the reason: it has one square size of images (fixed_grid), read row by
row, one code per position, a VQGAN, and QK-norm as LayerNorm.

Two tokens are added where they are missing, `<image>` and the one between turns; in
`transformers` a text such as `<s>` is a special token, which it is not here.""",
        """\
  earlyfusion export chameleon runs/lm/model --out runs/hf
  python -c "import transformers as t; t.ChameleonForConditionalGeneration.from_pretrained('runs/hf')\"""",
        run_export,
    )
    parser.add_argument("model", metavar="MODEL", help="model folder")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--push", metavar="NAME", help="upload it to the Hugging Face Hub as owner/name; a new one is private"
    )
