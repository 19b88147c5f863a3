"""The stability study in small: a few steps of a few cells, and its measures."""

import csv
import math
import multiprocessing
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value

from earlyfusion.data.packing import Document, pack
from earlyfusion.fusion_lm.model import FusionLMConfig
from earlyfusion.storage.files import write_json
from earlyfusion.tokenizers.documents import DocumentTokenizer, Part, interleave, split
from earlyfusion.train.lm.settings import LMSettings

FOLDER = Path(__file__).parents[2] / "benchmarks/studies/stability"
NAMES = ("grid", "streams", "cell", "results", "study")
LENGTH = 24


@pytest.fixture(scope="module")
def modules(script) -> dict[str, ModuleType]:
    return {name: script(f"studies/stability/{name}.py") for name in NAMES}


@pytest.fixture(scope="module")
def data(text_tokenizer, image_tokenizer, vocab, tmp_path_factory) -> Path:
    """A prepared folder: documents of a text and an image in random order."""
    folder, rng = tmp_path_factory.mktemp("prepared"), np.random.default_rng(0)
    DocumentTokenizer(vocab, text=text_tokenizer, image=image_tokenizer).save(folder / "tokenizer")
    features = Features({name: List(Value("int32"), length=LENGTH) for name in ("tokens", "documents")})
    for part, count in (("train", 60), ("validation", 12)):
        documents = []
        for _ in range(count):
            ids = torch.tensor(text_tokenizer.encode("ab"[rng.integers(2)]))
            image = Part("image", torch.from_numpy(rng.integers(vocab["image"].codebook_size, size=(2, 2))))
            parts = [Part("text", ids), image][:: rng.choice([-1, 1])]
            documents.append(interleave(parts, vocab).numpy().astype(np.int32))
        windows = list(pack(map(Document, documents), LENGTH, vocab.pad, rng))
        rows = {
            name: [getattr(window, name).tolist() for window in windows] for name in ("tokens", "documents")
        }
        Dataset.from_dict(rows, features=features).save_to_disk(str(folder / part))
    write_json(folder / "prepare.json", {"key": "rehearsal"})
    return folder


def arguments(data: Path, out: Path, *options: str) -> list[str]:
    run = ["run", "--data", str(data), "--steps", "4"]
    return [*run, "--jobs", "1", "--out", str(out), "--csv", str(out / "cells.csv"), *options]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_two_cells_from_command_to_figures(
    data: Path, tmp_path: Path, modules, capsys, start, monkeypatch
) -> None:
    """The worker comes from the server of the tests, where everything is imported."""
    forked = multiprocessing.get_context("forkserver")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: forked)
    only = r"(plain, no image targets|default, mixed), lr 0.001, seed 0"
    cells = arguments(data, tmp_path, "--only", only)
    modules["study"].main(cells)
    rows = {row["recipe"]: row for row in read(tmp_path / "cells.csv")}
    assert set(rows) == {"plain", "default"}
    for row in rows.values():
        assert 0 < float(row["loss"]) < 1.2 * float(row["initial_loss"]) and row["data"] == "rehearsal"
        assert float(row["highest_output_norm"]) > 0 and row["diverged_at"] == ""
    assert rows["plain"]["loss"] == rows["plain"]["text"]  # image targets do not count there
    assert rows["default"]["loss"] != rows["default"]["text"]

    capsys.readouterr()
    modules["study"].main(cells)
    assert "0 cells" in capsys.readouterr().out  # nothing is left
    with pytest.raises(SystemExit, match="steps.*4.*5"):
        modules["study"].main([*cells, "--steps", "5"])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads Linux's /proc")
