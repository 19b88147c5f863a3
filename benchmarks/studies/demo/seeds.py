"""How far the demo's figures depend on its seed: collects those of finished runs.

    earlyfusion demo --out runs/seed1 --seed 1 --budget full        # and 0, 2
    python benchmarks/studies/demo/seeds.py runs/seed0 runs/seed1 runs/seed2

Everything in a run depends on its seed: pictures, documents, first weights, the order of the data and the
random numbers of drawings. The held-out words are always the same; what else is measured (fonts, sizes,
random strings) is drawn with the seed. Runs are added to seeds.json; one of the same seed replaces the
earlier one.
"""

from pathlib import Path
from typing import Any

from earlyfusion.benchmarks.speed.machine import described_parser, write_figures
from earlyfusion.storage.files import read_json

SEEDS = Path(__file__).with_name("seeds.json")


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run's results.json that docs/results.md states."""

    def exact(found: dict[str, Any]) -> dict[str, float]:
        return {kind: found["by_kind"][kind]["exact_match"] for kind in ("word", "random")}

    read = results["reconstruction"]["words"]["ocr_by_reader"]["rapidocr"]["by_kind"]
    return {
        "seed": results["seed"],
        "reading, training fonts": exact(results["reading"]["words"]),
        "reading, held-out fonts": exact(results["reading"]["words-new-fonts"]),
        "writing": exact(results["writing"]),
        "after the image tokenizer": {kind: read[kind]["reconstruction"]["exact_match"] for kind in read},
        "drawing": results["drawing"]["named"] / results["drawing"]["items"],
        "seconds": results["seconds"],
        "commit": results["commit"],
        "cpu": results["machine"]["cpu"],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = described_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished demos")
    parser.add_argument("--out", type=Path, default=SEEDS, help="JSON file to write")
    args = parser.parse_args(arguments)
    stored = read_json(args.out, "figures of demos")["rows"] if args.out.is_file() else []
    rows = {row["seed"]: row for row in stored}
    for run in args.runs:
        row = figures(read_json(run / "results.json", "the figures of a demo"))
        rows[row["seed"]] = row
    write_figures(args.out, {"rows": [rows[seed] for seed in sorted(rows)]}, timed=False)


if __name__ == "__main__":
    main()
