"""Small folders and checkpoints from an earlier commit, and the results expected from them on any machine.

``expected`` is what a tree makes of them: token ids of given codes and texts, layouts of vocabularies,
windows of prepared data. A rule encodes images instead of a network, whose rounding differs between CPUs.
"""

import contextlib
import csv
import io
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import golden_adapter as ef
import golden_documents
import golden_material as material
import golden_parts
import numpy as np
import torch
from PIL import Image

FOLDER = Path(__file__).with_name("fixtures")
EXPECTED = Path(__file__).with_name("expected.json")
CODES, CONTEXT = 16, 32
"""Codebook size and context length of the tiny model."""
LM = {"context_length": CONTEXT, "n_layers": 1, "width": 16, "n_heads": 2, "n_kv_heads": 1, "ffn_width": 16}
LM_SETTINGS = {"lr": 1e-2, "max_steps": 4, "warmup_steps": 1}
IMAGE = {"stem": 4, "channels": (8,), "res_blocks": 1, "codebook_size": CODES, "codebook_dim": 4}
IMAGE_SETTINGS = {
    "lr": 1e-2,
    "max_steps": 4,
    "warmup_steps": 1,
    "autoencoder_steps": 1,
    "kmeans_images": 16,
    "kmeans_latents": 64,
    "text_weight": 0.0,
}
STOPPED = 2
"""The step of the checkpoints."""


# fixtures/data


def write_data(folder: Path) -> None:
    """Texts, conversations, and pictures of one color, whose codes do not depend on how they are scaled."""
    sizes = ((8, 8), (12, 8), (10, 6), (16, 4), (24, 20))
    names = ["red", "green", "blue", "a cat", "two birds"]
    names += ["the house", "a bicycle", "an umbrella", "type", "word"]
    rows: list[Any] = []
    for number, name in enumerate(names):
        rows.append({"file_name": f"{number}.png", "text": f"{name}:" if number % 2 else name})
        material.write_png(folder / "pairs" / f"{number}.png", one_color(number, sizes[number % len(sizes)]))
    material.write_lines(folder / "pairs" / "metadata.jsonl", rows)
    interleaved = [
        {
            "images": [f"{number}.png", None, f"{(number + 3) % 10}.png", None],
            "texts": [None, names[number] * (number + 1), None, "end"],
        }
        for number in range(10)
    ]
    broken: list[Any] = [{"images": ["none.png"], "texts": [None]}]
    broken += [{"images": [None], "texts": []}, {"images": [], "texts": []}]
    material.write_lines(folder / "pairs" / "interleaved.jsonl", [*interleaved, *broken])
    texts: list[Any] = [{"text": " ".join(names[: number % 11])} for number in range(14)]
    texts += [{"text": "naïve 猫 🙂 <image>"}, {"text": " "}, {"text": "\ta\n\nb"}, {"text": "x" * 100}]
    texts += ["[1]", '{"text']
    material.write_lines(folder / "texts.jsonl", texts)
    material.write_lines(folder / "talks" / "talks.jsonl", [_talk(n, names) for n in range(12)])
    for number in range(4):
        size = ((8, 8), (16, 8))[number % 2]
        material.write_png(folder / "talks" / f"{number}.png", one_color(20 + number, size))
    for number in range(3):
        page = one_color(30 + number, (32, 16))
        page.paste(one_color(40 + number, (16, 16)), (16, 0))
        material.write_png(folder / "pages" / f"{number}.png", page)
    lines = [{"file_name": f"{number}.png", "text": f"page {number}"} for number in range(3)]
    material.write_lines(folder / "pages" / "metadata.jsonl", lines)


def one_color(number: int, size: tuple[int, int]) -> Image.Image:
    """A picture whose color is in the middle of a bin of ``ruled_codes``."""
    return Image.new("RGB", size, tuple(16 * (number * k % 16) + 8 for k in (1, 3, 7)))


