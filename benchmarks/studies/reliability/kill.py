"""Kill prepare and fit with SIGKILL many times, and check that nothing is lost.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/studies/reliability/kill.py --trials 150 --seed 0

Each job (prepare, training the image tokenizer, training the transformer) first runs uninterrupted. Each
trial then runs one of them from scratch, kills it, runs the same command again, and compares all output with
the uninterrupted run, bit by bit: shards and their record; weights, optimizer, schedule, random states and
loader in the checkpoint; the model folder; the curves except the speed; the sheets of samples.

Half of the kills happen at a uniformly random time of the uninterrupted run. The other half happen during a
write of a shard, the prepared folder, a checkpoint or the model: the process signals when it begins and ends
to write, and is killed after a random part of the usual time. A kill counts as inside a write only if the end
was not signaled before it. The commands are those of `earlyfusion`, run in a fork of a process that has
already imported torch, to save time.

Each trial adds a row to kills.csv; run the same command again to resume.
"""

import argparse
import csv
import hashlib
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

from datasets import Dataset, Features, Image, Value  # noqa: E402
from PIL import Image as PilImage  # noqa: E402
from PIL import ImageDraw  # noqa: E402

from earlyfusion.data import prepare, shards  # noqa: E402
from earlyfusion.data.prepare_config import PrepareConfig  # noqa: E402
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig  # noqa: E402
from earlyfusion.tokenizers.text import TextTokenizer  # noqa: E402
from earlyfusion.train.callbacks import checkpoints  # noqa: E402
from earlyfusion.train.loop import cli as lightning_cli  # noqa: E402

HERE = Path(__file__).parent
JOBS = ("prepare", "image-tokenizer", "lm")
COLUMNS = ("seed", "trial", "job", "kill", "seconds", "inside", "write", "same", "difference")
SPEED = ("train/tokens_per_second",)
"""Columns of the curves that depend on time."""
WRITES: tuple[tuple[Any, str], ...] = (
    (shards._Maker, "write"),
    (prepare, "_collect"),
    (checkpoints.Checkpoints, "_save_checkpoint"),
    (checkpoints.ModelFolder, "_write"),
)
"""The functions that write a shard, a prepared folder, a checkpoint and a model folder."""
_pipe: int | None = None


def documents(folder: Path, count: int = 400) -> None:
    """Small drawings with captions."""
    rng = random.Random(0)
    rows: dict[str, list[Any]] = {"image": [], "text": []}
    for number in range(count):
        image = PilImage.new("RGB", ((16, 24, 40)[number % 3], 16), "white")
        color = tuple(rng.randrange(256) for _ in range(3))
        ImageDraw.Draw(image).rectangle((rng.randrange(8), rng.randrange(8), 12, 12), fill=color)
        rows["image"].append(image)
        rows["text"].append(f"number {number}, a box of the colour {color}")
    Dataset.from_dict(rows, Features(image=Image(), text=Value("string"))).save_to_disk(str(folder))


def set_up(work: Path) -> None:
    """Write documents and tokenizers."""
    documents(work / "documents")
    lines = ["number, a box of the colour (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)"] * 50
    TextTokenizer.train(lines, vocab_size=290).save(work / "text")
    torch.manual_seed(0)
    config = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=64, codebook_dim=4)
    ImageTokenizer(config).save(work / "image")


def settings(work: Path, out: Path) -> PrepareConfig:
    """Settings of prepare: twenty shards."""
    return PrepareConfig(
        str(work / "documents"),
        str(out),
        str(work / "text"),
        str(work / "image"),
        context_length=96,
        max_grid=16,
        validation_share=0.1,
        shard_rows=20,
    )


