"""Several processes (gloo, on the CPU): the loss curve of one, each window once, and resuming with more or
fewer."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from earlyfusion.eval.report.curves import read_metrics

RANK = """
import json
import os
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ |= environment
sys.path.insert(0, str(folder))
import torch

torch.set_num_threads(1)
from earlyfusion.train.loop import cli as lightning_cli
from earlyfusion.train.lm import data as lm_data

load = lm_data.windows_of


def seen(sources, samples):
    with (folder / f"seen-{name}-{os.environ.get('RANK', 0)}.txt").open("a") as file:
        file.write(json.dumps(samples.tolist()) + "\\n")
    return load(sources, samples)


lm_data.windows_of = seen
log = os.open(folder / f"log-{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)
code = 1
try:
    code = lightning_cli.run(kind, argv)
except SystemExit as stop:
    code = stop.code
except BaseException:
    import traceback

    traceback.print_exc()
finally:
    os._exit(code)  # the threads of gloo may abort a process that ends in order
"""
CALLBACKS = """
import hashlib
import os
import signal
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step - 1 and trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)


class Digest(Callback):
    def on_train_end(self, trainer, pl_module):
        digest = hashlib.sha256()
        for name, value in sorted(pl_module.net.state_dict().items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        path = Path(trainer.default_root_dir) / f"digest-{trainer.global_rank}"
        path.write_text(digest.hexdigest())
"""


NUMBERS = {"ddp": (4, 1, 2), "fsdp": (2, 1)}
"""Strategy -> the numbers of processes that one run had in turn."""
STOPS = (5, 9)
"""The steps after which it was stopped."""
FSDP = [
    "--trainer.strategy=ModelParallelStrategy",
    "--trainer.strategy.tensor_parallel_size=1",
]


def argv(
    prepared: Path, out: Path, ranks: int, *more: str, steps: int = 14, sharded: bool = False
) -> list[str]:
    """`lm fit` of a small network, with 8 windows a step in all."""
    strategy = [*FSDP, f"--trainer.strategy.data_parallel_size={ranks}"] if sharded else []
    if ranks > 1 and not sharded:
        strategy = ["--trainer.strategy=ddp"]
    small = {"n_layers": 2, "width": 32, "n_heads": 2, "n_kv_heads": 2, "ffn_width": 64, "context_length": 64}
    return [
        "fit",
        f"--data.path={prepared}",
        f"--data.batch_size={8 // ranks}",
        *(f"--model.config.{name}={value}" for name, value in small.items()),
        "--model.warmup_steps=2",
        "--model.lr=0.01",
        "--model.muon_lr=0.02",
        "--trainer.accelerator=cpu",
        f"--trainer.devices={ranks}",
        "--trainer.max_steps=14",
        "--trainer.log_every_n_steps=1",
        "--trainer.val_check_interval=7",
        "--trainer.precision=32-true",
        f"--trainer.default_root_dir={out}",
        "--trainer.enable_progress_bar=false",
        *strategy,
        *more,
    ]


def launch(start: Any, folder: Path, runs: list[dict[str, Any]]) -> None:
    """Do the runs, each in as many processes as it says, one after the other."""
    (folder / "earlyfusion_test.py").write_text(CALLBACKS)
    for number, run in enumerate(runs):
        environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if run["ranks"] > 1 or "ModelParallel" in str(run["argv"]):
            environment |= {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(20000 + os.getpid() % 20000 + number),
            }
            environment |= {"TORCHELASTIC_RUN_ID": "1", "GROUP_RANK": "0"}
            environment |= {"WORLD_SIZE": str(run["ranks"]), "LOCAL_WORLD_SIZE": str(run["ranks"])}
        shared = {"folder": folder, "kind": "lm", **run}
        ranks = [
            start(RANK, **shared, environment={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(run["ranks"])
        ]
        for rank in ranks:
            rank.join(120)
        log = (folder / f"log-{run['name']}.txt").read_text()
        assert [rank.exitcode for rank in ranks] == [run.get("code", 0)] * run["ranks"], log[-3000:]


def curve(run: Path, name: str = "train/loss") -> list[float]:
    return [value for _, value in read_metrics(run)[name]]


def consumed(folder: Path, name: str, ranks: int) -> list[list[int]]:
    """The windows of each step, of all ranks together, as they were read for training."""
    steps = []
    for rank in range(ranks):
        lines = (folder / f"seen-{name}-{rank}.txt").read_text().splitlines()
        steps.append([json.loads(line) for line in lines])
    return [sum(step, []) for step in zip(*steps, strict=True)]


@pytest.fixture(scope="module")
def runs(start: Any, tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """Runs on one process, on several, with DDP and with FSDP, and on other numbers than they began with."""
    folder = tmp_path_factory.mktemp("ranks")
    plan: list[dict[str, Any]] = []

    def run(name: str, ranks: int, *more: str, **settings: Any) -> None:
        code = settings.pop("code", 0)
        line = argv(prepared, folder / settings.pop("out", name), ranks, *more, **settings)
        plan.append({"name": name, "ranks": ranks, "argv": line, "code": code})

    run("one", 1)
    # Stopped on some processes by the signal that a cluster sends, and resumed on others.
    for kind, numbers in NUMBERS.items():
        for number, ranks in enumerate(numbers):
            last = number == len(numbers) - 1
            stop = [f"--trainer.callbacks.step={STOPS[number]}"] if not last else []
            stop = ["--trainer.callbacks+=earlyfusion_test.StopAt", *stop] if stop else []
            more = [*stop, "--ckpt_path=last-or-new"]
            run(f"{kind}-{number}", ranks, *more, out=kind, sharded=kind == "fsdp", code=0 if last else 143)
    # Weights that are made a part at a time, drawn and of a model.
    parts = "--model.build_in_shards=true"
    begun = [parts, f"--model.init_from={folder / 'one' / 'model'}"]
    for name, more in (("parts", [parts]), ("begun", begun)):
        run(f"{name}-1", 1, *more)
        run(f"{name}-2", 2, *more, sharded=True)
    # Once more in the same folder: refused by all ranks, or moved aside by one of them.
    run("again-1", 2, "--trainer.max_steps=2", out="again")
    run("again-2", 2, "--trainer.max_steps=2", out="again", code=1)
    run("again-3", 2, "--trainer.max_steps=2", "--overwrite", out="again")
    launch(start, folder, plan)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_number_of_processes_changes_nothing(runs: Path, kind: str):
    assert len(curve(runs / "one")) == 14
    for name in ("train/loss", "validation/loss"):
        expected = curve(runs / "one", name)
        assert curve(runs / kind, name) == pytest.approx(expected, rel=1e-4)
    parts = [consumed(runs, f"{kind}-{n}", ranks) for n, ranks in enumerate(NUMBERS[kind])]
    assert sum(parts, []) == consumed(runs, "one", 1)
    assert (runs / kind / "last.ckpt").is_dir() == (kind == "fsdp")
    assert not list(runs.glob(f"{kind}.before*"))  # last-or-new resumes
    same_weights(runs / "one", runs / kind)


def same_weights(one: Path, other: Path) -> None:
    alone, several = (load_file(run / "model/model.safetensors") for run in (one, other))
    assert alone.keys() == several.keys()
    for key, value in alone.items():
        torch.testing.assert_close(several[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_each_window_once_an_epoch(runs: Path):
    stream = sum(consumed(runs, "one", 1), [])
    count = max(stream) + 1
    assert len(stream) > 2 * count  # so epochs have ended
    for epoch in range(len(stream) // count):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parts", "begun"])
def test_weights_that_are_made_in_parts_are_the_same_on_all_numbers_of_processes(runs: Path, kind: str):
    alone = curve(runs / f"{kind}-1")
    assert curve(runs / f"{kind}-2") == pytest.approx(alone, rel=1e-4)
    same_weights(runs / f"{kind}-1", runs / f"{kind}-2")
    if kind == "begun":  # from where the first run ended
        assert alone[0] == pytest.approx(curve(runs / "one")[-1], rel=0.2)
        assert alone[0] < curve(runs / "one")[0] - 1
    else:
        assert alone[0] == pytest.approx(curve(runs / "one")[0], rel=0.02)  # as large as they should be


@pytest.mark.slow
def test_a_run_is_moved_aside_once(runs: Path):
    assert len(curve(runs / "again")) == len(curve(runs / "again.before-1")) == 2
    assert not (runs / "again.before-2").exists()


def test_the_image_tokenizer_trains_on_two_processes(start: Any, tmp_path: Path, image_folder: Path):
    """Both ranks come to the same weights and the same codebook."""
    network = {"stem": 4, "channels": "[8,16]", "res_blocks": 1, "codebook_size": 16, "codebook_dim": 4}
    line = [
        "fit",
        f"--data.train={image_folder}",
        "--data.batch_pixels=2048",
        "--model.autoencoder_steps=4",
        "--model.warmup_steps=2",
        "--model.kmeans_latents=64",
        *(f"--model.config.{name}={value}" for name, value in network.items()),
        "--bench.every=0",
        "--trainer.accelerator=cpu",
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--trainer.max_steps=10",
        "--trainer.log_every_n_steps=1",
        "--trainer.val_check_interval=5",
        "--trainer.precision=32-true",
        f"--trainer.default_root_dir={tmp_path / 'images'}",
        "--trainer.enable_progress_bar=false",
        "--trainer.callbacks+=earlyfusion_test.Digest",
    ]
    launch(start, tmp_path, [{"name": "images", "kind": "image-tokenizer", "ranks": 2, "argv": line}])
    assert len(curve(tmp_path / "images")) == 10
    assert len(curve(tmp_path / "images", "validation/psnr")) == 2
    digests = {(tmp_path / f"images/digest-{rank}").read_text() for rank in range(2)}
    assert len(digests) == 1
    assert (tmp_path / "images/model/model.safetensors").is_file()
