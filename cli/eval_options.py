"""The options of `earlyfusion eval`."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from .terminal import Parser, add, add_best_of, names, number, numbers


def add_eval(commands: Any) -> None:
    group = add(
        commands,
        "eval",
        """\
Measure, print a table and write JSON.

  reconstruction    how much of images, and of the text in them, survives the tokenizer
  reading           image of a word -> its letters, by the model
  writing           word -> image, by the model, read by OCR engines
  lm                all that a model of words and pictures can do, at once""",
        """\
  earlyfusion eval reconstruction runs/demo/model --out reconstruction.json
  earlyfusion eval reading --help""",
    )
    kinds = group.add_subparsers(dest="what", metavar="{reconstruction,reading,writing,lm}", required=True)
    images: Option = (
        "--images",
        "DIR",
        "imagefolder: images, and metadata.jsonl with file_name and text",
    )
    parser = _add_measurement(
        kinds,
        "reconstruction",
        """\
Encode and decode images and compare: L1, MSE, PSNR, SSIM, codebook usage, bits per pixel;
where the texts in the images are known and the extra `ocr` is installed, also what OCR
engines read before and after (T-ACC, T-NED, CER, by text size), and what they read in
JPEG, WebP and scaled-down images of equal bits.

Without --images, a built-in suite (--suite), of held-out words in held-out fonts, or of
held-out pictures (extra `demo`):
words     words and random strings, black on white, on strips 16 px high
words64   the same on strips of 32 x 128 px
ocr       words, random strings, lines, pages, receipts, tables, in colour, light on dark,
          rotated; --kinds chooses among them
openmoji  drawings on 64 x 64 px, of things that the demo holds out of its training
scans     photographed print (extra `scans`)

With --images, metadata.jsonl has a line for each image: {"file_name": "a.png", "text": "..."},
or, where texts have places, "objects": {"bbox": [[x, y, width, height], ...], "text": [...]}.""",
        """\
  earlyfusion eval reconstruction runs/demo/model --out reconstruction.json
  earlyfusion eval reconstruction runs/demo/model --suite ocr --kinds line,page \\
      --sheet sheet.html --out ocr.json
  earlyfusion eval reconstruction runs/image-tokenizer --images photos --out photos.json""",
        ("MODEL_OR_TOKENIZER", "a model folder, or any tokenizer folder that holds an image tokenizer"),
        images,
    )
    _add_reconstruction(parser)
    parser = _add_measurement(
        kinds,
        "reading",
        """\
Show the model images of words and let it write the letters, greedily: exact match and
character error rate. Without --images: the built-in held-out words (extra `demo`). With
--views each image is read in several, moved by a pixel each, greedily and three times by
sampling, and of what is read that is taken which goes best with all of them, both ways.""",
        """\
  earlyfusion eval reading runs/demo/model --out reading.json
  earlyfusion eval reading runs/demo/model --images words --heights 16 --out words.json""",
        ("MODEL", "model folder"),
        images,
    )
    _add_heights(parser, "; images of --images are scaled to the nearest, if it is given")
    parser.add_argument(
        "--views", metavar="N", type=number, default=1, help="read each image in so many (default: 1)"
    )
    parser = _add_measurement(
        kinds,
        "writing",
        """\
Let the model write words as images and OCR engines read them: exact match and character
error rate. Needs the extra `ocr`. Without --words: the built-in held-out words (extra
`demo`).""",
        """\
  earlyfusion eval writing runs/demo/model --out writing.json
  earlyfusion eval writing runs/demo/model --temperature 0.5 --guidance 2 --best-of 8 \\
      --best-by both --out best.json
  earlyfusion eval writing runs/demo/model --words names.jsonl --out names.json""",
        ("MODEL", "model folder"),
        ("--words", "FILE", 'JSON lines with "text"'),
    )
    _add_heights(parser)
    parser.add_argument(
        "--temperature", metavar="T", type=float, default=0.0, help="0 takes the likeliest code (default: 0)"
    )
    parser.add_argument(
        "--guidance",
        metavar="S",
        type=float,
        default=1.0,
        help="classifier-free, by the word (default: 1, none)",
    )
    add_best_of(parser, "word")
    _add_readers(parser)
    parser = _add_measurement(
        kinds,
        "lm",
        """\