def arguments(job: str, work: Path, out: Path) -> list[str]:
    """Arguments of fit: short steps, and logs, validations and checkpoints in all combinations."""
    common = [
        "fit",
        f"--trainer.default_root_dir={out}",
        "--ckpt_path=last-or-new",
        "--trainer.accelerator=cpu",
        "--trainer.precision=32-true",
        "--trainer.log_every_n_steps=3",
        "--trainer.val_check_interval=14",
        "--checkpoints.steps=7",
        "--trainer.enable_progress_bar=false",
        "--trainer.max_steps=84",
    ]
    if job == "image-tokenizer":
        network = {"stem": 4, "channels": "[8,16]", "res_blocks": 1, "codebook_size": 64, "codebook_dim": 4}
        return [
            *common,
            f"--data.train={work / 'documents'}",
            "--data.batch_pixels=2048",
            "--model.autoencoder_steps=20",
            "--model.warmup_steps=5",
            "--model.kmeans_images=32",
            "--model.kmeans_latents=128",
            "--model.ema_decay=0.9",
            *(f"--model.config.{name}={value}" for name, value in network.items()),
        ]
    network = {"n_layers": 2, "width": 48, "n_heads": 2, "n_kv_heads": 2, "ffn_width": 96, "dropout": 0.1}
    return [
        *common,
        f"--data.path={work / 'tokens'}",
        "--data.batch_size=4",
        "--model.warmup_steps=5",
        "--model.condition_dropout=0.1",
        "--model.muon_lr=0.01",
        "--model.config.context_length=96",
        *(f"--model.config.{name}={value}" for name, value in network.items()),
        "--samples.every=28",
        "--samples.count=1",
        "--samples.max_new_tokens=40",
        "--telemetry.every=5",
    ]


def do(job: str, work: Path, out: Path) -> None:
    """Run the command of ``job``."""
    if job == "prepare":
        prepare.prepare(settings(work, out), lambda *_: None)
    else:
        lightning_cli.run(job, arguments(job, work, out))  # type: ignore[arg-type]


def signal_writes(owner: Any, name: str) -> None:
    """Make a function signal when it begins and when it ends."""
    function: Callable[..., Any] = getattr(owner, name)

    def signaling(*args: Any, **more: Any) -> Any:
        if _pipe is not None:
            os.write(_pipe, b"b")
        result = function(*args, **more)
        if _pipe is not None:
            os.write(_pipe, b"e")
        return result

    setattr(owner, name, signaling)