def _talk(number: int, names: Sequence[str]) -> dict[str, Any]:
    """A conversation; number 5 and number 7 are invalid."""

    def said(text: str) -> dict[str, Any]:
        return {"type": "text", "text": text, "image": None}

    def shown(image: int) -> dict[str, Any]:
        return {"type": "image", "text": None, "image": f"{image}.png"}

    name = names[number % len(names)]
    turns = [("user", [shown(number % 4), said("what?")]), ("assistant", [said(name)])]
    if number % 3 == 1:
        turns = [("system", [said("Draw.")]), ("user", [said(name)]), ("assistant", [shown(number % 4)])]
    if number % 4 == 3:
        turns += [("user", [said("and?")]), ("assistant", [said("no"), shown(0)]), ("user", [said("why?")])]
    if number == 5:
        turns = turns[1:2]
    if number == 7:
        turns = turns[-1:]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


# the tiny tokenizers and models


def text_tokenizer() -> Any:
    return ef.TextTokenizer.load(FOLDER / "model" / "tokenizer")


def two_codes() -> Any:
    """An image tokenizer with two codes a position; the rule uses only its config."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ef.ImageTokenizer(ef.ImageConfig(**{**IMAGE, "groups": 2, "quantizer": "vq"})).eval()


def ruled_codes(self: Any, images: torch.Tensor) -> torch.Tensor:
    """Replaces ``ImageTokenizer.encode``: codes that depend only on the color and the place of a square."""
    middle, n = self.factor // 2, self.codes_per_position
    levels = ((images[:, :, middle :: self.factor, middle :: self.factor] + 1) * 127.5).round().long() // 16
    rows = torch.arange(levels.shape[2])[:, None]
    columns = torch.arange(levels.shape[3])
    color = levels[:, 0] + 3 * levels[:, 1] + 5 * levels[:, 2]
    slots = [(color * (1 + slot) + rows + 2 * columns + 7 * slot) % self.codebook_size for slot in range(n)]
    return slots[0] if n == 1 else torch.stack(slots, dim=-1)


@contextlib.contextmanager
def codes_by_rule() -> Iterator[None]:
    """Within, ``ruled_codes`` encodes images."""
    cls = ef.ImageTokenizer
    before = cls.encode
    cls.encode = ruled_codes
    try:
        yield
    finally:
        cls.encode = before


@contextlib.contextmanager
def within(folder: Path) -> Iterator[None]:
    """Within, ``folder`` is the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def stop_at(step: int) -> Any:
    """A callback that ends a training as Ctrl+C does."""
    from lightning.pytorch.callbacks import Callback

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == step:
                raise KeyboardInterrupt

    return Stop()


