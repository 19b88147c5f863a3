"""What each command of `earlyfusion` is called with, and its help.

Standard library alone: a command's implementation is imported in its `run`, when it runs.
"""

import argparse
from argparse import Namespace
from collections.abc import Callable
from typing import Any, NoReturn

DEMO = "runs/demo"
"""Where `make demo` and `earlyfusion demo` write."""

DESCRIPTION = """\
Pixels and words become one token stream, one transformer learns it, and the same
transformer writes both back.

commands:
  demo               from nothing to a model, its samples and a report
  text-tokenizer     fit: a sentencepiece BPE on your texts
  text-images        rendered images of text with their boxes, to train on
  image-tokenizer    fit, validate, test, predict: the VQ-VAE; encode, decode, import
  recogniser         fit, validate: the network behind the text-aware loss
  prepare            documents of text and images -> packed windows of tokens
  lm                 fit, validate, test, predict: the transformer
  sample             continue a prompt of texts and images
  info               what a tokenizer or model folder is
  eval               reconstruction, reading, writing: how much survives, measured"""

EPILOG = """\
examples:
  earlyfusion demo --out runs/demo
  earlyfusion sample --out runs/apple --then image "A red apple:"
  earlyfusion eval reconstruction runs/demo/model --out reconstruction.json

`earlyfusion COMMAND --help` tells more. A mistake gives one line and exit code 2;
EARLYFUSION_DEBUG=1 adds Python's traceback."""

STAGES = ("fit", "validate", "test", "predict")

LIGHTNING = {
    "image-tokenizer": """\
usage: earlyfusion image-tokenizer {fit,validate,test,predict} --config FILE [options]

Train the image tokenizer (a VQ-VAE), or run a trained one over images. A Lightning CLI:
every field of a config file is an option too. Configs to begin with: train/configs/.

  fit         train; writes checkpoints, logs, pictures and the tokenizer folder
  validate    reconstruct the validation images and print the errors
  test        the same as validate, logged as test
  predict     images -> codes and reconstructions, as files

examples:
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --data.train=my/images
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --model.config.codebook_size=4096
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --ckpt_path=last   # go on

`earlyfusion image-tokenizer fit --help` lists the options (it loads Lightning: some seconds).""",
    "lm": """\
usage: earlyfusion lm {fit,validate,test,predict} --config FILE [options]

Train the transformer on the windows of `earlyfusion prepare`, or measure a trained one. A
Lightning CLI: every field of a config file is an option too. Configs to begin with:
train/configs/.

  fit         train; writes checkpoints, logs, samples and the model folder
  validate    print the losses on the validation windows, by modality
  test        the same as validate, logged as test
  predict     losses of every token of the validation windows, as files

examples:
  earlyfusion lm fit --config lm.yaml --data.path=runs/tokens
  earlyfusion lm fit --config lm.yaml --trainer.max_steps=20000
  earlyfusion lm fit --config lm.yaml --ckpt_path=last                             # go on

`earlyfusion lm fit --help` lists the options (it loads Lightning: some seconds).""",
}
"""Commands whose options Lightning reads, with their help."""


class UsageError(Exception):
    """A command line that cannot be understood."""


class Parser(argparse.ArgumentParser):
    """Tells a mistake as one line, and keeps the line breaks of descriptions."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raises UsageError, which names the command to ask for help."""
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def build_parser() -> Parser:
    """The commands but those of LIGHTNING. Parsed arguments have a `run`, to be called with them."""
    parser = Parser(
        prog="earlyfusion", usage="earlyfusion COMMAND ...", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", help=argparse.SUPPRESS, prog="earlyfusion"
    )
    for add in (
        _add_demo,
        _add_text_tokenizer,
        _add_text_images,
        _add_prepare,
        _add_sample,
        _add_info,
        _add_eval,
    ):
        add(commands)
    return parser


def sub_commands(parser: argparse.ArgumentParser) -> list[str]:
    """The names of a parser's sub-commands."""
    return [n for a in parser._actions if isinstance(a, argparse._SubParsersAction) for n in a.choices]


def _add(commands: Any, name: str, description: str, examples: str = "", run: Any = None) -> Parser:
    """A sub-command whose help shows `description` and `examples`."""
    epilog = f"examples:\n{examples}" if examples else None
    parser = commands.add_parser(name, description=description, epilog=epilog)
    parser.set_defaults(run=run)
    return parser


