"""How well does a small image tokenizer reconstruct things that it never saw? OpenMoji at 64 x 64 px.

    .venv/bin/python benchmarks/studies/tokenizer/openmoji64.py --out runs/openmoji64

1. Render OpenMoji's drawings to a data set, OUT/pictures, without the 30 held-out concepts (see
   ``data/render/split.py``) and their variants. 60 other concepts are for the validation losses.
2. Train the network of ``image_tokenizer.yaml`` on them, with a smaller codebook. A stopped run resumes from
   OUT/run/last.ckpt; other settings need another OUT.
3. Measure like `earlyfusion eval reconstruction OUT/run/model --suite openmoji`, and also training pictures;
   write the figures and a sheet of pictures.
"""

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from earlyfusion.benchmarks.speed.machine import write_figures
from earlyfusion.data.render.openmoji import Concept, ConceptSplit, concepts, render_drawing, split_concepts
from earlyfusion.data.render.split import demo_concepts
from earlyfusion.eval.items import Item
from earlyfusion.eval.suites import openmoji_suite
from earlyfusion.storage.files import atomic_folder

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SIZE = 64
VALIDATION_CONCEPTS = 60
TRAINING_PICTURES = 300
"""Number of training pictures that are measured for comparison."""
SETTINGS: dict[str, Any] = {
    "lr": 1e-3,
    "quantized_lr": 1.5e-3,
    "decay_fraction": 0.5,
    "latent_noise": 0.15,
    "kmeans_images": 4096,
    "kmeans_latents": 65_536,
    "text_weight": 0.0,  # the pictures contain no text
}


def picture_concepts() -> ConceptSplit:
    """OpenMoji's concepts without those that are measured, split into training and validation."""
    measured = set(drawings(demo_concepts().held_out))
    free = [concept for concept in concepts(None) if not measured & set(concept.drawings)]
    return split_concepts(free, VALIDATION_CONCEPTS, seed=1)


def drawings(some: Sequence[Concept]) -> list[str]:
    """All drawings of some concepts, each once."""
    return list(dict.fromkeys(drawing for concept in some for drawing in concept.drawings))


def write_pictures(folder: Path) -> None:
    """Write ``folder``/train and ``folder``/validation with ``save_to_disk``, both or neither."""
    from earlyfusion.train.demo.corpus import png
    from earlyfusion.train.demo.corpus_files import image_set

    split = picture_concepts()
    with atomic_folder(folder) as new:
        for part, some in (("train", split.train), ("validation", split.held_out)):
            pictures = [(png(render_drawing(drawing, SIZE)), None) for drawing in drawings(some)]
            image_set(pictures).save_to_disk(str(new / part))
            print(f"{part}: {len(pictures)} pictures of {len(some)} concepts", flush=True)


def network(codebook_size: int) -> Any:
    """The config of ``image_tokenizer.yaml``, 8 pixels per code, with ``codebook_size`` codes."""
    from earlyfusion.tokenizers.image import ImageTokenizerConfig

    preset = yaml.safe_load((ROOT / "train/configs/image_tokenizer.yaml").read_text(encoding="utf-8"))
    config = {**preset["model"]["config"], "codebook_size": codebook_size}
    return ImageTokenizerConfig(**{**config, "channels": tuple(config["channels"])})


