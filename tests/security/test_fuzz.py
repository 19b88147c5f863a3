"""Randomly damaged folders of strangers: nothing in them runs, and each is used, or refused in one line.

A few of each kind run with the other tests; ``make fuzz`` runs new ones for minutes. To repeat a failure:

    make fuzz FUZZ=model:1234
"""

import contextlib
import io
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from PIL import Image

from earlyfusion.cli.main import main
from earlyfusion.storage.tensor_files import TensorFiles
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.loop.resume import read_checkpoint
from earlyfusion.train.loop.shards import guard

from .damage import damage_folder

MEMORY, SECONDS = 2 * 2**30, 20
CASES = 8
"""Of each kind, if ``FUZZ_SECONDS`` is not set."""
FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", 0))
"""For each kind."""
ONE = os.environ.get("FUZZ", "")
"""KIND:SEED to repeat."""

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect")
"""Events of Python that a file of a stranger must not cause."""


def command(*argv: Any) -> None:
    """Run a command; an error is one line."""
    told, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        code = main([str(a) for a in argv])
    lines = [line for line in told.getvalue().splitlines() if line.startswith("earlyfusion: ")]
    assert code in (0, 2) and "Traceback" not in told.getvalue(), told.getvalue()
    assert code == 0 or len(lines) == 1 and len(lines[0]) < 2000, told.getvalue()
    assert "\x1b" not in told.getvalue() + printed.getvalue()


def open_model(folder: Path) -> None:
    command("info", folder)
    command("sample", "--model", folder, "--out", folder.parent / "out", "--max-new-tokens=8", "A")


def open_tokenizer(folder: Path) -> None:
    picture = folder.parent / "pictures" / "a.png"
    picture.parent.mkdir()
    Image.new("RGB", (16, 16), "red").save(picture)
    command("image-tokenizer", "encode", picture.parent, "--model", folder, "--out", folder.parent / "codes")


def open_prepared(folder: Path) -> None:
    command("info", folder)
    data = TokenData(str(folder), batch_size=4)
    data.setup("fit")
    for batch in data.train_dataloader():
        assert torch.isfinite(batch["tokens"].float()).all()


def open_checkpoint(path: Path) -> None:
    """A file, or a folder of shards: as a training does, which checks it and then lets Lightning read it."""
    path = path / "last.ckpt"
    command("info", path)
    read_checkpoint(path)

    def load(path: Path, weights_only: bool) -> None:
        asked.append(weights_only)
        if path.is_file():
            torch.load(path, weights_only=True)
        else:
            state = {"state_dict": {"w": torch.zeros(4, 3), "b": torch.zeros(2, dtype=torch.bfloat16)}}
            dcp.load(state, checkpoint_id=path)  # pyright: ignore[reportPrivateImportUsage]

    asked: list[bool] = []
    strategy = SimpleNamespace(load_checkpoint=load)
    guard(strategy)
    try:
        strategy.load_checkpoint(path, weights_only=False)
    finally:
        assert all(asked)  # the guard lets nobody ask for less


def open_tensors(folder: Path) -> None:
    tensors = TensorFiles([folder / "vqgan.ckpt"])
    for name in tensors:
        tensors[name].float().sum()


OPEN: dict[str, Callable[[Path], None]] = {
    "model": open_model,
    "tokenizer": open_tokenizer,
    "prepared": open_prepared,
    "checkpoint": open_checkpoint,
    "shards": open_checkpoint,
    "tensors": open_tensors,
}


