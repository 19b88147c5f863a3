"""Which image tokenizer keeps text readable at equal bits per pixel and equal training compute?

    .venv/bin/python benchmarks/studies/tokenizer/study.py run --out runs/study --jobs 2
    .venv/bin/python benchmarks/studies/tokenizer/study.py ceilings
    .venv/bin/python benchmarks/studies/tokenizer/study.py plot --best ours

``run`` renders the training images and trains the two recognizers once. Then it trains and measures the cells
without a row in cells.csv, each in a process with one thread, and adds a row when each one ends; run the same
command again to resume. ``ceilings`` adds rows for JPEG, WebP and downscaling. ``plot`` draws the figures and
prints the means.

- Equal compute: every cell takes as many steps as fit into the same floating-point operations, forward and
  backward, including its losses, counted by torch on its own networks. CPU seconds are reported, too.
- Selection: learning rates and codebooks are chosen by ``select_cer``, the errors of our own recognizer
  (trained with another seed than the one in the text-aware loss) on 400 validation images in training fonts.
- Measurement: rapidocr and tesseract on held-out words, random strings and lines in held-out fonts (the
  built-in suite); neither trains or selects anything.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CSV = HERE / "cells.csv"
TEXT_IMAGES = 24_000
RECOGNISER_STEPS = 2_500
BATCH_PIXELS = 16_384
STEPS = 2_500
"""Steps of the reference cell, whose operations are the budget of all cells."""
REFERENCE = "plain lr 2e-03"
TEST_SEED, TEST_PER_KIND = 11, 100
KINDS = ("word", "random", "line")


@dataclass(frozen=True)
class Cell:
    """One recipe at one bit rate and one seed."""

    part: str
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def key(self) -> str:
        """The key of its row."""
        return f"{self.name}, seed {self.seed}"


NETWORK: dict[str, Any] = {"stem": 4, "channels": (64, 128), "res_blocks": 1}
PLAIN: dict[str, Any] = {
    "quantizer": "vq",
    "norm": "group",
    "codebook_size": 2048,
    "codebook_dim": 16,
    "codebook_decay": 0.95,
}
"""The plain recipe: one VQ codebook, L1 + MSE, quantized from the first step."""
OURS: dict[str, Any] = {
    **PLAIN,
    "quantizer": "cosine",
    "norm": "layer",
    "codebook_decay": 0.99,
    "codebook_dim": 8,
}
WARM: dict[str, Any] = {"autoencoder_share": 0.2, "quantized_lr": 3e-3}
"""First a plain autoencoder, then a codebook from k-means."""
RECIPE: dict[str, Any] = {**WARM, "crop": (32, 64), "latent_noise": 0.15, "text_weight": 0.7}


def cells() -> list[Cell]:
    """All cells, the most important first."""
    out: list[Cell] = []

    def add(part: str, name: str, config: dict, training: dict, *seeds: int) -> None:
        out.extend(Cell(part, name, config, training, seed) for seed in seeds or (0,))

    # Both recipes get the same number of trials for learning rate and codebook.
    for lr in (1e-3, 2e-3, 4e-3):
        add("trial plain", f"plain lr {lr:.0e}", PLAIN, {"lr": lr})
    add("trial plain", "plain decay .99", {**PLAIN, "codebook_decay": 0.99}, {})
    add("trial plain", "plain dim 8", {**PLAIN, "codebook_dim": 8}, {})
    add("trial plain", "plain learnable", {**PLAIN, "learnable_codebook": True}, {})
    add("leader", "plain lr 2e-03", PLAIN, {"lr": 2e-3}, 1, 2)  # the best of its trials by select_cer
    add("leader", "ours", OURS, RECIPE, 0, 1, 2)
    for lr in (1e-3, 4e-3):
        add("trial ours", f"ours lr {lr:.0e}", OURS, {**RECIPE, "lr": lr, "quantized_lr": 1.5 * lr})
    add("trial ours", "ours decay .95", {**OURS, "codebook_decay": 0.95}, RECIPE)
    add("trial ours", "ours dim 16", {**OURS, "codebook_dim": 16}, RECIPE)
    add("trial ours", "ours learnable vq", {**OURS, "quantizer": "vq", "learnable_codebook": True}, RECIPE)

    # From the plain recipe, tuned, to ours, one change after the other.
    network, training = dict(PLAIN), {}
    for what, config, more in (
        ("+ warm-up", {}, WARM),
        ("+ cosine", {"quantizer": "cosine"}, {}),
        ("+ layer norm", {"norm": "layer"}, {}),
        ("+ 8 dimensions, decay .99", {"codebook_dim": 8, "codebook_decay": 0.99}, {}),
        ("+ crops", {}, {"crop": (32, 64)}),
        ("+ noise", {}, {"latent_noise": 0.15}),
    ):
        network, training = {**network, **config}, {**training, **more}
        add("ladder", what, network, training)

    quiet = {**RECIPE, "latent_noise": 0.0}
    add("leader", "ours without noise", OURS, quiet, 0, 1, 2)
    fsq = {"quantizer": "fsq", "fsq_levels": (8, 8, 8, 4)}
    deep = {"channels": (64, 128, 192)}
    fine = {"channels": (64,), "res_blocks": 2}  # 4 pixels a code
    add("quantizer", "fsq", {**OURS, **fsq}, RECIPE)
    add("quantizer", "vq", {**OURS, "quantizer": "vq"}, RECIPE)
    add("quantizer", "2 groups", {**OURS, "groups": 2, "codebook_size": 45}, RECIPE)
    add("rate", "ours @ 0.125", {**OURS, "codebook_size": 256}, RECIPE, 0, 1, 2)
    add("rate", "plain @ 0.125", {**PLAIN, "codebook_size": 256}, {}, 0, 1, 2)
    add("rate", "ours @ 0.34", {**OURS, "groups": 2}, RECIPE)
    add("rate", "plain, 4 px a code @ 0.3125", {**PLAIN, **fine, "codebook_size": 32}, {})
    add("loss", "text 2.0", OURS, {**RECIPE, "text_weight": 2.0})
    add("loss", "edge 0.5", OURS, {**RECIPE, "edge_weight": 0.5})
    add("quantizer", "simvq", {**OURS, "quantizer": "simvq"}, RECIPE)
    add("quantizer", "ibq", {**OURS, "quantizer": "ibq"}, RECIPE)
    add("loss", "adversary 0.5", OURS, {**RECIPE, "adversary_weight": 0.5})
    add("quantizer", "lfq", {**OURS, "quantizer": "lfq", "codebook_dim": 16}, RECIPE)
    add("quantizer", "f16, 4 groups", {**OURS, **deep, "groups": 4}, RECIPE)
    add("quantizer", "straight through", {**OURS, "rotation_trick": False}, RECIPE)
    add("quantizer", "2 residual", {**OURS, "quantizer": "vq", "residual": 2, "codebook_size": 45}, RECIPE)
    add("loss", "weights' average .99", OURS, {**RECIPE, "ema_decay": 0.99})
    add("loss", "l1 alone", OURS, {**RECIPE, "mse_weight": 0.0})
    add("rate", "ours, 4 px a code @ 0.3125", {**OURS, **fine, "codebook_size": 32}, RECIPE)
    return out


def prepare(out: Path) -> None:
    """Render the training images and train the recognizers, if they are missing."""
    run = [sys.executable, "-m", "earlyfusion.cli.main"]
    if not (out / "text").is_dir():
        options = ["--kinds", ",".join(KINDS), "--count", str(TEXT_IMAGES), "--size", "32x128"]
        subprocess.run(
            [*run, "text-images", *options, "--type-sizes", "10-28", "--out", str(out / "text")], check=True
        )
    config = HERE.parents[2] / "train/configs/recognizer.yaml"
    for seed in (0, 1):
        folder = out / f"recogniser-{seed}"
        if not (folder / "model").is_dir():
            subprocess.run(
                [
                    *[*run, "recognizer", "fit", "--config", str(config), f"--data.train={out / 'text'}"],
                    *[f"--data.validation={out / 'text/validation'}", f"--seed_everything={seed}"],
                    *[f"--data.seed={seed}", f"--trainer.default_root_dir={folder}"],
                    f"--trainer.max_steps={RECOGNISER_STEPS}",
                ],
                check=True,
            )


def train_cell(cell: Cell, out: Path, budget: float) -> dict[str, Any]:
    """Train and measure a cell; returns its row."""
    from earlyfusion.train.loop.process import tune_malloc

    tune_malloc()
    import torch

    from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
    from earlyfusion.train.image.adversary import AdversaryConfig
    from earlyfusion.train.image.data import ImageData
    from earlyfusion.train.image.module import ImageTokenizerTraining
    from earlyfusion.train.image.settings import ImageTokenizerSettings
    from earlyfusion.train.loop.fit import fit

    torch.set_num_threads(1)
    torch.manual_seed(cell.seed)
    config = ImageTokenizerConfig(**{**NETWORK, **cell.config})
    settings = {"lr": 2e-3, "warmup_steps": 100, "decay_fraction": 0.4, "seed": cell.seed, **cell.training}
    share, crop = settings.pop("autoencoder_share", 0.0), settings.pop("crop", None)
    settings = {"text_weight": 0.0, "latent_noise": 0.0, **settings}
    if settings["text_weight"]:
        settings["recognizer"] = str(out / "recogniser-0/model")
    against = settings.pop("adversary_weight", 0.0)
    small = AdversaryConfig(weight=against, start=0, warmup=0, channels=32, layers=2)
    probe = ImageTokenizerTraining(
        ImageTokenizerSettings(config=config, max_steps=1, autoencoder_steps=0, adversary=small, **settings)
    )
    steps = round(budget / operations_of_a_step(probe, share_of_adversary=0.5))
    settings["adversary"] = replace(small, start=steps // 2, warmup=steps // 10)
    training = ImageTokenizerTraining(
        ImageTokenizerSettings(
            config=config, max_steps=steps, autoencoder_steps=round(share * steps), **settings
        )
    )
    data = ImageData(
        str(out / "text"),
        str(out / "text/validation"),
        factor=config.factor,
        batch_pixels=BATCH_PIXELS,
        crop=crop,
        seed=cell.seed,
    )
    folder = folder_of(out, cell.key)
    began, cpu = time.monotonic(), time.process_time()
    model = fit(training, data, folder, seed=cell.seed, tensorboard=False, progress=False)
    used = time.process_time() - cpu
    tokenizer = ImageTokenizer.load(model)
    row = {
        "part": cell.part,
        "name": cell.name,
        "seed": cell.seed,
        **{k: v for k, v in asdict(config).items() if k in _CONFIG_COLUMNS},
        "factor": config.factor,
        "bits_per_pixel": round(tokenizer.bits_per_pixel, 4),
        "parameters": sum(p.numel() for p in tokenizer.parameters()),
        "steps": steps,
        "autoencoder_steps": round(share * steps),
        "tflop": round(budget / 1e12, 2),
        "cpu_seconds": round(used),
        "seconds": round(time.monotonic() - began),
        **{k: v for k, v in cell.training.items() if k != "autoencoder_share"},
        "commit": commit(),
    }
    return row | measure(tokenizer, out)


_CONFIG_COLUMNS = (
    *("quantizer", "norm", "codebook_size", "codebook_dim", "codebook_decay", "groups", "residual"),
    *("channels", "rotation_trick", "learnable_codebook"),
)


def operations_of_a_step(training: Any, share_of_adversary: float = 0.0) -> float:
    """Operations of one quantized step on a batch, forward and backward, as torch counts them.

    Args:
        training: The training module.
        share_of_adversary: Fraction of the steps with the adversarial loss, if there is one.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from earlyfusion.data.images import ImageBatch

    images = torch.rand(BATCH_PIXELS // (32 * 128), 3, 32, 128) * 2 - 1
    boxes = torch.tensor([[i, 8.0, 4.0, 120.0, 28.0] for i in range(len(images))])
    training.codebook_ready = True
    with FlopCounterMode(display=False) as counter:
        output = training(images)
        terms = training.terms(output.images, ImageBatch(images, boxes))
        loss = torch.stack(list(terms.values())).sum() + output.quantizer_loss
        loss.backward()
    operations = counter.get_total_flops()
    if training.adversary.active(0):
        made = training(images).images
        with FlopCounterMode(display=False) as counter:
            training._adversarial(made, images, (made - images).abs().mean()).backward()
        operations += share_of_adversary * counter.get_total_flops()
    return operations


def measure(tokenizer: Any, out: Path) -> dict[str, Any]:
    """Measure the suite with the two readers, and the validation images with our own recognizer."""
    from datasets import load_from_disk

    from earlyfusion.data.strips import Strips
    from earlyfusion.eval.metrics.ocr import READERS
    from earlyfusion.eval.metrics.text import cer
    from earlyfusion.eval.suites import ocr_suite
    from earlyfusion.eval.tasks.reconstruction import measure, reconstruct_pictures
    from earlyfusion.train.image.recognizer import Recognizer

    items = ocr_suite(TEST_SEED, KINDS, TEST_PER_KIND)
    readers = [READERS[name](threads=1) for name in ("rapidocr", "tesseract")]
    figures = measure(tokenizer, items, readers).figures
    row = {n: round(figures[n], 4) for n in ("psnr", "ssim", "codebook_usage", "perplexity")}
    row |= read_by(figures["ocr_by_reader"], "reconstruction")
    judge = Recognizer.load(out / "recogniser-1/model")
    rows: Any = load_from_disk(str(out / "text"))["validation"].select(range(400))
    pictures = [row["image"].convert("RGB") for row in rows]
    strips = Strips.around(
        zip(reconstruct_pictures(tokenizer, pictures), [row["objects"] for row in rows], strict=True)
    )
    wanted, found = [], []
    for group in strips.groups.values():
        batch = strips.load(group)
        wanted += batch.texts
        found += judge.read(batch.strips)
    error = cer(wanted, found)
    return row | {"select_cer": round(error if error is not None else 1.0, 4)}


def add_ceilings(out: Path) -> None:
    """Add rows for JPEG, WebP and downscaling with as many bits as a reference cell, and for the original."""
    from earlyfusion.eval.metrics.ocr import READERS
    from earlyfusion.eval.suites import ocr_suite
    from earlyfusion.eval.tasks.reconstruction import measure
    from earlyfusion.tokenizers.image import ImageTokenizer

    tokenizer = ImageTokenizer.load(folder_of(out, "ours, seed 0") / "model")
    items = ocr_suite(TEST_SEED, KINDS, TEST_PER_KIND)
    readers = [READERS[name](threads=1) for name in ("rapidocr", "tesseract")]
    figures = measure(tokenizer, items, readers, ceilings=True).figures
    for name, found in figures["ceilings"].items():
        row = {"part": "ceiling", "name": f"{name} @ {tokenizer.bits_per_pixel:.2f}", "seed": 0}
        row["bits_per_pixel"] = round(found["bits_per_pixel"], 4)
        row |= {n: round(found[n], 4) for n in ("psnr", "ssim")}
        add_row({**row, **read_by(found["ocr_by_reader"], "reconstruction"), "commit": commit()})
    row = {"part": "ceiling", "name": "original", "seed": 0, "commit": commit()}
    add_row({**row, **read_by(figures["ocr_by_reader"], "original")})


def read_by(by_reader: dict[str, Any], side: str) -> dict[str, Any]:
    """The columns of both readers."""
    row: dict[str, Any] = {}
    for reader, scores in by_reader.items():
        found = scores[side]
        row |= {f"{reader}_{n}": round(found[n], 4) for n in ("t_acc", "t_ned", "cer", "exact_match")}
        for kind, by_kind in scores["by_kind"].items():
            row[f"{reader}_{kind}"] = round(by_kind[side]["exact_match"], 4)
    return row


def folder_of(out: Path, key: str) -> Path:
    """The folder of a cell's run."""
    return out / "cells" / key.replace(" ", "-").replace(",", "")


def commit() -> str:
    """The current commit."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return git.stdout.strip()


def rows() -> list[dict[str, str]]:
    """The rows so far."""
    if not CSV.exists():
        return []
    with CSV.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def add_row(row: dict[str, Any]) -> None:
    """Add a row; new columns come last."""
    everything: list[dict[str, Any]] = [*rows(), row]
    columns = list(dict.fromkeys(name for one in everything for name in one))
    new = CSV.with_suffix(".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(everything)
    os.replace(new, CSV)


def run(out: Path, jobs: int, only: str | None) -> None:
    """Train and measure the cells without a row, ``jobs`` at a time."""
    import json
    import threading

    prepare(out)
    lock = threading.Lock()
    done = {f"{row['name']}, seed {row['seed']}" for row in rows()}
    left = [
        cell for cell in cells() if cell.key not in done and (only is None or cell.part in only.split(","))
    ]
    budget_file = out / "budget.json"
    if not budget_file.exists():
        [reference] = [cell for cell in cells() if cell.name == REFERENCE and cell.seed == 0]
        command = [sys.executable, __file__, "budget", "--out", str(out), "--cell", reference.key]
        subprocess.run(command, check=True, env=_environment())
    print(f"{len(left)} cells, {jobs} at a time", flush=True)

    def one(cell: Cell) -> None:
        command = [sys.executable, __file__, "cell", "--out", str(out), "--cell", cell.key]
        made = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
        if made.returncode:
            print(f"FAILED {cell.key}: {made.stderr[-600:]}", flush=True)
            return
        row = json.loads(made.stdout.splitlines()[-1])
        with lock:
            add_row(row)
        names = ("psnr", "select_cer", "rapidocr_t_acc", "tesseract_t_acc", "codebook_usage", "cpu_seconds")
        print(cell.part, cell.key, *(f"{name} {row[name]}" for name in names), sep="  ", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, left))


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["run", "ceilings", "plot", "cell", "budget"])
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="working folder")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time, one thread each (default: 2)")
    parser.add_argument("--parts", help="run only these parts, comma-separated")
    parser.add_argument("--best", help="plot: recipe to compare with the plain one (default: the best)")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.command == "run":
        run(args.out, args.jobs, args.parts)
        return
    if args.command == "ceilings":
        add_ceilings(args.out)
        return
    if args.command == "plot":
        from plot import plot

        plot(args.best)
        return
    import json

    [cell] = [cell for cell in cells() if cell.key == args.cell]
    budget_file = args.out / "budget.json"
    if args.command == "budget":
        from earlyfusion.tokenizers.image import ImageTokenizerConfig
        from earlyfusion.train.image.module import ImageTokenizerTraining
        from earlyfusion.train.image.settings import ImageTokenizerSettings

        probe = ImageTokenizerTraining(
            ImageTokenizerSettings(
                config=ImageTokenizerConfig(**{**NETWORK, **cell.config}), max_steps=1, autoencoder_steps=0
            )
        )
        budget_file.write_text(json.dumps(STEPS * operations_of_a_step(probe)))
        return
    row = train_cell(cell, args.out, json.loads(budget_file.read_text()))
    print(json.dumps(row))


if __name__ == "__main__":
    main()
