"""Teach a trained model new things: what it learns, and what it forgets.

    .venv/bin/python benchmarks/studies/new_concepts/study.py --out runs/new-concepts

A model is trained on the 30 things of OpenMoji that the demo holds out: naming each from drawings of even
sizes at even positions, and drawing it from its name. Then it names and draws these things (from drawings of
odd sizes at odd positions) and the things it knew before, and reads held-out words. The methods:

    LoRA            low-rank updates and the rows of image tokens, on documents of the new things only
    LoRA + old      the same, with as many documents of the corpus that the model was trained on
    image rows      only the rows of image tokens, with the same old documents
    all + old       all weights, with the same old documents

Each finished cell adds a row to cells.csv; run the same command again to resume. A cell takes minutes with
one thread; --jobs of them run at a time.
"""

import argparse
import csv
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from earlyfusion.storage.hub import PRETRAINED

HERE = Path(__file__).parent
METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {"trained_part": "lora", "lr": 2e-3, "old": False},
    "LoRA + old": {"trained_part": "lora", "lr": 2e-3, "old": True},
    "image rows": {"trained_part": "image_rows", "lr": 5e-3, "old": True},
    "all + old": {"trained_part": "all", "lr": 5e-4, "old": True},
}
BEFORE = "before"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, default=PRETRAINED, help="model folder (default: the package's)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/new-concepts"), help="working folder")
    parser.add_argument("--csv", type=Path, default=HERE / "cells.csv", help="table of results")
    parser.add_argument("--steps", type=int, default=400, help="steps per training (default: 400)")
    parser.add_argument("--batch-size", type=int, default=4, help="windows per batch (default: 4)")
    parser.add_argument(
        "--documents", type=int, default=24, help="documents per thing and kind (default: 24)"
    )
    parser.add_argument("--words", type=int, default=300, help="held-out words to read (default: 300)")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds, from 0 on (default: 2)")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time, one thread each (default: 2)")
    args = parser.parse_args(arguments)
    done = {(row["method"], int(row["seed"])) for row in rows(args.csv)}
    cells = [(BEFORE, 0), *((method, seed) for seed in range(args.seeds) for method in METHODS)]
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # of the workers
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        work = [pool.submit(cell, method, seed, args) for method, seed in cells if (method, seed) not in done]
        for future in as_completed(work):
            row = future.result()
            add(row, args.csv)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if BEFORE in {row["method"] for row in rows(args.csv)}:
        print(table(rows(args.csv)))