def train(args: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Train; returns the folder of the image tokenizer, and the settings and time of the training."""
    import torch

    from earlyfusion.train.image.data import ImageData
    from earlyfusion.train.image.module import ImageTokenizerTraining
    from earlyfusion.train.image.settings import ImageTokenizerSettings
    from earlyfusion.train.loop.fit import fit

    torch.manual_seed(args.seed)
    schedule = {"warmup_steps": min(100, args.steps // 10), "autoencoder_steps": args.steps // 5}
    config = network(args.codebook_size)
    training = ImageTokenizerTraining(
        ImageTokenizerSettings(
            config=config, max_steps=args.steps, seed=args.seed, **{**SETTINGS, **schedule}
        )
    )
    data = ImageData(
        str(args.out / "pictures/train"),
        str(args.out / "pictures/validation"),
        factor=config.factor,
        batch_pixels=args.batch * SIZE * SIZE,
        seed=args.seed,
    )
    run = args.out / "run"
    resumed = run.exists()
    began, cpu = time.monotonic(), time.process_time()
    folder = fit(
        training,
        data,
        run,
        seed=args.seed,
        log_every=min(50, args.steps),
        validate_every=min(500, args.steps),
        checkpoint_seconds=60,
        accelerator=args.accelerator,
        tensorboard=False,
    )
    used = {"seconds": round(time.monotonic() - began), "cpu_seconds": round(time.process_time() - cpu)}
    about = {
        "steps": args.steps,
        "batch": args.batch,
        "seed": args.seed,
        **SETTINGS,
        **schedule,
        "config": asdict(config),
        "parameters": sum(p.numel() for p in training.net.parameters()),
        "threads": torch.get_num_threads(),
        **({} if resumed else used),
    }
    return folder, about


def measure(folder: Path, args: argparse.Namespace) -> tuple[dict[str, Any], list[Any]]:
    """The figures of the suite and of training pictures, and the suite's reconstructions."""
    from earlyfusion.cli.evaluation.reconstruction import WITHOUT_TEXT
    from earlyfusion.eval.tasks import reconstruction
    from earlyfusion.tokenizers.image import ImageTokenizer

    tokenizer = ImageTokenizer.load(folder)
    found = reconstruction.measure(tokenizer, openmoji_suite(0, args.per_kind), ceilings=True)
    figures = found.figures
    figures["not_measured"] |= {"text": WITHOUT_TEXT}
    figures["data"] = "OpenMoji, held-out concepts, seed 0"
    each = [one.psnr for one in found.results if one.psnr is not None]
    figures["psnr_of_each"] = {
        "mean": statistics.fmean(each),
        "standard_error": statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else None,
    }
    trained = drawings(picture_concepts().train)
    some = random.Random(0).sample(trained, min(TRAINING_PICTURES, len(trained)))
    seen = [Item(render_drawing(drawing, SIZE)) for drawing in some]
    again = reconstruction.measure(tokenizer, seen).figures
    names = ("images", "psnr", "ssim", "l1", "mse", "codebook_usage", "perplexity")
    figures["training_pictures"] = {name: again[name] for name in names}
    return figures, found.results


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from earlyfusion.train.loop.process import tune_malloc

    tune_malloc()
    import torch

    from earlyfusion.eval.report.reconstruction_sheet import check_sheet, write_sheet
    from earlyfusion.eval.report.reconstruction_table import table

    check_sheet(args.sheet)
    if args.threads:
        torch.set_num_threads(args.threads)
    if not (args.out / "pictures").is_dir():
        write_pictures(args.out / "pictures")
    folder, about = train(args)
    figures, samples = measure(folder, args)
    from rich.console import Console

    Console().print(table(figures))
    print(json.dumps({name: figures[name] for name in ("psnr_of_each", "training_pictures")}))
    write_figures(args.json, {**figures, "training": about}, timed=False)
    write_sheet(args.sheet, samples, [], args.shown)
    print(f"written to {args.json} and {args.sheet}")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs/openmoji64"), help="working folder"
    )
    made.add_argument("--steps", metavar="N", type=int, default=4000, help="training steps (default: 4000)")
    made.add_argument(
        "--batch", metavar="N", type=int, default=8, help="pictures per step (default: %(default)s)"
    )
    made.add_argument("--codebook-size", metavar="K", type=int, default=4096, help="codes (default: 4096)")
    made.add_argument("--seed", metavar="N", type=int, default=0, help="random seed (default: 0)")
    made.add_argument("--threads", metavar="N", type=int, help="threads of torch (default: torch's choice)")
    made.add_argument("--accelerator", metavar="NAME", default="cpu", help="of Lightning (default: cpu)")
    made.add_argument(
        "--per-kind",
        metavar="N",
        type=int,
        default=40,
        help="held-out pictures to measure (default: %(default)s)",
    )
    made.add_argument(
        "--shown", metavar="N", type=int, default=12, help="pictures on the sheet (default: %(default)s)"
    )
    made.add_argument("--json", metavar="FILE", type=Path, default=HERE / "openmoji64.json", help="figures")
    made.add_argument(
        "--sheet", metavar="FILE", type=Path, default=ROOT / "docs/openmoji64.png", help="sheet to write"
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