Measure all that a model of words and pictures can do, on what the demo holds out (extra
`demo`): bits per byte and pixel; reading, in training fonts and held-out ones, in one view
and in three; writing, read by OCR engines (extra `ocr`), greedily, and the best of eight
with guidance; naming pictures at sizes and places that no training picture
has, known things and held-out ones, beside the name of the nearest known picture; drawing
known things, by whether the nearest picture is theirs; and whether sampled sequences are
documents, under the grammar and without it.""",
        """\
  earlyfusion eval lm runs/demo/model --out lm.json --sheet lm.html
  earlyfusion eval lm runs/demo/model --limit 50 --sequences 200 --out quick.json""",
        ("MODEL", "model folder"),
    )
    _add_heights(parser)
    parser.add_argument(
        "--sequences", metavar="N", type=number, default=10_000,
        help="documents that are sampled from nothing, and a tenth as many without the grammar "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--sheet", metavar="FILE", help="write what was read, written, named, drawn: .html")


def _add_readers(parser: Parser) -> None:
    parser.add_argument(
        "--readers",
        metavar="NAMES",
        type=names,
        help="OCR engines, separated by commas: rapidocr, tesseract (default: all that are installed)",
    )


def _add_heights(parser: Parser, more: str = "") -> None:
    parser.add_argument(
        "--heights",
        metavar="N,N",
        type=numbers,
        default=None if more else (16,),
        help=f"pixels that the strips of the built-in words are high, drawn among these (default: 16){more}",
    )


def _add_reconstruction(parser: Parser) -> None:
    parser.add_argument(
        "--suite",
        choices=("words", "words64", "ocr", "openmoji", "scans"),
        default="words",
        help="images where --images names none (default: %(default)s)",
    )
    parser.add_argument(
        "--kinds", metavar="KINDS", type=names, help="of the suite ocr: names between commas (default: all)"
    )
    parser.add_argument(
        "--per-kind",
        metavar="N",
        type=number,
        default=40,
        help="images of each kind of ocr and words64, pages a quarter as many; pictures of openmoji, at most "
        "all 30 (default: %(default)s)",
    )
    _add_readers(parser)
    parser.add_argument(
        "--no-ceilings",
        dest="ceilings",
        action="store_false",
        help="leave out the JPEG, WebP and scaled-down images of equal bits",
    )
    parser.add_argument(
        "--sheet", metavar="FILE", help="write the pictures too, sorted from worst to best: .html or .png"
    )
    parser.add_argument(
        "--lpips-weights", metavar="FILE", help="a backbone's weights for LPIPS; without: left out"
    )
    parser.add_argument(
        "--fid-weights", metavar="FILE", help="Inception's weights for FID; without: left out"
    )


Option = tuple[str, str, str]
"""Flag, metavar, help."""


def _add_measurement(
    kinds: Any, name: str, description: str, examples: str, model: tuple[str, str], data: Option | None = None
) -> Parser:
    def run(args: Namespace) -> None:
        from . import evaluate as commands

        measure: Callable[[Namespace], None] = getattr(commands, name)
        measure(args)

    parser = add(kinds, name, description, examples, run)
    parser.add_argument("model", metavar=model[0], help=model[1])
    if data is not None:
        parser.add_argument(data[0], metavar=data[1], help=data[2])
    parser.add_argument("--out", metavar="FILE", required=True, help="JSON file to write")
    parser.add_argument("--limit", metavar="N", type=number, help="take the first N of each (default: all)")
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of the built-in words and of sampling (default: 0)"
    )
    return parser
