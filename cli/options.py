"""What each command of `earlyfusion` is called with, and its help.

Standard library alone: a command's implementation is imported in its `run`, when it runs.
"""

import argparse
from argparse import Namespace
from typing import Any

from ..tokenizers.hub import PRETRAINED
from ..train.loop.trainables import IMAGE_TOKENIZER, LM, RECOGNIZER, TRAINABLES
from .chameleon import add_chameleon
from .eval_options import add_eval
from .image_options import CODES, add_codes, add_text_images
from .terminal import Parser, UsageError, add, add_best_of, box, number, sub_commands

__all__ = ["UsageError", "build_parser", "for_lightning", "sub_commands"]

DEMO = "runs/demo"
"""Where `make demo` and `earlyfusion demo` write."""

DESCRIPTION = f"""\
Pixels and words become one token stream, one transformer learns it, and the same
transformer writes both back.

commands:
  demo               from nothing to a model, its samples and a report
  text-tokenizer     fit: a sentencepiece BPE on your texts
  text-images        rendered images of text with their boxes, to train on
  image-tokenizer    {IMAGE_TOKENIZER.summary}
  recognizer         {RECOGNIZER.summary}
  prepare            documents of text and images -> packed windows of tokens
  lm                 {LM.summary}
  sample             continue a prompt of texts and images
  playground         a page in the browser: compose, look at tokens, compare tokenizers
  import, export     chameleon: models of transformers and of Meta, and for them
  info               what a tokenizer or model folder is
  eval               reconstruction, reading, writing, lm: how much survives, measured"""

EPILOG = """\
examples:
  earlyfusion demo --out runs/demo
  earlyfusion sample --out runs/apple --then image "A red apple:"
  earlyfusion eval reconstruction runs/demo/model --out reconstruction.json

`earlyfusion COMMAND --help` tells more. A mistake gives one line and exit code 2;
EARLYFUSION_DEBUG=1 adds Python's traceback."""


def for_lightning(argv: list[str]) -> bool:
    """Whether Lightning reads this command's options, and not `build_parser`."""
    return (
        bool(argv)
        and argv[0] in TRAINABLES
        and not (argv[0] == CODES[0] and argv[1:2] and argv[1] in CODES[1])
    )


def build_parser() -> Parser:
    """The commands but those of TRAINABLES. Parsed arguments have a `run`, to be called with them."""
    parser = Parser(
        prog="earlyfusion", usage="earlyfusion COMMAND ...", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", help=argparse.SUPPRESS, prog="earlyfusion"
    )
    for add_command in (
        add_chameleon,
        _add_demo,
        _add_text_tokenizer,
        add_text_images,
        add_codes,
        _add_prepare,
        _add_sample,
        _add_playground,
        _add_info,
        add_eval,
    ):
        add_command(commands)
    return parser