def remember(weights: dict[str, torch.Tensor]) -> Any:
    """A callback that stores the weights at the start of a training, by their names in checkpoints."""
    from lightning.pytorch.callbacks import Callback

    class Remember(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            weights.update({name: value.detach().clone() for name, value in pl_module.named_parameters()})

    return Remember()


def train_lm(run: Path, *callbacks: Any) -> Any:
    """Train the tiny transformer, or resume in ``run``. The working directory must be the fixtures'."""
    torch.manual_seed(0)
    module = ef.training(Path("prepared"), LM, **LM_SETTINGS)
    options = {"log_every": 1, "validate_every": 2, "checkpoint_steps": 2, "precision": "32-true"}
    ef.fit_lm(module, Path("prepared"), run, 4, callbacks=callbacks, **options)
    return module


def train_image_tokenizer(run: Path, *callbacks: Any) -> Any:
    """Train the tiny image tokenizer, or resume in ``run``, as ``train_lm``."""
    torch.manual_seed(0)
    module = ef.image_training(IMAGE, **IMAGE_SETTINGS)
    data = {"batch_pixels": 512, "validation_share": 0.2}
    options = {"log_every": 1, "validate_every": 2, "checkpoint_steps": 2, "precision": "32-true"}
    ef.fit_image_tokenizer(module, Path("data/pairs"), data, run, callbacks=callbacks, **options)
    return module


def losses_of(run: Path) -> dict[str, float]:
    """Step -> training loss, for the steps in the run's log."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return {row["step"]: float(row["train/loss"]) for row in rows}


# expected on any machine


SHAPES = tuple(material.SHAPES)
TEXTS = (*material.SENTENCES, *material.ODD)


def expected_layout(shape: str) -> dict[str, Any]:
    """The layout of a vocabulary with 300 text ids, of which two have no token."""
    return golden_documents.layout(material.vocab_of(shape, (300, (0, 7))))


def given_documents() -> list[list[Any]]:
    """[shape, parts] of each document; a part is [kind, values]."""
    return [
        [shape, [[kind, values.tolist()] for kind, values in golden_documents.given_parts(shape, number)]]
        for shape in SHAPES
        for number in range(6)
    ]


def tokens_of_given(shape: str, parts: Sequence[Any]) -> list[int]:
    """The tokens of a document of given parts. Checks that they are split into the same parts."""
    vocab = material.vocab_of(shape, (300, (0,)))
    tensors = [(kind, torch.tensor(values, dtype=torch.int64)) for kind, values in parts]
    tokens = ef.interleave(tensors, vocab)
    again = [[kind, values.tolist()] for kind, values in ef.split(tokens, vocab)]
    wanted: list[list[Any]] = []
    for kind, values in parts:
        if kind == "text" and wanted and wanted[-1][0] == "text":
            wanted[-1][1] = wanted[-1][1] + list(values)  # adjacent texts are one
        elif kind != "turn":
            wanted.append([kind, list(values)])
        else:
            wanted.append(["turn", []])
    assert again == [part for part in wanted if part[0] != "turn"]
    return tokens.tolist()


def expected_texts() -> list[Any]:
    """[text, ids] by the fixtures' text tokenizer."""
    text = text_tokenizer()
    return [[one, list(text.encode(one))] for one in TEXTS]


def prepare_cases() -> dict[str, dict[str, Any]]:
    """Settings of ``prepare``, for a working directory with data, model, text, image and image2."""
    own = {"text_tokenizer": "text", "image_tokenizer": "image", "max_grid": 8}
    small = {"context_length": CONTEXT, "validation_share": 0.25, "shard_rows": 4}
    pairs, talks = {"documents": "data/pairs"}, {"documents": "data/talks/talks.jsonl"}
    return {
        "pairs, both": {**own, **small, **pairs, "order": "both"},
        "pairs, coin": {**own, **small, **pairs, "order": "coin", "scan": "columns", "seed": 2},
        "pairs, padded": {**own, **small, **pairs, "order": "image_first", "policy": "pad", "max_side": 12},
        "pairs, two codes": {**own, **small, **pairs, "order": "text_first", "image_tokenizer": "image2"},
        "pairs, fixed grid": {**own, **small, **pairs, "order": "both", "max_grid": 64, "fixed_grid": (2, 3)},
        "interleaved": {**own, **small, "documents": "data/pairs/interleaved.jsonl", "max_positions": 12},
        "texts": {**own, **small, "documents": "data/texts.jsonl"},
        "texts, dropped": {**own, **small, "documents": "data/texts.jsonl", "long_documents": "drop"},
        "talks": {**small, **talks, "model": "model"},
        "talks, balanced": {**small, **talks, "model": "model", "balance_answers": True, "seed": 1},
        "talks, fixed grid": {**own, **small, **talks, "max_grid": 64, "fixed_grid": (2, 2)}
        | {"separator": True},
        "tiles": {**own, **small, "documents": "data/pages", "large_images": "tile", "max_side": 16},
    }


def expected_shards(name: str) -> dict[str, Any]:
    """The folder that ``prepare`` writes in a case."""
    out = Path(f"out-{name.replace(', ', '-').replace(' ', '-')}")
    with codes_by_rule(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        ef.prepare({"out": str(out), **prepare_cases()[name]})
    record = json.loads((out / "prepare.json").read_text(encoding="utf-8"))
    lines = (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    parts = [part for part in ("train", "validation") if (out / part).is_dir()]
    return {
        "counts": {part: counts_of(record[part]) for part in parts},
        "rejected": [
            [entry["part"], entry.get("row"), Path(entry.get("file", "")).name]
            for entry in map(json.loads, lines)
            if entry["reason"] not in NOT_COUNTED_BEFORE
        ],
        "windows": {part: windows_of(out / part) for part in parts},
        "columns": {part: columns_of(out / part) for part in parts},
        "files": sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()),
    }


NOT_COUNTED_BEFORE = ("last turns of a conversation longer than a window", "message after the last answer")


def counts_of(tally: dict[str, Any]) -> dict[str, Any]:
    """The entry of a part in prepare.json, by the names of its first versions."""
    reasons = {**tally["left_out"], **tally.get("dropped", {})}
    left_out = sum(count for reason, count in reasons.items() if reason not in NOT_COUNTED_BEFORE)
    rows = tally.get("rows", tally["documents"])
    same = {name: tally[name] for name in ("pieces", "split", "images", "windows", "tokens", "fill")}
    return {"documents": rows, **same, "left_out": left_out}


def windows_of(folder: Path) -> dict[str, Any]:
    """Column -> rows, as training reads them."""
    return {column: values.tolist() for column, values in ef.windows(folder).items()}


def columns_of(folder: Path) -> dict[str, list[Any]]:
    """Column -> type and width in the files of a part."""
    import pyarrow as pa

    files = sorted(folder.glob("data-*.arrow"))
    with pa.memory_map(str(files[0])) as source:
        schema = pa.ipc.open_stream(source).schema
    return {field.name: [str(field.type.value_type), field.type.list_size] for field in schema}


def lay_out(folder: Path) -> None:
    """Put what ``prepare_cases`` name into an empty folder."""
    for name in ("data", "model"):
        (folder / name).symlink_to(FOLDER / name)
    (folder / "text").symlink_to(FOLDER / "model" / "tokenizer")
    (folder / "image").symlink_to(FOLDER / "model" / "tokenizer" / "image")
    two_codes().save(folder / "image2")


def expected_saved(folder: Path) -> dict[str, Any]:
    """The files, configs and tensors of the fixtures' model, read and written again."""
    model = ef.load_model(FOLDER / "model")
    ef.save_model(folder / "saved", model.lm, model.tokenizer)
    return describe_model(folder / "saved")


def describe_model(folder: Path) -> dict[str, Any]:
    """Files of a model folder; fields of its configs; names, types and shapes of its tensors."""
    described: dict[str, Any] = {
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    }
    for part in ("", "tokenizer/image/"):
        described[f"{part}config.json"] = json.loads((folder / f"{part}config.json").read_text())
        tensors = golden_parts.tensors_of(folder / f"{part}model.safetensors")
        described[f"{part}model.safetensors"] = {n: [str(t.dtype), list(t.shape)] for n, t in tensors.items()}
    return described


def expected(work: Path) -> dict[str, Any]:
    """Everything expected. ``work`` is an empty folder."""
    lay_out(work)
    with within(work):
        return {
            "layouts": {shape: expected_layout(shape) for shape in SHAPES},
            "documents": [[*given, tokens_of_given(*given)] for given in given_documents()],
            "texts": expected_texts(),
            "windows": {
                f"{name}/{part}": windows_of(FOLDER / name / part)
                for name in ("prepared", "talks")
                for part in ("train", "validation")
            },
            "shards": {name: expected_shards(name) for name in prepare_cases()},
            "saved": expected_saved(work),
        }


def plain(value: Any) -> Any:
    """Convert to JSON and back."""
    return json.loads(json.dumps(value, default=_number))


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} is not JSON")
