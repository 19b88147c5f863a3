"""The options of `earlyfusion text-images` and of `earlyfusion image-tokenizer encode | decode | import`."""

from argparse import Namespace
from typing import Any

from .terminal import add, names, number, size, span

CODES = ("image-tokenizer", ("encode", "decode", "import"))
"""The command, and those of its sub-commands that do not go to Lightning."""


def add_text_images(commands: Any) -> None:
    def run(args: Namespace) -> None:
        from ..data.render.text_images import run

        run(args)

    parser = add(
        commands,
        "text-images",
        """\
Render images of text in twenty faces, with the texts and their boxes: a data set for
`image-tokenizer fit` and `recognizer fit`. No held-out word, random string or font of
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


def add_codes(commands: Any) -> None:
    """`encode`, `decode` and `import`, beside the stages that Lightning reads."""
    command, kinds = CODES
    group = add(commands, command, "The image tokenizer.").add_subparsers(
        dest="stage", metavar=f"{{{','.join(kinds)}}}", required=True
    )

    def encode(args: Namespace) -> None:
        from ..data.codes import encode

        encode(args)

    parser = add(
        group,
        "encode",
        """\
Turn pictures into codes: for each, OUT/NAME.npz with the codes and the picture's size, in
the smallest numbers that hold them. What is encoded already is passed over, so the command
can be interrupted and called again; what cannot be read is skipped, told and counted.""",
        """\
  earlyfusion image-tokenizer encode photos --model runs/demo/model --out codes
  earlyfusion image-tokenizer decode codes --model runs/demo/model --out photos-again""",
        encode,
    )
    parser.add_argument("images", metavar="IMAGES", help="a folder with all below it, or one image file")
    _add_codes_options(parser)

    def decode(args: Namespace) -> None:
        from ..data.codes import decode

        decode(args)

    parser = add(
        group,
        "decode",
        """\
Turn the codes of `encode` into pictures, PNG in their first size. The tokenizer must be the
one that encoded them.""",
        "  earlyfusion image-tokenizer decode codes --model runs/demo/model --out photos-again",
        decode,
    )
    parser.add_argument("codes", metavar="CODES", help="the folder that encode wrote, or one of its .npz")
    _add_codes_options(parser)

    def import_(args: Namespace) -> None:
        from ..data.codes import import_checkpoint

        import_checkpoint(args)

    parser = add(
        group,
        "import",
        """\
Turn a VQ checkpoint in the layout of taming-transformers (VQGAN, and what keeps to it) into
a tokenizer folder, to measure it with `earlyfusion eval reconstruction`, or to use it.""",
        "  earlyfusion image-tokenizer import vqgan.ckpt --out runs/vqgan",
        import_,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint file")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")


def _add_codes_options(parser: Any) -> None:
    parser.add_argument(
        "--model", metavar="DIR", required=True, help="folder of an image tokenizer, or of a model with one"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--tile",
        metavar="PIXELS",
        type=number,
        default=1024,
        help="pictures with a longer side are taken in tiles of so many pixels (default: %(default)s)",
    )
