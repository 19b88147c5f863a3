"""Speed and memory of preparing and loading data, and how they scale with more data.

    .venv/bin/python benchmarks/speed/throughput.py --threads 2 --out FILE.json

- prepare compared with the bare image tokenizer: images/s of prepare (reading, decoding PNG, encoding,
  packing, writing), from its first shard to its last, divided by those of ``DocumentTokenizer.encode_inputs``
  on the same pixels in memory; with one process of all threads, and with one process per thread.
- the loader compared with training: tokens/s of the loader alone, divided by those of ``fit`` on the same
  windows.
- memory: the resident size of the process over many epochs of the loader, and over a long prepare.
- cost: seconds of prepare for a thousand to a million documents of text.

Each ratio is measured several times, alternately; the median is printed, with minimum and maximum.
"""

# ruff: noqa: E402

import argparse
import io
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from machine import commit, processor, write_figures
from PIL import Image, ImageDraw

from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.storage.hub import PRETRAINED
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.loop.fit import fit


def resident() -> float:
    """MiB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def pictures(folder: Path, count: int, side: int) -> Path:
    """Drawings of one size with captions."""
    rng = random.Random(side)
    rows: dict[str, list[Any]] = {"image": [], "text": []}
    for number in range(count):
        image = Image.new("RGB", (side, side), "white")
        draw = ImageDraw.Draw(image)
        for _ in range(6):
            x, y = (sorted(rng.randrange(side) for _ in range(2)) for _ in range(2))
            color = tuple(rng.randrange(256) for _ in range(3))
            draw.rectangle((x[0], y[0], x[1], y[1]), fill=color)
        stored = io.BytesIO()
        image.save(stored, "PNG")
        rows["image"].append({"bytes": stored.getvalue(), "path": None})
        rows["text"].append(f"drawing number {number}")
    source = folder / f"pictures-{side}"
    features = Features(image=ImageFeature(decode=False), text=Value("string"))
    Dataset.from_dict(rows, features).save_to_disk(str(source))
    return source


def config(source: Path, out: Path, **more: Any) -> PrepareConfig:
    """Settings of prepare with the packaged model's tokenizers and large windows."""
    settings = {"context_length": 2048, "validation_share": 0.0, **more}
    return PrepareConfig(str(source), str(out), model=str(PRETRAINED), **settings)