def cell(method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one cell and evaluate it; returns its row."""
    from earlyfusion.train.loop.process import tune_malloc

    tune_malloc()
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    folder, trained = args.model, 0
    if method != BEFORE:
        folder, trained = teach(method, seed, args)
    seconds = time.perf_counter() - started
    return {
        "method": method,
        "seed": seed,
        "trained": trained,
        "seconds": round(seconds),
        **abilities(folder, args.words),
        "steps": args.steps,
        "windows": args.batch_size,
        "documents": args.documents,
        "commit": commit(),
    }


def teach(method: str, seed: int, args: argparse.Namespace) -> tuple[Path, int]:
    """Train a model; returns its folder and the number of trained parameters."""
    import torch

    from earlyfusion.data.prepare import prepare
    from earlyfusion.data.prepare_config import PrepareConfig
    from earlyfusion.fusion_lm.model import FusionLM
    from earlyfusion.train.lm.data import TokenData
    from earlyfusion.train.lm.module import FusionLMTraining
    from earlyfusion.train.lm.settings import LMSettings
    from earlyfusion.train.loop.fit import fit

    settings = dict(METHODS[method])
    work = args.out / f"{method.replace(' ', '')}-{seed}"
    write_documents(work / "documents", args.documents, settings.pop("old"), seed)
    prepare(
        PrepareConfig(
            str(work / "documents"),
            str(work / "tokens"),
            model=str(args.model),
            context_length=FusionLM.read_config(args.model).context_length,
            validation_share=0,
            seed=seed,
        ),
        lambda *_: None,
    )
    torch.manual_seed(seed)
    training = FusionLMTraining(
        LMSettings(
            tokenizer=str(work / "tokens"),
            init_from=str(args.model),
            max_steps=args.steps,
            warmup_steps=20,
            decay_fraction=0.6,
            weight_decay=0.0,
            **settings,
        )
    )
    made = fit(
        training,
        TokenData(str(work / "tokens"), batch_size=args.batch_size, seed=seed),
        work / "run",
        seed=seed,
        checkpoint_seconds=60,
        tensorboard=False,
        progress=False,
    )
    return made, sum(p.numel() for p in training.parameters() if p.requires_grad)


def write_documents(folder: Path, count: int, old: bool, seed: int) -> None:
    """Write documents of the new things, and with ``old`` as many of the kinds that the model knows."""
    from earlyfusion.data.render.split import demo_concepts, demo_words
    from earlyfusion.train.demo.budget import CONFIGS, load_budget
    from earlyfusion.train.demo.corpus import Corpus
    from earlyfusion.train.demo.corpus_files import document_set

    base = replace(load_budget(CONFIGS / "long").corpus, naming_documents=None)  # as many as drawing ones
    config = replace(base, picture_documents=count, interleaved=0, typed=0)
    corpus = Corpus(config, seed)
    corpus.concepts = demo_concepts().held_out
    documents = corpus.documents([], [])
    if old:
        wanted = len(documents)
        config = replace(base, picture_documents=2, interleaved=wanted // 10, typed=wanted // 20)
        corpus = Corpus(config, seed + 100)
        words = corpus.words(demo_words().train, wanted // 4)
        more = corpus.documents(words, [corpus.type(word) for word in words])
        documents += more[:wanted]
    document_set(documents).save_to_disk(str(folder))


def abilities(folder: Path, words: int) -> dict[str, float]:
    """The shares of things and words that the model in ``folder`` names, draws and reads correctly."""
    from earlyfusion.data.render.fonts import train_fonts
    from earlyfusion.data.render.split import demo_concepts
    from earlyfusion.eval.suites import word_suite
    from earlyfusion.eval.tasks.drawing import evaluate_drawing
    from earlyfusion.eval.tasks.naming import HELD_OUT, KNOWN, evaluate_naming, naming_items
    from earlyfusion.eval.tasks.reading import evaluate_reading
    from earlyfusion.fusion_lm.folder import load_model
    from earlyfusion.train.demo.budget import CONFIGS, load_budget

    model, tokenizer = load_model(folder)
    things = demo_concepts()
    naming = evaluate_naming(model, tokenizer, naming_items(), [*things.train, *things.held_out])["by_kind"]
    drawing = {
        kind: evaluate_drawing(model, tokenizer, some)[0]["nearest"]
        for kind, some in (("new", things.held_out), ("old", things.train))
    }
    heights = load_budget(CONFIGS / "long").corpus.heights
    items = [i for i in word_suite(0, fonts=train_fonts(), heights=heights) if i.kind == "word"]
    reading = evaluate_reading(model, tokenizer, items[:words])
    return {
        "names new": round(naming[HELD_OUT]["exact_match"], 4),
        "names old": round(naming[KNOWN]["exact_match"], 4),
        "draws new": round(drawing["new"], 4),
        "draws old": round(drawing["old"], 4),
        "reads": round(reading["exact_match"], 4),
    }


def table(found: list[dict[str, str]]) -> str:
    """Means over the seeds as Markdown, with minimum and maximum if there are several."""
    columns = ("names new", "names old", "draws new", "draws old", "reads")
    lines = ["| | trained | minutes | " + " | ".join(columns) + " |", "|---" * (3 + len(columns)) + "|"]
    for method in (BEFORE, *METHODS):
        some = [row for row in found if row["method"] == method]
        if not some:
            continue
        cells = []
        for column in columns:
            values = [100 * float(row[column]) for row in some]
            spread = f" ({min(values):.0f} to {max(values):.0f})" if len(values) > 1 else ""
            cells.append(f"{sum(values) / len(values):.0f} %{spread}")
        minutes = sum(float(row["seconds"]) for row in some) / len(some) / 60
        trained = int(some[0]["trained"])
        head = [method, f"{trained:,}" if trained else "", f"{minutes:.1f}" if trained else ""]
        lines.append("| " + " | ".join([*head, *cells]) + " |")
    return "\n".join(lines)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows so far."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add(row: dict[str, Any], path: Path) -> None:
    """Append a row."""
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def commit() -> str:
    """The current commit."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE, check=False
    )
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
