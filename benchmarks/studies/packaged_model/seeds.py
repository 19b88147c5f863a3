"""How far the figures of the packaged model depend on the seed.

    python benchmarks/studies/packaged_model/seeds.py --threads 1

The seed chooses sizes and places of the pictures to name; fonts, sizes, heights and the random strings of
what is read and written; and the random numbers of drawings. The held-out words are the same with all seeds,
so what is written of them greedily does not depend on the seed. Each measurement is stored as soon as it is
finished, and the same command resumes.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from earlyfusion.benchmarks.speed.machine import commit, described_parser, write_figures
from earlyfusion.data.render.fonts import held_out_fonts, train_fonts
from earlyfusion.data.render.split import demo_concepts
from earlyfusion.eval.items import Item, Word
from earlyfusion.eval.metrics.ocr import readers
from earlyfusion.eval.suites import word_suite
from earlyfusion.eval.tasks.everything import BEST_BY, BEST_OF, GUIDANCE, SAMPLING, VIEWS
from earlyfusion.eval.tasks.naming import KNOWN, evaluate_naming, naming_items
from earlyfusion.eval.tasks.reading import evaluate_reading
from earlyfusion.eval.tasks.writing import evaluate_writing
from earlyfusion.fusion_lm.cpu.packed_weights import for_generation
from earlyfusion.fusion_lm.folder import Model, load_model
from earlyfusion.storage.files import read_json
from earlyfusion.storage.hub import PRETRAINED

HEIGHTS = (16, 24)
"""Heights of the images of words in px."""
Scores = dict[str, dict[str, float]]
"""{kind: {"items", "exact_match", ...}}"""


def naming(model: Model, seed: int, limit: int | None) -> Scores:
    items = [item for item in naming_items(seed) if item.kind == KNOWN][:limit]
    found = evaluate_naming(*model, items, demo_concepts().train)
    nearest = found["nearest"]["exact_match"]
    return {KNOWN: {"items": found["items"], "exact_match": found["exact_match"], "nearest": nearest}}


def reading(model: Model, seed: int, limit: int | None, held_out: bool = False, views: int = 1) -> Scores:
    return by_kind(evaluate_reading(*model, suite(seed, limit, held_out), views=views, seed=seed))


def writing(model: Model, seed: int, limit: int | None, **settings: Any) -> Scores:
    words = [Word(item.text or "", item.kind) for item in suite(seed, limit)]
    found = evaluate_writing(*model, words, readers(), seed=seed, **settings)
    if "tesseract" not in found["by_reader"]:
        return by_kind(found)
    second = by_kind(found["by_reader"]["tesseract"])
    return {kind: {**one, "tesseract": second[kind]["exact_match"]} for kind, one in by_kind(found).items()}


def suite(seed: int, limit: int | None, held_out: bool = False) -> list[Item]:
    """The words and random strings of ``earlyfusion eval lm``."""
    return word_suite(seed, fonts=held_out_fonts() if held_out else train_fonts(), heights=HEIGHTS)[:limit]


def by_kind(found: dict[str, Any]) -> Scores:
    names = ("items", "exact_match", "cer")
    return {kind: {name: one[name] for name in names} for kind, one in sorted(found["by_kind"].items())}


BEST = {"sampling": SAMPLING, "guidance": GUIDANCE, "best_of": BEST_OF, "best_by": BEST_BY}
PARTS: dict[str, Callable[[Model, int, int | None], Scores]] = {
    "naming": naming,
    "reading, training fonts": reading,
    "reading, held-out fonts": lambda *of: reading(*of, held_out=True),
    "writing, greedily": writing,
    "writing, best of eight": lambda *of: writing(*of, **BEST),
    "reading in three views, held-out fonts": lambda *of: reading(*of, held_out=True, views=VIEWS),
}


def main(arguments: list[str] | None = None) -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--model", type=Path, default=PRETRAINED, help="default: the package's")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("seeds.json"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--limit", type=int, help="use only the first N items (default: all)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's choice)")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = read_json(args.out, "measured figures")["rows"] if args.out.is_file() else []
    model = load_model(args.model)
    model = model._replace(lm=for_generation(model.lm, "auto"))
    for part in args.parts:
        for seed in args.seeds:
            what = {"part": part, "seed": seed, "limit": args.limit}
            if any(what.items() <= row.items() for row in rows):
                continue
            start, load = time.process_time(), os.getloadavg()[0]
            scores = PARTS[part](model, seed, args.limit)
            seconds = time.process_time() - start
            about = {"commit": commit(), "load": round(load, 2), "cpu_seconds": round(seconds, 1)}
            rows.append({**what, **about, "scores": scores})
            write_figures(args.out, {"heights": HEIGHTS, "rows": rows}, timed=False)
            print(f"{part}, seed {seed}: {scores} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
