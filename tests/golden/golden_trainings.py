"""The section of trainings, from the command line."""

import contextlib
import csv
import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import golden_adapter as ef
import golden_material as material
import numpy as np
import torch
from golden_parts import Part, Parts, digest, files_of, plain, tensors_of
from golden_shards import write_pairs, write_talks, write_tokenizers

STEPS = 30
"""Steps of each training."""


def trainings() -> Parts:
    """Curves, last weights, files and checkpoints of short trainings."""
    parts: Parts = {"curves": {}, "weights": {}, "training files": {}, "checkpoints": {}}
    write_tokenizers()
    pairs = write_pairs(Path("pairs"))
    talks = write_talks(Path("talks"))
    images = _write_images(Path("images"))
    own = {"text_tokenizer": "text", "image_tokenizer": "image", "max_grid": 16, "validation_share": 0.2}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        ef.prepare({**own, "documents": pairs, "out": "tokens", "context_length": 64, "order": "both"})
        ef.prepare({**own, "documents": pairs, "out": "old", "context_length": 64, "order": "coin"})
        packaged = {"model": str(ef.packaged_model()), "context_length": 256, "validation_share": 0.2}
        ef.prepare({**packaged, "documents": talks, "out": "talk-tokens"})
    for name, arguments in training_cases(images).items():
        _train(parts, name, arguments)
    return parts


def training_cases(images: str) -> dict[str, list[str]]:
    """Arguments of the command."""
    common = [
        f"--trainer.max_steps={STEPS}",
        "--trainer.log_every_n_steps=1",
        "--trainer.val_check_interval=15",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.precision=32-true",
        "--trainer.enable_progress_bar=false",
        "--checkpoints.steps=15",
    ]
    lm = ["lm", "fit", "--config", str(ef.config_file("lm_debug.yaml")), *common, "--data.path=tokens"]
    lm += ["--samples.every=15", "--telemetry.every=10"]
    debug = str(ef.config_file("image_tokenizer_debug.yaml"))
    image = ["image-tokenizer", "fit", "--config", debug, *common, f"--data.train={images}"]
    tuned = str(ef.config_file("lm_fine_tune.yaml"))
    tune = ["lm", "fit", "--config", tuned, *common, "--data.path=talk-tokens", "--data.batch_size=2"]
    tune += [f"--model.init_from={ef.packaged_model()}", "--model.warmup_steps=5", "--telemetry.every=0"]
    weights = ef.modality_weights(structure=1.0, text=2.0, image=0.5)
    return {
        "lm_debug": lm,
        "lm, the whole recipe": [
            *lm,
            "--data.mixture={old: 0.3}",
            "--model.muon_lr=0.02",
            "--model.condition_dropout=0.3",
            "--model.schedule=cosine",
            "--model.config.dropout=0.1",
            "--model.config.qk_norm=rms",
            "--model.config.norm_placement=reordered",
            "--model.config.tie_embeddings=true",
            "--model.config.logit_soft_cap=30",
            "--model.activation_checkpointing=true",
            "--telemetry.gradient_cosine=true",
            weights,
        ],
        "image_tokenizer_debug": image,
        "image tokenizer, the whole recipe": [
            *image,
            "--model.config.groups=2",
            "--model.config.codebook_dim=8",
            "--model.chroma_weight=1",
            "--model.edge_weight=1",
            "--model.ema_decay=0.9",
            "--model.adversary.weight=0.5",
            "--model.adversary.start=10",
            "--model.adversary.warmup=5",
            "--model.adversary.channels=8",
        ],
        "lora": [*tune, "--model.trained_part=lora"],
        "image rows": [*tune, "--model.trained_part=image_rows", "--trainer.max_steps=8"],
    }


def _train(parts: Parts, name: str, arguments: list[str]) -> None:
    run = Path(f"run-{name.replace(', ', '-').replace(' ', '-')}")
    command(*arguments, f"--trainer.default_root_dir={run}")
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for column in rows[0]:
        if "per_second" not in column:
            values = [float(row[column]) if row[column] else np.nan for row in rows]
            parts["curves"][f"{name}/{column}"] = np.array(values)
    for tensor, values in tensors_of(run / "model" / "model.safetensors").items():
        parts["weights"][f"{name}/{tensor}"] = values
    drawn = {".png", ".html", ".json", ".jsonl"}
    parts["training files"][name] = {
        file: digest if file.startswith("model/") or Path(file).suffix in drawn else "there"
        for file, digest in files_of(run).items()
        if "events" not in file
    }
    stored = torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)
    _checkpoint(name, stored, parts["checkpoints"])


def _checkpoint(name: str, value: Any, into: Part) -> None:
    """The content of a checkpoint by name: digests of tensors, and plain values."""
    if isinstance(value, dict):
        for key, one in value.items():
            _checkpoint(f"{name}/{key}", one, into)
    elif isinstance(value, torch.Tensor):
        content = digest(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        into[plain(name)] = [str(value.dtype), list(value.shape), content]
    elif isinstance(value, list | tuple) and len(value) <= 100:
        into[f"{plain(name)}/length"] = len(value)
        for number, one in enumerate(value):
            _checkpoint(f"{name}/{number}", one, into)
    else:
        into[plain(name)] = digest(repr(value).encode()) if isinstance(value, list | tuple) else plain(value)


def _write_images(folder: Path) -> str:
    """48 pictures of three sizes, most of them with a text box."""
    import datasets

    rows: dict[str, list[Any]] = {"image": [], "objects": []}
    for number in range(48):
        picture = material.drawing(number, ((16, 16), (24, 16), (40, 16))[number % 3], "RGB")
        box = [[2.0, 2.0, 12.0, 11.0]] if number % 4 else []
        rows["image"].append(picture)
        rows["objects"].append({"bbox": box, "text": ["w"] * len(box)})
    objects = {"bbox": datasets.List(datasets.List(datasets.Value("float32")))}
    features = datasets.Features(
        image=datasets.Image(), objects={**objects, "text": datasets.List(datasets.Value("string"))}
    )
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(folder))
    return str(folder)


def command(*arguments: str) -> str:
    """Run the command `earlyfusion` in its own process. Returns its output."""
    script = Path(__file__).with_name("record.py")
    run = subprocess.run(
        [sys.executable, str(script), "--command", *arguments], capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(
            f"earlyfusion {' '.join(arguments)} returned {run.returncode}:\n{run.stdout}\n{run.stderr}"
        )
    return run.stdout
