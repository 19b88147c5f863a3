"""``earlyfusion eval lm``: everything a model of words and pictures can do."""

from argparse import Namespace
from typing import Any

from ..results import writes
from ..terminal import best_device, check_out, positive_integer, tell
from .measurement import add_heights, add_measurement, finish


def add(kinds: Any) -> None:
    parser = add_measurement(
        kinds,
        "lm",
        "everything a model of words and pictures can do, at once",
        """\
Measure everything a model of words and pictures can do, on what the demo holds out (extra
`demo`): bits per byte and pixel; reading, in training fonts and held-out ones, in one view
and in three; writing, read by OCR engines (extra `ocr`), greedily, and the best of eight
with guidance; naming pictures at sizes and places that no training picture has, known
things and held-out ones, beside the name of the nearest known picture; drawing known
things, scored by whether the nearest picture is theirs; and whether sampled sequences are
documents, with the grammar and without it.""",
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
        help="documents sampled from nothing, and a tenth as many without the grammar (default: %(default)s)",
    )
    parser.add_argument("--sheet", metavar="FILE", help="write what was read, written, named, drawn: .html")


@writes(inputs=("model",), more=("sheet",))
def run(args: Namespace) -> None:
    check_out(args.out)
    if args.sheet is not None:
        check_out(args.sheet, "--sheet", "an HTML file")
    from ...data.render.fonts import STRIP_HEIGHT
    from ...eval.metrics.ocr import INSTALL, readers
    from ...eval.report.lm_page import lm_page
    from ...eval.report.tables import lm_tables
    from ...eval.tasks.everything import evaluate_lm
    from ...fusion_lm.folder import load_model
    from ...tokenizers.files import write_text
    from ...tokenizers.progress import progress_bars

    model, tokenizer = load_model(args.model, best_device())
    heights = args.heights or (STRIP_HEIGHT,)
    judges = readers()
    if not judges:
        tell(f"what is written is not read: {INSTALL}")
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