def _add_demo(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from ..train.loop.process import tune_malloc

        tune_malloc()
        from ..train.demo.run import run

        run(args.out, seed=args.seed, budget=args.budget)

    parser = add(
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
        "--budget",
        choices=("quick", "full", "long"),
        default="full",
        help="how long to train; long: hours, as the model that ships (default: %(default)s)",
    )


def _add_text_tokenizer(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from ..data.text_corpus import fit

        fit(args)

    group = add(commands, "text-tokenizer", "The text tokenizer. It has one command, `fit`, which trains it.")
    parser = add(
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


def _add_prepare(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from ..data.prepare import run

        run(args.config, args.jobs, args.engine)

    parser = add(
        commands,
        "prepare",
        """\
Turn documents of text and images into packed, memory-mapped windows of tokens, which
`earlyfusion lm fit` reads. The config names the tokenizers, where the documents are
(imagefolder, webdataset, parquet, ...; an image and a text column, or parallel lists) and
where to write. A run that was stopped goes on where it was. Configs to begin with:
train/configs/prepare*.yaml.""",
        "  earlyfusion prepare --config prepare.yaml",
        run,
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="a YAML file")
    parser.add_argument(
        "--jobs",
        type=number,
        default=1,
        help="processes, each with its image tokenizer (default: %(default)s)",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where they run: this machine, or the Ray cluster that ray.init() finds (extra: ray; folders "
        "must be the same on all its machines)",
    )


def _add_sample(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from .sample import sample

        sample(args)

    parser = add(
        commands,
        "sample",
        """\
Continue a prompt of texts and images. Segments are taken in order and stand together: an
existing image file, or anything that ends in an image suffix, is an image; all else is
text. Without a segment the model begins a document of its own. A text that begins with a
dash goes behind `--`.

Writes sample.json, the images as PNG, and index.html to look at. sample.json holds
{"segments": [{"type": "text", "text": ...}, {"type": "image", "file": ...}]}, prompt and
continuation. With --n above 1 "samples" lists all of them. A single document is printed as
it comes. Ctrl+C keeps what is written so far.""",
        """\
  earlyfusion sample --out runs/apple --then image "A red apple:"
  earlyfusion sample --out runs/read --then text word.png
  earlyfusion sample --model runs/mine/model --out runs/cats --n 4 --seed 7 cat.png "This is\"""",
        run,
    )
    parser.add_argument("segments", metavar="SEGMENT", nargs="*", help="a text or an image file")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--model",
        metavar="DIR",
        default=str(PRETRAINED),
        help="model folder, or a name on the Hugging Face Hub (default: the one in the package)",
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "float32", "float16", "bfloat16", "int8"),
        default="auto",
        help="numbers that the transformer's weights are kept in: fewer bits are read faster, auto loses "
        "nothing (default: %(default)s)",
    )
    parser.add_argument(
        "--answer",
        action="store_true",
        help="the prompt is a turn of a conversation, and the model, trained on `messages`, answers it",
    )
    parser.add_argument(
        "--then",
        choices=("text", "image", "any"),
        default="any",
        help="what comes next; any leaves it to the model (default: %(default)s)",
    )
    parser.add_argument("--n", metavar="N", type=number, default=1, help="samples, in one batch (default: 1)")
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="of the first sample; the next ones have N + 1, ... (default: 0)",
    )
    add_best_of(parser, "sample")
    parser.add_argument(
        "--infill",
        metavar="BOX",
        type=box,
        help="draw a region of the prompt's last image anew: its left, top, right and bottom as parts of the "
        "image between commas, such as 0.25,0.25,0.75,0.75; of --best-of drawings for each sample "
        "the likeliest are kept",
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
        parser.add_argument(
            f"--{prefix}min-p",
            metavar="P",
            type=float,
            default=0.0,
            help=f"of {what}: draw from those at least P times as likely as the best one (default: 0, all)",
        )
    parser.add_argument(
        "--repetition-penalty",
        metavar="F",
        type=float,
        default=1.0,
        help="above 1: text that stands in the document becomes less likely (default: 1)",
    )
    parser.add_argument(
        "--guidance",
        metavar="S",
        type=float,
        default=1.0,
        help="of images, classifier-free, by what stands before them; twice the work (default: 1, none)",
    )
    parser.add_argument(
        "--image-guidance",
        metavar="S",
        type=float,
        help="of images, by the images before them; --guidance is then the texts'; three times the work",
    )
    parser.add_argument(
        "--negative", metavar="TEXT", help="what guidance leads the images away from (default: nothing)"
    )


def _add_playground(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from .playground import playground

        playground(args)

    parser = add(
        commands,
        "playground",
        """\
A page in the browser: compose prompts of text and pictures and watch the answers come, look
at their tokens and the codebook, pass pictures through image tokenizers, watch trainings.
It answers this machine alone unless --host says otherwise, and keeps nothing that is sent.
Needs the extra: pip install 'earlyfusion[playground]'""",
        """\
  earlyfusion playground
  earlyfusion playground runs/demo/model --tokenizer pretrained/openmoji-words""",
        run,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=str(PRETRAINED),
        help="model folder, or a name on the Hugging Face Hub (default: the one in the package)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        action="append",
        default=[],
        help="another image tokenizer or model to reconstruct pictures with; may be given more than once",
    )
    parser.add_argument(
        "--runs",
        metavar="DIR",
        default="runs",
        help="where the folders of trainings lie whose curves are shown (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address to answer at; 0.0.0.0: every one of this machine, for everybody who can reach it "
        "(default: %(default)s)",
    )
    parser.add_argument("--port", metavar="N", type=number, default=7860, help="(default: %(default)s)")


def _add_info(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from .info import info

        info(args)

    parser = add(
        commands,
        "info",
        "Say in a few lines what a folder is: an image, text or document tokenizer, or a model.",
        "  earlyfusion info runs/demo/model",
        run,
    )
    parser.add_argument("folder", metavar="FOLDER", help="a folder that another command wrote")
