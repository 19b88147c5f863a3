"""``earlyfusion eval lm``: all measurements of a model of words and pictures."""

from argparse import Namespace
from typing import Any

from ..results import writes
from ..terminal import best_device, check_out, positive_integer, tell
from .measurement import add_heights, add_measurement, finish


def add(kinds: Any) -> None:
    parser = add_measurement(
        kinds,
        "lm",
        "run all measurements of a model of words and pictures",
        """\
Run all measurements of a model of words and pictures, on what the demo holds out (extra
`demo`):
bits      per byte of text and per pixel
reading   words in training fonts and in held-out ones, in one view and in three
writing   words, read back by OCR (extra `ocr`), greedily, and the best of eight with guidance
naming    known and held-out things, at new sizes and places, compared with the nearest known
          picture's name
drawing   known things; correct if the nearest training picture shows the same thing
grammar   whether sampled sequences are valid documents, with the grammar and without""",
        """\
  earlyfusion eval lm runs/demo/model --out lm.json --sheet lm.html
  earlyfusion eval lm runs/demo/model --limit 50 --sequences 200 --out quick.json""",
        run,
    )
    add_heights(parser)
    parser.add_argument(
        "--sequences",
        metavar="N",
        type=positive_integer,
        default=10_000,
        help="documents to sample without a prompt; a tenth as many without grammar (default: %(default)s)",
    )
    parser.add_argument(
        "--sheet", metavar="FILE", help="also write what was read, written, named and drawn, as .html"
    )


@writes(inputs=("model",), more=("sheet",))
def run(args: Namespace) -> None:
    check_out(args.out)
    if args.sheet is not None:
        check_out(args.sheet, "--sheet", "an HTML file")
    from ...data.render.fonts import STRIP_HEIGHT
    from ...eval.metrics.ocr import INSTALL, readers
    from ...eval.report.lm_page import lm_page
    from ...eval.report.page.tables import lm_tables
    from ...eval.tasks.everything import evaluate_lm
    from ...fusion_lm.folder import load_model
    from ...storage.files import write_text
    from ...tokenizers.progress import progress_bars

    model, tokenizer = load_model(args.model, best_device())
    heights = args.heights or (STRIP_HEIGHT,)
    judges = readers()
    if not judges:
        tell(f"writing is not measured: {INSTALL}")
    with progress_bars() as progress:
        measured = evaluate_lm(
            model,
            tokenizer,
            judges,
            heights=heights,
            limit=args.limit,
            sequences=args.sequences,
            seed=args.seed,
            progress=progress,
        )
    if args.sheet is not None:
        write_text(args.sheet, lm_page(measured, f"What {args.model} reads, writes, names and draws"))
    about = {"kind": "lm", "seed": args.seed, "heights": heights}
    finish(args, {**about, **measured.figures}, *lm_tables(measured.figures))
    if args.sheet is not None:
        print(f"sheet written to {args.sheet}")