def number(text: str) -> int:
    """A whole number above 0. (argparse names this function in its message: "invalid number value: '0'".)"""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _add_demo(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from .cpu import tune_malloc

        tune_malloc()
        from .demo import run

        run(args.out, seed=args.seed, budget=args.budget)

    parser = _add(
        commands,
        "demo",
        """\
Train a text tokenizer, an image tokenizer and one transformer from nothing, on OpenMoji
pictures and rendered words; measure them on held-out words, fonts and pictures; write
samples and OUT/report.html, one self-contained file.

About ten minutes on two CPU cores. It can be interrupted: the same command goes on.
Needs the extra `demo`.""",
        """\
  earlyfusion demo --out runs/demo
  earlyfusion demo --out runs/quick --budget quick     # minutes: to see that all of it works
  earlyfusion sample --model runs/demo/model --out runs/apple --then image "A red apple:\"""",
        run,
    )
    parser.add_argument("--out", metavar="DIR", default=DEMO, help="folder of the run (default: %(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument(
        "--budget", choices=("quick", "full"), default="full", help="how long to train (default: %(default)s)"
    )


def _add_text_tokenizer(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from .text_tokenizer import fit

        fit(args)

    group = _add(
        commands, "text-tokenizer", "The text tokenizer. It has one command, `fit`, which trains it."
    )
    parser = _add(
        group.add_subparsers(dest="stage", metavar="fit", required=True),
        "fit",
        """\
Train a sentencepiece BPE with byte fallback, which gives back every Unicode text exactly.
Writes OUT/text.model.""",
        """\
  earlyfusion text-tokenizer fit --input books/*.txt --vocab-size 8000 --out runs/text
  earlyfusion text-tokenizer fit --input captions.parquet --column caption \\
      --vocab-size 4000 --out runs/text""",
        run,
    )
    parser.add_argument(
        "--input",
        metavar="FILE",
        nargs="+",
        required=True,
        help="text files, each line a text; .jsonl, .json, .csv, .parquet files; folders of `datasets`",
    )
    parser.add_argument(
        "--vocab-size", metavar="N", type=number, required=True, help="pieces at most, 256 bytes included"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--column", metavar="NAME", default="text", help="column or key of the texts (default: %(default)s)"
    )
    parser.add_argument(
        "--character-coverage",
        metavar="SHARE",
        type=float,
        default=0.9995,
        help="share of the running characters that get a piece, the rest is bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--max-piece-length",
        metavar="N",
        type=number,
        default=16,
        help="characters of a piece at most; 1: single characters (default: %(default)s)",
    )


def size(text: str) -> tuple[int, int] | None:
    """HEIGHTxWIDTH in pixels, or "fit". (argparse names this function in its message.)"""
    if text == "fit":
        return None
    height, width = map(number, text.split("x"))
    return height, width


def span(text: str) -> tuple[int, int]:
    """SMALLEST-LARGEST, or one number for both. (argparse names this function in its message.)"""
    first, _, last = text.partition("-")
    return number(first), number(last or first)


def names(text: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in text.split(",")]


def _add_text_images(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from .text_images import run

        run(args)

    parser = _add(
        commands,
        "text-images",
        """\
Render images of text in twenty faces, with the texts and their boxes: a data set for
`image-tokenizer fit` and `recogniser fit`. No held-out word, random string or font of
`earlyfusion eval` is in it. Writes OUT/train and OUT/validation, which shows other words.
Needs the extra `demo`.

kinds: word, random (one string), line, page, receipt, table; and any of these in a special
style: colour, inverted, rotated.""",
        """\
  earlyfusion text-images --out runs/text-images
  earlyfusion text-images --kinds page,receipt,colour --count 5000 --size 256x256 \\
      --type-sizes 10-20 --out runs/pages""",
        run,
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--kinds",
        metavar="KINDS",
        type=names,
        default=["word", "random", "line"],
        help="names between commas, which take turns (default: word,random,line)",
    )
    parser.add_argument(
        "--count", metavar="N", type=number, default=20_000, help="training images (default: %(default)s)"
    )
    parser.add_argument(
        "--validation",
        metavar="N",
        type=int,
        default=500,
        help="validation images; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        type=size,
        default=(32, 128),
        help="height and width in pixels, or `fit`: as large as the text needs (default: 32x128)",
    )
    parser.add_argument(
        "--type-sizes",
        metavar="A-B",
        type=span,
        default=(12, 28),
        help="smallest and largest type, pixels per em (default: 12-28)",
    )
    parser.add_argument(
        "--multiple",
        metavar="N",
        type=number,
        default=16,
        help="sides are multiples of it (default: %(default)s)",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of all that is drawn (default: 0)")


def _add_prepare(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from .prepare import run

        run(args.config)

    parser = _add(
        commands,
        "prepare",
        """\
Turn documents of text and images into packed, memory-mapped windows of tokens, which
`earlyfusion lm fit` reads. The config names the tokenizers, where the documents are
(imagefolder, webdataset, parquet, ...; an image and a text column, or parallel lists) and
where to write. Configs to begin with: train/configs/prepare*.yaml.""",
        "  earlyfusion prepare --config prepare.yaml",
        run,
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="a YAML file")


def _add_sample(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from .sample import sample

        sample(args)

    parser = _add(
        commands,
        "sample",
        """\
Continue a prompt of texts and images. Segments are taken in order and stand together: an
existing image file, or anything that ends in an image suffix, is an image; all else is
text. Without a segment the model begins a document of its own. A text that begins with a
dash goes behind `--`.

Writes sample.json, the images as PNG, and index.html to look at. sample.json holds
{"segments": [{"type": "text", "text": ...}, {"type": "image", "file": ...}]}, prompt and
continuation. With --n above 1 each sample has a folder of its own: OUT/1, OUT/2, ...""",
        """\
  earlyfusion sample --out runs/apple --then image "A red apple:"
  earlyfusion sample --out runs/read --then text word.png
  earlyfusion sample --model runs/mine/model --out runs/cats --n 4 --seed 7 cat.png "This is\"""",
        run,
    )
    parser.add_argument("segments", metavar="SEGMENT", nargs="*", help="a text or an image file")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--model", metavar="DIR", default=f"{DEMO}/model", help="model folder (default: %(default)s)"
    )
    parser.add_argument(
        "--then",
        choices=("text", "image", "any"),
        default="any",
        help="what comes next; any leaves it to the model (default: %(default)s)",
    )
    parser.add_argument("--n", metavar="N", type=number, default=1, help="samples, in one batch (default: 1)")
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="same seed, prompt and n: same samples (default: 0)"
    )
    parser.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=number,
        help="tokens to add at most (default: the context's rest)",
    )
    for prefix, what in (("", "text"), ("image-", "images")):
        parser.add_argument(
            f"--{prefix}temperature",
            metavar="T",
            type=float,
            default=1.0,
            help=f"of {what}; 0 takes the most likely token (default: 1)",
        )
        parser.add_argument(
            f"--{prefix}top-k",
            metavar="K",
            type=int,
            default=0,
            help=f"of {what}: draw from the K most likely tokens (default: 0, all)",
        )
        parser.add_argument(
            f"--{prefix}top-p",
            metavar="P",
            type=float,
            default=1.0,
            help=f"of {what}: draw from the likeliest that reach probability P (default: 1, all)",
        )


def _add_info(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from .folders import info

        info(args)

    parser = _add(
        commands,
        "info",
        "Say in a few lines what a folder is: an image, text or document tokenizer, or a model.",
        "  earlyfusion info runs/demo/model",
        run,
    )
    parser.add_argument("folder", metavar="FOLDER", help="a folder that another command wrote")


def _add_eval(commands: Any) -> None:
    group = _add(
        commands,
        "eval",
        """\
Measure, print a table and write JSON.

  reconstruction    how much of images, and of the text in them, survives the tokenizer
  reading           image of a word -> its letters, by the model
  writing           word -> image, by the model, read by OCR engines""",
        """\
  earlyfusion eval reconstruction runs/demo/model --out reconstruction.json
  earlyfusion eval reading --help""",
    )
    kinds = group.add_subparsers(dest="what", metavar="{reconstruction,reading,writing}", required=True)
    images: Option = (
        "--images",
        "DIR",
        "imagefolder: images, and metadata.jsonl with file_name and text",
    )
    _add_measurement(
        kinds,
        "reconstruction",
        """\
Encode and decode images and compare: L1, MSE, PSNR, SSIM, codebook usage, bits per pixel;
where the texts in the images are known and the extra `ocr` is installed, also what OCR
engines read before and after (T-ACC, T-NED, CER, by text size). Without --images: held-out
words and random strings in held-out fonts (extra `demo`).""",
        """\
  earlyfusion eval reconstruction runs/demo/model --out reconstruction.json
  earlyfusion eval reconstruction runs/image-tokenizer --images photos --out photos.json""",
        ("MODEL_OR_TOKENIZER", "a model folder, or any tokenizer folder that holds an image tokenizer"),
        images,
    )
    _add_measurement(
        kinds,
        "reading",
        """\
Show the model images of words and let it write the letters, greedily: exact match and
character error rate. Without --images: the built-in held-out words (extra `demo`).""",
        """\
  earlyfusion eval reading runs/demo/model --out reading.json
  earlyfusion eval reading runs/demo/model --images words --out words.json""",
        ("MODEL", "model folder"),
        images,
    )
    _add_measurement(
        kinds,
        "writing",
        """\
Let the model write words as images and OCR engines read them: exact match and character
error rate. Needs the extra `ocr`. Without --words: the built-in held-out words (extra
`demo`).""",
        """\
  earlyfusion eval writing runs/demo/model --out writing.json
  earlyfusion eval writing runs/demo/model --words names.jsonl --out names.json""",
        ("MODEL", "model folder"),
        ("--words", "FILE", 'JSON lines with "text"'),
    )


Option = tuple[str, str, str]
"""Flag, metavar, help."""


def _add_measurement(
    kinds: Any, name: str, description: str, examples: str, model: tuple[str, str], data: Option
) -> None:
    def run(args: Namespace) -> None:
        from ..eval import commands

        measure: Callable[[Namespace], None] = getattr(commands, name)
        measure(args)

    parser = _add(kinds, name, description, examples, run)
    parser.add_argument("model", metavar=model[0], help=model[1])
    parser.add_argument(data[0], metavar=data[1], help=data[2])
    parser.add_argument("--out", metavar="FILE", required=True, help="JSON file to write")
    parser.add_argument("--limit", metavar="N", type=number, help="take the first N (default: all)")
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of the built-in words and of sampling (default: 0)"
    )
