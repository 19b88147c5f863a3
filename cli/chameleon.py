"""``earlyfusion import chameleon`` and ``earlyfusion export chameleon``."""

from argparse import Namespace
from math import prod
from typing import Any, get_args

from ..tokenizers.image_config import Preprocessing
from .results import add_out, writes
from .terminal import add_command, add_group


def add(commands: Any) -> None:
    group = add_group(
        commands,
        "import",
        "turn a Chameleon model of transformers or Meta into a model folder",
        "Turn another project's model into a model folder. Supported format: `chameleon`.",
    )
    parser = add_command(
        group,
        "chameleon",
        "from a folder of `transformers` or of Meta",
        """\
Turn a Chameleon model into a model folder, weights and vocabulary unchanged: from a folder
of `transformers` (config.json, safetensors, tokenizer.json), or from Meta's (models/SIZE with
params.json and consolidated shards, tokenizer/ with text_tokenizer.json and vqgan.ckpt).
Weights are read one tensor at a time; from pickles only tensors are read.

The port in `transformers` has no VQ decoder: without --vqgan the model reads images but
cannot draw them. A folder without any image tokenizer needs --vqgan. Needs the extra `chameleon`.""",
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
    add_out(parser)
    parser.add_argument(
        "--vqgan",
        metavar="FILE",
        help="VQGAN checkpoint with the decoder of the model's image tokenizer (default: no decoder)",
    )
    parser.add_argument(
        "--preprocessing",
        choices=get_args(Preprocessing),
        default="meta",
        help="image preprocessing: Meta's, or that of the transformers port, whose codes can differ "
        "(default: %(default)s)",
    )
    group = add_group(
        commands,
        "export",
        "write a model folder that transformers loads",
        "Write a model in another project's format. Supported format: `chameleon`.",
    )
    parser = add_command(
        group,
        "chameleon",
        "a folder that `transformers` loads",
        """\
Write a model folder that `transformers` loads, with `ChameleonForConditionalGeneration` and
`ChameleonProcessor`: weights, VQ encoder, text tokenizer and vocabulary. The VQ decoder is
stored beside them (vq_decoder.safetensors); `import` reads it back. Models the format cannot
express are rejected, with the reason: it requires one square image size (fixed_grid), codes
in row order, one code per position, a VQGAN, and LayerNorm as QK-norm.

The tokens `<image>` and end of turn are added if missing. In `transformers` a typed `<s>` is
a special token; here it is plain text.""",
        """\
  earlyfusion export chameleon runs/lm/model --out runs/hf
  python -c "import transformers as t; t.ChameleonForConditionalGeneration.from_pretrained('runs/hf')\"""",
        run,
    )
    parser.add_argument("model", metavar="MODEL", help="model folder")
    add_out(parser)
    parser.add_argument(
        "--push",
        metavar="NAME",
        help="also upload it to the Hugging Face Hub as owner/name; new repositories are private",
    )


def run(args: Namespace) -> None:
    from ..storage.files import check_folder

    check_folder(args.out)
    {"import": _import, "export": _export}[args.command](args)


@writes(inputs=("folder", "vqgan"), holds=("config.json", "model.safetensors", "tokenizer"))
def _import(args: Namespace) -> None:
    from ..fusion_lm.chameleon.importer import read_source, write_model
    from ..storage.hub import local_folder
    from ..tokenizers.progress import progress_bars

    with progress_bars() as progress:
        folder = local_folder(args.folder, ("*.json", "*.safetensors", "*.pth", "*.ckpt"))
        source = read_source(folder, args.vqgan, args.preprocessing)
        write_model(source, args.out, progress)
    count = sum(prod(spec.shape) for spec in source.specs.values())
    decoder = "" if source.image.config.decoder else " (no VQ decoder: it reads images but cannot draw them)"
    print(f"{count:,} parameters written to {args.out}{decoder}")


def _export(args: Namespace) -> None:
    from ..storage.hub import push

    _write_export(args)
    if args.push is not None:
        print(f"uploaded to {push(args.out, args.push)}")


@writes(inputs=("model",), holds=("*.json", "*.safetensors"))
def _write_export(args: Namespace) -> None:
    from ..fusion_lm.chameleon.exporter import export
    from ..storage.hub import local_folder
    from ..tokenizers.progress import progress_bars

    with progress_bars() as progress:
        export(local_folder(args.model), args.out, progress)
    print(f"written to {args.out}")
