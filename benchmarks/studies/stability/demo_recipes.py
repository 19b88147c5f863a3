"""Do recipes differ if nothing diverges? Compares reading and writing of the demo's transformer.

    make demo
    .venv/bin/python benchmarks/studies/stability/demo_recipes.py --demo runs/demo --jobs 2

Trains the transformer of a finished demo again, with each of the --recipes and seeds, and lets it read and
write the demo's held-out words, read back by rapidocr as in the demo. Everything except the recipe is the
demo's: network, windows, steps, Muon and its learning rate. --jobs trainings run at a time, with one thread
each (about a quarter of an hour). Each adds a row to demo_recipes.csv when it ends; run the same command
again to resume.
"""

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from grid import DEFAULT, PLAIN, RECIPES
from study import HERE, RECORD, add_row, check_settings, commit, rows

CSV = HERE / "demo_recipes.csv"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of a finished demo")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-recipes"), help="working folder")
    parser.add_argument("--recipes", default=f"{PLAIN},{DEFAULT}", help="comma-separated")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0 on (default: 1)")
    parser.add_argument("--csv", type=Path, default=CSV, help="table of results")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (default: 2)")
    args = parser.parse_args(arguments)
    recipes = args.recipes.split(",")
    if unknown := set(recipes) - set(RECIPES):
        raise SystemExit(
            f"error: unknown recipe {', '.join(sorted(unknown))}, expected some of {', '.join(RECIPES)}"
        )
    record = args.demo / "tokens" / RECORD
    if not record.is_file():
        raise SystemExit(f"error: {record} not found: --demo must be the folder of a finished `make demo`")
    settings = {"data": json.loads(record.read_text(encoding="utf-8"))["key"]}
    done = rows(args.csv)
    try:
        check_settings(done, settings, args.csv)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    there = {(row["recipe"], int(row["seed"])) for row in done}
    left = [(r, s) for s in range(args.seeds) for r in recipes if (r, s) not in there]
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # of the workers
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        work = {pool.submit(train, r, s, args.demo.absolute(), args.out.absolute()): (r, s) for r, s in left}
        for future in as_completed(work):
            row = future.result()
            add_row({**row, **settings, "commit": commit()}, args.csv)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def train(recipe: str, seed: int, demo: Path, out: Path) -> dict[str, Any]:
    """Train with one recipe and seed, and evaluate; returns the row."""
    from earlyfusion.train.loop.process import tune_malloc

    tune_malloc()
    import torch

    from earlyfusion.eval.items import Word, images_from_folder
    from earlyfusion.eval.metrics.ocr import readers
    from earlyfusion.eval.report.curves import read_metrics
    from earlyfusion.eval.tasks.reading import evaluate_reading
    from earlyfusion.eval.tasks.writing import evaluate_writing
    from earlyfusion.fusion_lm.folder import load_model
    from earlyfusion.fusion_lm.model import FusionLMConfig
    from earlyfusion.train.demo.budget import CONFIGS, LM, settings
    from earlyfusion.train.demo.corpus_files import NEW_FONTS, WORDS
    from earlyfusion.train.demo.stages import READER
    from earlyfusion.train.lm.data import TokenData
    from earlyfusion.train.lm.module import FusionLMTraining
    from earlyfusion.train.lm.settings import LMSettings
    from earlyfusion.train.loop.fit import fit

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    chosen = RECIPES[recipe]
    full = settings(CONFIGS / "full" / LM)
    training = FusionLMTraining(
        LMSettings(
            **{
                **full["model"],
                "max_steps": full["trainer"]["max_steps"],
                "tokenizer": str(demo / "tokens"),
                "config": FusionLMConfig(**{**full["model"]["config"], **chosen.config}),
                "z_loss_weight": chosen.z_loss_weight,
            }
        )
    )
    folder = out / f"{recipe.replace(' ', '-')}-{seed}"
    made = fit(
        training,
        TokenData(str(demo / "tokens"), batch_size=full["data"]["batch_size"], seed=seed),
        folder,
        seed=seed,
        log_every=33,
        validate_every=330,
        checkpoint_seconds=60,
        tensorboard=False,
    )
    curves = read_metrics(folder)
    model, tokenizer = load_model(made)
    items = {name: images_from_folder(demo / "data" / "held_out" / name).items for name in (WORDS, NEW_FONTS)}
    found: dict[str, Any] = {"recipe": recipe, "seed": seed}
    for name in ("loss", "structure", "text", "image"):
        found[f"validation_{name}"] = curves[f"validation/{name}"][-1][1]
    for name, some in items.items():
        kinds = evaluate_reading(model, tokenizer, some)["by_kind"]
        found |= {f"reading_{name}_{kind}": scores["exact_match"] for kind, scores in kinds.items()}
    asked = [Word(item.text or "", item.kind) for item in items[WORDS]]
    written = evaluate_writing(model, tokenizer, asked, readers([READER]), seed=seed)
    found |= {f"writing_{kind}": scores["exact_match"] for kind, scores in written["by_kind"].items()}
    return found


if __name__ == "__main__":
    main()
