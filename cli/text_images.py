"""``earlyfusion text-images``: renders images of text to train on."""

import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from .results import add_out, writes
from .terminal import add_command, given, integer, names, positive_integer, size, span


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "text-images",
        "render images of text, with boxes, to train on",
        """\
Render images of text in twenty faces, with the texts and their boxes: a data set for
`image-tokenizer fit` and `recognizer fit`. It excludes the held-out words, random strings and
fonts of `earlyfusion eval`. Writes OUT/train and, with other words, OUT/validation. Needs the
extra `demo`.

kinds: word, random (one string), line, page, receipt, table; colour, inverted and rotated show
any of these in that style.""",
        """\
  earlyfusion text-images --out runs/text-images
  earlyfusion text-images --kinds page,receipt,colour --count 5000 --size 256x256 \\
      --type-sizes 10-20 --out runs/pages""",
        run,
    )
    add_out(parser)
    parser.add_argument(
        "--kinds",
        metavar="KINDS",
        type=names,
        help="comma-separated kinds, used in turn (default: word,random,line)",
    )
    parser.add_argument(
        "--count", metavar="N", type=positive_integer, help="number of training images (default: 20000)"
    )
    parser.add_argument(
        "--validation", metavar="N", type=integer, help="number of validation images (default: 500)"
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        type=size,
        default=(32, 128),
        help="height and width in pixels, or `fit` for the size that the text needs (default: 32x128)",
    )
    parser.add_argument(
        "--type-sizes",
        metavar="A-B",
        type=span,
        help="smallest and largest type size, in pixels per em (default: 12-28)",
    )
    parser.add_argument(
        "--multiple",
        metavar="N",
        type=positive_integer,
        help="make sides multiples of N pixels (default: 16)",
    )
    parser.add_argument("--seed", metavar="N", type=integer, help="random seed (default: 0)")


@writes(holds=("dataset_dict.json", "train", "validation"))
def run(args: Namespace) -> None:
    from ..data.render.text_images import VALIDATION, TextImagesConfig, write_text_images
    from ..tokenizers.progress import progress_bars, suggest

    fields = given(args, ("kinds", "count", "validation", "type_sizes", "multiple", "seed"))
    config = TextImagesConfig(size=args.size, **fields)
    with progress_bars() as progress:
        counts = write_text_images(args.out, config, progress)
    print(f"{args.out}: {', '.join(f'{count:,} {part}' for part, count in counts.items())} images")
    if VALIDATION in counts:
        train, validation = (shlex.quote(str(path)) for path in (args.out, Path(args.out) / VALIDATION))
        options = f"--data.train={train} --data.validation={validation}"
        suggest(f"earlyfusion image-tokenizer fit --config image_tokenizer {options}")