def test_workers_end_with_a_killed_command(data: Path, tmp_path: Path, start) -> None:
    code = "import sys; sys.path.insert(0, folder); import study; study.main(arguments)"
    run = start(code, folder=str(FOLDER), arguments=arguments(data, tmp_path, "--steps", "100000"))
    listed = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    children: list[int] = []
    deadline = time.monotonic() + 120
    while not children and time.monotonic() < deadline:
        time.sleep(0.1)
        children = [int(pid) for pid in listed.read_text().split()]
    while not any(len(list(Path(f"/proc/{pid}/task").iterdir())) > 1 for pid in children):  # it is at work
        time.sleep(0.1)
    run.kill()
    run.join(60)
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(children) == 1 and not any(map(alive, children))


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_default_recipe_is_the_default(modules) -> None:
    grid, settings = modules["grid"], LMSettings(tokenizer="")
    config, default = FusionLMConfig(), grid.RECIPES[grid.DEFAULT]
    assert default.config == {name: getattr(config, name) for name in default.config}
    assert default.z_loss_weight == settings.z_loss_weight
    assert (grid.BETAS, grid.WEIGHT_DECAY) == (settings.betas, settings.weight_decay)


def test_every_recipe_is_plain_and_something(modules) -> None:
    grid = modules["grid"]
    plain = grid.RECIPES[grid.PLAIN]
    for name, recipe in grid.RECIPES.items():
        assert (name == grid.PLAIN) == (recipe == plain)
        assert set(recipe.config) == set(plain.config)
    keys = [cell.key for cell in grid.cells()]
    assert len(keys) == len(set(keys))
    assert max(grid.LEARNING_RATES) / min(grid.LEARNING_RATES) >= 100


def test_a_stream_of_one_modality(modules, data: Path, vocab) -> None:
    for part in ("train", "validation"):
        whole = modules["streams"].windows(data, part, None)
        text, image = (modules["streams"].windows(data, part, kind) for kind in ("text", "image"))
        for one, name, other in ((text, "text", "image"), (image, "image", "text")):
            assert not vocab.is_(other, one.tokens).any()
            wanted, found = (
                tokens[vocab.is_(name, tokens)].sort().values for tokens in (whole.tokens, one.tokens)
            )
            assert torch.equal(wanted, found)  # nothing is lost
            documents = [
                document
                for tokens, numbers in zip(*one, strict=True)
                for document in tokens.tensor_split(numbers.diff().nonzero()[:, 0] + 1)
                if document[0] != vocab.pad
            ]
            assert all(split(document, vocab) for document in documents)
        assert (image.tokens == vocab.layout("image").begin).sum() == (
            whole.tokens == vocab.layout("image").begin
        ).sum()
        assert not (text.tokens == vocab.layout("image").begin).any()


def test_divergence(modules) -> None:
    divergence, rise = modules["cell"].divergence, modules["cell"].rise
    good = [7.0 - 0.1 * step for step in range(40)]
    assert divergence(good, 7.5) == (None, "") and rise(good) is None
    assert divergence(good, 7.5, "not finite") == (40, "not finite")
    spike = good[:20] + [9.0] * 10 + good[20:]
    assert divergence(spike, 7.5) == (None, "") and 20 <= rise(spike) < 30
    lost, reason = divergence(good + [20.0] * 30, 7.5)
    assert reason == "above the start" and 40 <= lost < 50


def test_sensitivity(modules) -> None:
    grid = modules["grid"]

    def row(lr: float, loss: float) -> dict[str, str]:
        return {"lr": str(lr), "seed": "0", "loss": str(loss), "initial_loss": "8"}

    losses = [5.0, 4.0, 6.0, 20.0, math.nan, 8.0, 6.0]  # above the start, or NaN, counts as at the start
    rows = [row(lr, loss) for lr, loss in zip(grid.LEARNING_RATES, losses, strict=True)]
    sweep = modules["results"].Sweep(grid.PLAIN, grid.MIXED, rows)
    assert sweep.sensitivity(0) == pytest.approx((1 + 0 + 2 + 4 + 4 + 4 + 2) / 7)
    assert sweep.best(0) == (grid.LEARNING_RATES[1], 4.0)
    unfinished = modules["results"].Sweep(grid.PLAIN, grid.MIXED, rows[1:])
    assert math.isnan(unfinished.sensitivity(0))