def run(job: str, work: Path, out: Path, kill: Callable[[int, int], Any] | None = None) -> Any:
    """Run the job in a separate process.

    Args:
        job: Its name.
        work: Folder of the inputs.
        out: Folder of the output.
        kill: Called with the process id and the pipe of its signals; then the process is killed.

    Returns:
        The result of ``kill``. Without it, the begins and ends of writes as (seconds, "b" or "e"), and the
        duration in seconds.
    """
    global _pipe
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reading)
            _pipe = writing
            log = os.open(work / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            do(job, work, out)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    began = time.perf_counter()
    if kill is not None:
        result: Any = kill(child, reading)
        os.kill(child, signal.SIGKILL)
    else:
        moments = []
        while event := os.read(reading, 1):
            moments.append((time.perf_counter() - began, event.decode()))
        result = moments, time.perf_counter() - began
    _, status = os.waitpid(child, 0)
    os.close(reading)
    if kill is None and status:
        raise SystemExit(f"{job} failed: see {work / 'log.txt'}")
    return result


def durations(moments: list[tuple[float, str]]) -> list[float]:
    """Durations of the writes, in order; a write inside another one is part of it."""
    found, depth, start = [], 0, 0.0
    for moment, kind in moments:
        if kind == "b":
            start, depth = (moment if not depth else start), depth + 1
        else:
            depth -= 1
            if not depth:
                found.append(moment - start)
    return found


def killing(rng: random.Random, mode: str, reference: tuple[list[tuple[float, str]], float]) -> Any:
    """A function that waits for the time of a kill, and returns where that was."""
    moments, seconds = reference
    if mode == "any time":
        moment = rng.uniform(0, seconds)

        def wait(_: int, pipe: int) -> dict[str, Any]:
            begin, depth = time.perf_counter(), 0
            while (left := moment - (time.perf_counter() - begin)) > 0:
                if select.select([pipe], [], [], left)[0]:
                    event = os.read(pipe, 1)
                    if not event:  # it ended before
                        break
                    depth += 1 if event == b"b" else -1
            return {"seconds": round(moment, 3), "inside": depth > 0, "write": ""}

        return wait
    usual = durations(moments)
    number = rng.randrange(len(usual))
    part = rng.random()

    def wait_for_write(_: int, pipe: int) -> dict[str, Any]:
        begin, depth, seen = time.perf_counter(), 0, -1
        while event := os.read(pipe, 1):
            if event == b"b":
                depth += 1
                seen += depth == 1
            else:
                depth -= 1
            if depth == 1 and event == b"b" and seen == number:
                break
        stop = time.perf_counter() + part * usual[number]
        while depth and (left := stop - time.perf_counter()) > 0:
            if select.select([pipe], [], [], left)[0]:
                event = os.read(pipe, 1)
                depth += {b"b": 1, b"e": -1, b"": -depth}[event]
        return {"seconds": round(time.perf_counter() - begin, 3), "inside": depth > 0, "write": number}

    return wait_for_write


def difference(left: Any, right: Any, where: str = "") -> str:
    """The first place at which two values differ; empty if they are equal."""
    if type(left) is not type(right):
        return f"{where}: {type(left).__name__} and {type(right).__name__}"
    if isinstance(left, dict):
        if left.keys() != right.keys():
            return f"{where}: {sorted(map(str, left.keys() ^ right.keys()))}"
        pairs = [(f"{where}/{key}", left[key], right[key]) for key in left]
    elif isinstance(left, list | tuple):
        if len(left) != len(right):
            return f"{where}: {len(left)} and {len(right)} entries"
        pairs = [(f"{where}/{n}", *pair) for n, pair in enumerate(zip(left, right))]
    elif isinstance(left, torch.Tensor):
        return "" if torch.equal(left, right) else f"{where}: tensors differ"
    else:
        return (
            "" if left == right or left != left != right != right else f"{where}: {left!r:.40} {right!r:.40}"
        )
    return next((found for name, a, b in pairs if (found := difference(a, b, name))), "")


def contents(out: Path) -> dict[str, Any]:
    """The content of a run's folder, except for times."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if not path.is_file() or name.startswith("tensorboard"):
            continue
        if path.suffix == ".ckpt":
            found[name] = torch.load(path, map_location="cpu", weights_only=True)
        elif name == "metrics.csv":
            with path.open(newline="") as file:
                rows = [
                    {k: v for k, v in row.items() if k not in SPEED and v} for row in csv.DictReader(file)
                ]
            found[name] = rows
        elif name == "config.yaml":
            lines = path.read_text().splitlines()
            found[name] = [line for line in lines if not line.startswith("ckpt_path")]
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=150, help="number of kills (default: 150)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--out", type=Path, default=HERE / "kills.csv", help="table of results")
    args = parser.parse_args()
    done = list(csv.DictReader(args.out.open())) if args.out.is_file() else []
    done = [row for row in done if int(row["seed"]) == args.seed]
    for owner, name in WRITES:
        signal_writes(owner, name)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        work = Path(name)
        set_up(work)
        prepare.prepare(settings(work, work / "tokens"), lambda *_: None)
        out = work / "run"  # one path for all, since checkpoints name it
        references, expected = {}, {}
        for job in JOBS:
            references[job] = run(job, work, out)
            expected[job] = contents(out)
            shutil.rmtree(out)
            run(job, work, out)  # the comparison needs two uninterrupted runs to be equal
            if found := difference(expected[job], contents(out)):
                raise SystemExit(f"two uninterrupted runs of {job} differ: {found}")
            shutil.rmtree(out)
            writes = len(durations(references[job][0]))
            print(f"{job}: {references[job][1]:.1f} s uninterrupted, {writes} writes", flush=True)
        for trial in range(args.trials):
            rng = random.Random(f"{args.seed}-{trial}")
            job, mode = JOBS[trial % 3], ("any time", "in a write")[trial // 3 % 2]
            if any(int(row["trial"]) == trial for row in done):
                continue
            shutil.rmtree(out, ignore_errors=True)
            where = run(job, work, out, killing(rng, mode, references[job]))
            run(job, work, out)
            found = difference(expected[job], contents(out))
            row = {"seed": args.seed, "trial": trial, "job": job, "kill": mode, **where}
            row |= {"same": not found, "difference": found}
            new = not args.out.is_file()
            with args.out.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerow(row)
            if found:
                print(f"trial {trial}: {job}, {mode}, {where}: {found}", flush=True)
            elif trial % 10 == 9:
                print(f"{trial + 1} of {args.trials}", flush=True)
    rows = [row for row in csv.DictReader(args.out.open()) if int(row["seed"]) == args.seed]
    inside = sum(row["inside"] == "True" for row in rows)
    lost = [row for row in rows if row["same"] != "True"]
    print(f"{len(rows)} kills, {inside} of them inside a write; {len(lost)} results differ")


if __name__ == "__main__":
    main()
