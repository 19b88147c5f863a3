"""``earlyfusion eval writing``: the model draws words, which OCR engines read."""

from argparse import Namespace
from typing import Any

from ..results import writes
from ..sampling import add_best_of
from ..terminal import check_out, real
from .measurement import add_heights, add_measurement, add_readers, finish, held_out_words, or_give


def add(kinds: Any) -> None:
    parser = add_measurement(
        kinds,
        "writing",
        "have the model draw words, and read them with OCR",
        """\
Have the model draw words, then read them back with OCR; reports exact matches and character
error rate. Needs the extra `ocr`. Without --words it draws the built-in held-out words (extra
`demo`).""",
        """\
  earlyfusion eval writing runs/demo/model --out writing.json
  earlyfusion eval writing runs/demo/model --temperature 0.5 --guidance 2 --best-of 8 \\
      --best-by both --out best.json
  earlyfusion eval writing runs/demo/model --words names.jsonl --out names.json""",
        run,
    )
    parser.add_argument("--words", metavar="FILE", help='JSON-lines file with a "text" per line')
    add_heights(parser)
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=real,
        default=0.0,
        help="sampling temperature; 0 = always the likeliest code (default: 0)",
    )
    parser.add_argument(
        "--guidance",
        metavar="S",
        type=real,
        default=1.0,
        help="classifier-free guidance by the word; 1 = off, doubles the time (default: 1)",
    )
    add_best_of(parser, "word")
    add_readers(parser)


@writes(inputs=("model", "words"))
def run(args: Namespace) -> None:
    check_out(args.out)
    from ...eval.items import Word, words_from_file
    from ...eval.metrics.ocr import INSTALL, readers

    judges = readers(args.readers)
    if not judges:
        raise ValueError(f"writing is measured by OCR, but {INSTALL}")
    if args.best_of > 1 and args.temperature == 0:
        raise ValueError(
            f"--best-of {args.best_of} draws the same picture each time at temperature 0: give "
            "--temperature, such as 0.5"
        )
    if args.words is None:
        with or_give("--words FILE"):
            originals, source = held_out_words(args)
        words = [Word(item.text or "", item.kind) for item in originals]
    else:
        originals, source = [], {"data": str(args.words)}
        words = words_from_file(args.words, limit=args.limit)
    from ...eval.report.tables import writing_table
    from ...eval.tasks.writing import evaluate_writing
    from ...fusion_lm.guidance import Guidance
    from ...fusion_lm.sampling import Sampling
    from ...tokenizers.progress import progress_bars
    from ..models import load_generating

    model, tokenizer = load_generating(args.model)
    with progress_bars() as progress:
        result = evaluate_writing(
            model,
            tokenizer,
            words,
            judges,
            originals=originals,
            sampling=Sampling(args.temperature),
            guidance=Guidance(args.guidance),
            best_of=args.best_of,
            best_by=args.best_by,
            seed=args.seed,
            progress=progress,
        )
    finish(args, {**result, **source}, writing_table(result))