@pytest.fixture
def sound(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """A folder of each kind that is not damaged."""

    def make(kind: str) -> Path:
        folder = tmp_path / "sound"
        state = {"w": torch.randn(4, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
        hyper = {"hyper_parameters": {"lr": 0.1, "betas": (0.9, 0.99)}, "global_step": 3, "format": 2}
        if kind == "model":
            return request.getfixturevalue("model_folder")
        if kind == "tokenizer":
            return request.getfixturevalue("tokenizer_folders")[1]
        if kind == "prepared":
            return request.getfixturevalue("prepared")
        folder.mkdir()
        if kind == "checkpoint":
            torch.save({**hyper, "state_dict": state}, folder / "last.ckpt")
        elif kind == "shards":
            whole = {"state_dict": state, "optimizer_0": {"lr": 0.1, "step": torch.tensor(1.0)}}
            dcp.save(whole, checkpoint_id=folder / "last.ckpt")  # pyright: ignore[reportPrivateImportUsage]
            torch.save(hyper, folder / "last.ckpt/meta.pt")
        else:  # with an object, so that the reader of old checkpoints reads it
            torch.save({"state_dict": state, "callbacks": SimpleNamespace(x=1)}, folder / "vqgan.ckpt")
            torch.save(state, folder / "vqgan.ckpt")
        return folder

    return make


def isolated(job: Callable[[], None], place: Path) -> str:
    """Run ``job`` in a fork with 2 GB more memory and 20 s of processor; what went wrong, or ""."""
    log = place.parent / "log"
    if child := os.fork():
        end = time.monotonic() + 8 * SECONDS  # it may wait for others
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return "" if code == 0 else f"exit code {code}\n{log.read_text(errors='replace')[-3000:]}"
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "it hangs"
    code = 3
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = open(file, "w", closefd=False)  # pytest has its own
        seen: list[str] = []

        def watch(event: str, args: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if writes and isinstance(args[0], str | bytes):
                where = os.path.realpath(os.fsdecode(args[0]))
                if not where.startswith((os.path.realpath(place.parent), "/dev/", "/tmp/")):
                    seen.append(f"writes {where}")
            elif event in FORBIDDEN:
                seen.append(f"{event} {args}")

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        sys.addaudithook(watch)
        try:
            job()
        except (ValueError, OSError) as error:  # what the command line prints as one line
            assert "\n" not in str(error).strip(), error
        assert not seen, seen
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wrong(kind: str, seed: int, sound: Path, place: Path) -> str:
    """What is wrong after the folder that ``seed`` damages was opened, or ""."""
    folder, marker = place / kind, place / "ran"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound, folder)
    damage_folder(folder, random.Random(f"{kind} {seed}"), marker)
    said = isolated(lambda: OPEN[kind](folder), place)
    return said or ("a pickle ran" if marker.exists() else "")


def takes_memory() -> None:
    try:
        mmap.mmap(-1, MEMORY + 2**30)  # of the system: malloc may have as much left of earlier tests
    except OSError:
        raise RuntimeError("memory") from None


@pytest.mark.parametrize(
    ("job", "word"),
    [
        (takes_memory, "memory"),
        (lambda: os.system("true"), "os.system"),
        (lambda: open("/nowhere/file", "w"), "writes"),
        (lambda: 1 // 0, "ZeroDivisionError"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "exit code -9"),
        (lambda: command("info", "nowhere"), ""),
    ],
)
def test_a_broken_promise_is_seen(job: Callable[[], Any], word: str, tmp_path: Path) -> None:
    said = isolated(job, tmp_path / "case")
    assert word in said and bool(word) == bool(said)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory as Linux does")
@pytest.mark.parametrize("kind", OPEN)
def test_a_damaged_folder_is_used_or_refused(kind: str, sound: Callable[[str], Path], tmp_path: Path) -> None:
    if ONE and not ONE.startswith(f"{kind}:"):
        pytest.skip("another one is repeated")
    folder, place = sound(kind), tmp_path / "cases" / "one"
    place.parent.mkdir()
    assert isolated(lambda: OPEN[kind](shutil.copytree(folder, place / kind)), place) == ""
    seed = int(ONE.partition(":")[2]) if ONE else int(time.time()) * 1000 if FUZZ_SECONDS else 0
    first, end, found = seed, time.monotonic() + FUZZ_SECONDS, []
    while seed == first or not ONE and (time.monotonic() < end if FUZZ_SECONDS else seed < CASES):
        if said := wrong(kind, seed, folder, place)[-2500:]:
            found.append(f"make fuzz FUZZ={kind}:{seed}\n{said}")
        seed += 1
    print(f"{kind}: seeds {first} to {seed - 1}, {len(found)} failures")
    assert not found, "\n\n".join(found[:20])