def rows_per_second(source: Path, out: Path, jobs: int = 1, **more: Any) -> float:
    """Rows per second of prepare, from its first shard to its last."""
    moments: list[tuple[float, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = config(source, out, **more)
        prepare(settings, lambda _, done, total: moments.append((time.perf_counter(), done)), jobs=jobs)
    return (moments[-1][1] - moments[0][1]) / (moments[-1][0] - moments[0][0])


def beside_the_tokenizer(work: Path, side: int, count: int, runs: int) -> dict[str, Any]:
    """Run prepare and the bare tokenizer alternately."""
    source = pictures(work, count, side)
    tokenizer = load_model(PRETRAINED).tokenizer
    stored: Any = Dataset.load_from_disk(str(source)).cast_column("image", ImageFeature())
    images = [tokenizer.prepare("image", image) for image in stored["image"]]
    tokenizer.encode_inputs("image", images[:64])
    jobs = torch.get_num_threads()
    speeds: dict[str, list[float]] = {"bare": [], "one process": [], f"{jobs} processes": []}
    for run in range(runs):
        out, rows = work / f"tokens-{side}-{run}", count // 20
        speeds["one process"].append(rows_per_second(source, out / "one", shard_rows=rows))
        began = time.perf_counter()
        tokenizer.encode_inputs("image", images)
        speeds["bare"].append(count / (time.perf_counter() - began))
        speeds[f"{jobs} processes"].append(rows_per_second(source, out / "many", jobs, shard_rows=rows))
    found: dict[str, Any] = {"side": side, "images": count}
    for name, values in speeds.items():
        found[name] = {"images_per_second": spread(values)}
        found[name]["of_bare"] = spread([a / b for a, b in zip(values, speeds["bare"])])
    return found


def beside_the_training(work: Path, runs: int) -> dict[str, Any]:
    """The loader alone and the training of the packaged model's shape, on the same windows."""
    out = work / "tokens-loader"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(config(work / "pictures-64", out, context_length=256), lambda *_: None)
    loader_speed, training_speed = [], []
    for run in range(runs):
        data = TokenData(str(out), batch_size=8, seed=run)
        data.setup("fit")
        loader, tokens = data.train_dataloader(), 0
        began = time.perf_counter()
        while time.perf_counter() - began < 3:
            tokens += sum(batch["tokens"].numel() for batch in loader)
        loader_speed.append(tokens / (time.perf_counter() - began))
        training = FusionLMTraining(
            LMSettings(tokenizer=str(out), init_from=str(PRETRAINED), max_steps=24, warmup_steps=2)
        )
        options: dict[str, Any] = {"log_every": 8, "checkpoint_seconds": 1000, "validate_every": 24}
        fit(training, data, work / f"fit-{run}", progress=False, tensorboard=False, **options)
        training_speed.append(read_metrics(work / f"fit-{run}")["train/tokens_per_second"][-1][1])
    ratios = [a / b for a, b in zip(loader_speed, training_speed)]
    return {"loader": spread(loader_speed), "training": spread(training_speed), "ratio": spread(ratios)}


def memory_of_the_loader(work: Path, epochs: int) -> list[float]:
    """Resident MiB after each tenth of ``epochs``."""
    data = TokenData(str(work / "tokens-loader"), batch_size=8)
    data.setup("fit")
    loader, found = data.train_dataloader(), []
    for epoch in range(epochs):
        for _ in loader:
            pass
        if (epoch + 1) % (epochs // 10) == 0:
            found.append(round(resident(), 1))
    return found


def cost(work: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """Seconds and memory of prepare for ``sizes`` documents of about twelve words."""
    rng = random.Random(0)
    words = ["red", "apple", "house", "small", "garden", "two", "birds", "sees", "the", "cat", "a", "green"]
    results = []
    for size in sizes:
        texts = [" ".join(rng.choices(words, k=12)) for _ in range(size)]
        source = work / f"texts-{size}"
        Dataset.from_dict({"text": texts}).save_to_disk(str(source))
        del texts
        memory: list[float] = []

        def note(_: str, done: int, total: int | None, memory: list[float] = memory) -> None:
            if total and done >= (len(memory) + 1) * total / 10:
                memory.append(round(resident(), 1))

        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepare(config(source, work / f"texts-{size}-out"), note)
        seconds = time.perf_counter() - began
        results.append(
            {
                "documents": size,
                "seconds": round(seconds, 2),
                "microseconds_per_document": round(1e6 * seconds / size, 1),
                "resident_mib": memory,
            }
        )
        print(results[-1], flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's choice)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each ratio (default: 3)")
    parser.add_argument(
        "--documents", type=int, default=1_000_000, help="documents of the largest prepare (default: 1000000)"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "machine": f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
        "commit": commit(),
    }
    sizes = [10**power for power in range(3, 10) if 10**power <= args.documents]
    with tempfile.TemporaryDirectory(prefix="throughput-") as name:
        work = Path(name)
        large = max(args.documents // 250, 100)
        result["prepare_beside_the_tokenizer"] = [
            beside_the_tokenizer(work, 64, min(large, 4000), args.runs),
            beside_the_tokenizer(work, 256, min(large, 200), args.runs),
        ]
        print(result["prepare_beside_the_tokenizer"], flush=True)
        result["loader_beside_the_training"] = beside_the_training(work, args.runs)
        print(result["loader_beside_the_training"], flush=True)
        result["resident_mib_over_the_loader"] = memory_of_the_loader(work, 300)
        print(result["resident_mib_over_the_loader"], flush=True)
        result["cost"] = cost(work, sizes)
    if args.out:
        write_figures(args.out, result)


if __name__ == "__main__":
    main()
