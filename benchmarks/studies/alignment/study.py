"""What alignment changes: a model before and after, on held-out texts that its judges did not use.

    python benchmarks/studies/alignment/study.py measure openmoji-words packaged
    python benchmarks/studies/alignment/study.py measure runs/aligned/model seed-0
    python benchmarks/studies/alignment/study.py curves runs/aligned seed-0
    python benchmarks/studies/alignment/study.py plot

``measure`` adds the figures of a model to results.json, under a name; ``curves`` the logged figures of a run;
``plot`` draws curves.png from them. The texts are those of ``word_suite(0)`` after the first
150 words and 100 random strings, which the run's judges measured (and chose ``best/`` by).
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from earlyfusion.benchmarks.speed.machine import described_parser, write_figures
from earlyfusion.data.render.fonts import held_out_fonts, train_fonts
from earlyfusion.data.render.split import demo_concepts
from earlyfusion.eval.items import Item, Word
from earlyfusion.eval.metrics.ocr import readers
from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.eval.suites import word_suite
from earlyfusion.eval.tasks.drawing import evaluate_drawing
from earlyfusion.eval.tasks.everything import (
    BEST_BY,
    BEST_OF,
    GUIDANCE,
    SAMPLING,
    documents,
    evaluate_bits,
)
from earlyfusion.eval.tasks.naming import evaluate_naming, naming_items
from earlyfusion.eval.tasks.reading import evaluate_reading
from earlyfusion.eval.tasks.writing import evaluate_writing
from earlyfusion.fusion_lm.cpu.packed_weights import for_generation
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.storage.files import read_json

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
HEIGHTS = (16, 24)
"""Heights of the images of words in px, those of the packaged model's data."""
JUDGED = {"word": 150, "random": 100}
"""Texts of each kind that the judges of a run use."""
SAMPLED = 150
"""Texts that are also written as the best of eight."""
CURVES = (
    *(f"judge/writing/{engine}/{kind}" for engine in ("rapidocr", "tesseract") for kind in JUDGED),
    *(f"judge/reading/{kind}" for kind in JUDGED),
    *(f"judge/{name}" for name in ("naming", "drawing", "bits_per_byte", "bits_per_pixel", "length")),
    *(f"train/{name}" for name in ("reward", "reward/writing", "reward/reading", "kl", "entropy", "length")),
)


def fresh(items: Sequence[Item]) -> list[Item]:
    """The items that the judges do not use."""
    seen = dict.fromkeys(JUDGED, 0)
    kept = []
    for item in items:
        kind = str(item.kind)
        seen[kind] += 1
        if seen[kind] > JUDGED[kind]:
            kept.append(item)
    return kept


def shares(result: dict[str, Any]) -> dict[str, Any]:
    """Exact match and CER of each kind."""
    kinds = result["by_kind"].items()
    return {kind: {name: one[name] for name in ("exact_match", "cer", "items")} for kind, one in kinds}


def measure(folder: str) -> dict[str, Any]:
    """The figures of a model."""
    whole, tokenizer = load_model(folder)
    model = for_generation(whole, "auto")
    items, judges = fresh(word_suite(0, heights=HEIGHTS)), readers()
    texts = [Word(item.text or "", item.kind) for item in items]
    figures: dict[str, Any] = {"model": folder}
    some = random.Random(0).sample(texts, SAMPLED)
    chosen: dict[str, Any] = {
        "sampling": SAMPLING,
        "guidance": GUIDANCE,
        "best_of": BEST_OF,
        "best_by": BEST_BY,
    }
    for name, words, settings in (
        ("greedy", texts, {}),
        ("one of temperature 1", some, {"sampling": Sampling()}),
        ("guided, best of eight", some, chosen),
    ):
        result = evaluate_writing(model, tokenizer, words, judges, seed=1, **settings)
        figures[f"writing, {name}"] = {
            reader: shares(scores) for reader, scores in result["by_reader"].items()
        }
    for name, fonts in (("training fonts", train_fonts()), ("held-out fonts", held_out_fonts())):
        result = evaluate_reading(model, tokenizer, fresh(word_suite(0, fonts=fonts, heights=HEIGHTS)))
        figures[f"reading, {name}"] = shares(result)
    pictures = naming_items(0)
    naming = evaluate_naming(model, tokenizer, pictures, demo_concepts().train)
    figures["naming"] = {kind: one["exact_match"] for kind, one in naming["by_kind"].items()}
    drawing = evaluate_drawing(model, tokenizer, demo_concepts().train).figures
    figures["drawing"] = {name: drawing[name] for name in ("nearest", "nearest_5", "items")}
    bits = evaluate_bits(whole, tokenizer, documents(items[:200], pictures))
    figures["bits"] = {
        kind: {name: value for name, value in one.items() if name.startswith("bits_per")}
        for kind, one in bits.items()
    }
    return figures


def curves(run: Path) -> dict[str, Any]:
    """The logged figures of a run, as [steps before, value]."""
    logged = read_metrics(run)
    return {
        name: [[int(step) + 1, round(value, 5)] for step, value in logged[name]]
        for name in CURVES
        if name in logged
    }


def plot(found: dict[str, Any], path: Path) -> None:
    """Reward and judges over the steps, one line for each run."""
    panels = (
        ("Writing, words", ("judge/writing/rapidocr/word", "judge/writing/tesseract/word")),
        ("Writing, random strings", ("judge/writing/rapidocr/random", "judge/writing/tesseract/random")),
        ("Reading, held-out fonts", ("judge/reading/word", "judge/reading/random")),
        ("Naming, drawing", ("judge/naming", "judge/drawing")),
        ("Rewards", ("train/reward/writing", "train/reward/reading")),
        ("Entropy, KL (nats per token)", ("train/entropy", "train/kl")),
    )
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.4), constrained_layout=True)
    for axis, (title, names) in zip(axes.flat, panels):
        for name, style in zip(names, ("-", "--")):
            for number, logged in enumerate(found.values()):
                label = name.split("/", 1)[1] if not number else None
                points = logged.get(name, [])
                axis.plot(*zip(*points), style, color=f"C{number}", label=label) if points else None
        axis.set_title(title)
        axis.set_xlabel("steps")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    parser = described_parser(__doc__)
    parser.add_argument("what", choices=("measure", "curves", "plot"))
    parser.add_argument("folder", nargs="?", help="a model (measure) or a run (curves)")
    parser.add_argument("name", nargs="?", help="its name in results.json")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file (default: results.json here)")
    args = parser.parse_args(arguments)
    stored = read_json(args.out, "figures") if args.out.is_file() else {}
    figures = {part: dict(stored.get(part, {})) for part in ("models", "curves")}
    if args.what == "plot":
        plot(figures["curves"], args.out.with_name("curves.png"))
        return
    if args.folder is None or args.name is None:
        parser.error(f"{args.what} needs a folder and a name")
    if args.what == "measure":
        figures["models"][args.name] = measure(args.folder)
    else:
        figures["curves"][args.name] = curves(Path(args.folder))
    write_figures(args.out, figures, timed=False)


if __name__ == "__main__":
    main()
