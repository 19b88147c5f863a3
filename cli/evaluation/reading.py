"""``earlyfusion eval reading``: the model reads images of words."""

from argparse import Namespace
from typing import Any

from ..results import writes
from ..terminal import check_out, positive_integer
from .measurement import IMAGES, add_heights, add_measurement, finish, folder_items, held_out_words, or_give


def add(kinds: Any) -> None:
    parser = add_measurement(
        kinds,
        "reading",
        "have the model read images of words",
        """\
Have the model read images of words, greedily; reports exact matches and character error
rate. Without --images it reads the built-in held-out words (extra `demo`). With --views N it
reads N views of each image, shifted by one pixel each, greedily and three times by sampling;
the reading that agrees best with all views, in both directions, wins.""",
        """\
  earlyfusion eval reading runs/demo/model --out reading.json
  earlyfusion eval reading runs/demo/model --images words --heights 16 --out words.json""",
        run,
    )
    parser.add_argument("--images", metavar="DIR", help=IMAGES)
    add_heights(parser, "; also scales the images of --images to the nearest height")
    parser.add_argument(
        "--views",
        metavar="N",
        type=positive_integer,
        default=1,
        help="number of shifted views per image (default: 1)",
    )


@writes(inputs=("model", "images"))
def run(args: Namespace) -> None:
    check_out(args.out)
    from ...eval.items import scaled
    from ...eval.report.tables import reading_table
    from ...eval.tasks.reading import evaluate_reading
    from ...tokenizers.progress import progress_bars
    from ..models import load_generating

    model, tokenizer = load_generating(args.model)
    if args.images is None:
        with or_give("--images DIR"):
            items, source = held_out_words(args)
        source |= {"skipped": [], "images_skipped": 0}
    else:
        items, source = folder_items(args)
        if args.heights:
            items = [scaled(item, args.heights) for item in items]
    with progress_bars() as progress:
        result = evaluate_reading(
            model, tokenizer, items, views=args.views, seed=args.seed, progress=progress
        )
    result["skipped"] = source["skipped"] + result["skipped"]
    finish(args, {**source, **result}, reading_table(result))
