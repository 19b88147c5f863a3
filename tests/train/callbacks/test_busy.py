"""A training says that other processes take its cores, and only then."""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from earlyfusion.train.callbacks import busy
from earlyfusion.train.callbacks.busy import Busy, Reading, between, reading

TICK = 1 / os.sysconf("SC_CLK_TCK")


def readings(others: float, waited: float, own: float = 0.5) -> Iterator[Reading | None]:
    """Readings 10 seconds apart, of a process with one thread on two cores."""
    for n in range(10):
        seconds = 10.0 * n
        used = (own + others) * 2 * seconds
        threads = {"1": ((1 - waited) * seconds, waited * seconds)}
        yield Reading(seconds, 2, used, own * 2 * seconds, threads)


def lines(
    found: Iterator[Reading | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    processes: int = 1,
) -> list[str]:
    """What a training of five steps prints, with a reading after each."""
    monkeypatch.setattr(busy, "reading", lambda: next(found))
    trainer: Any = SimpleNamespace(world_size=processes)
    module: Any = None
    callback = Busy(seconds=-1e9)
    callback.on_train_start(trainer, module)
    for n in range(5):
        callback.on_train_batch_end(trainer, module, None, None, n)
    return capsys.readouterr().err.splitlines()


def test_others_are_named_once(monkeypatch, capsys):
    (line,) = lines(readings(others=0.45, waited=0.4), monkeypatch, capsys)
    assert "about 45% of the time of the 2 cores" in line


@pytest.mark.parametrize(
    ("others", "waited", "own"),
    [
        (0.0, 0.6, 1.0),  # more threads than cores, or loader processes
        (0.1, 0.6, 0.9),
        (0.6, 0.02, 0.4),  # cores for all
    ],
)
def test_a_training_that_does_not_wait_for_others_is_silent(others, waited, own, monkeypatch, capsys):
    assert lines(readings(others, waited, own), monkeypatch, capsys) == []


def test_what_is_not_counted_or_shared_by_ranks_is_not_judged(monkeypatch, capsys):
    assert lines(iter([None] * 9), monkeypatch, capsys) == []
    first = readings(0.45, 0.4)
    assert lines(iter([next(first), None, *first]), monkeypatch, capsys) == []
    assert lines(readings(0.45, 0.4), monkeypatch, capsys, processes=2) == []


def test_it_waits_for_its_interval(monkeypatch, capsys):
    monkeypatch.setattr(busy, "reading", lambda: Reading(time.monotonic(), 1, 1.0, 1.0, {"1": (1.0, 1.0)}))
    callback, trainer = Busy(seconds=1000), SimpleNamespace(world_size=1)
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    monkeypatch.setattr(busy, "reading", lambda: pytest.fail("too early"))
    callback.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]


def proc(folder: Path, cores: set[int]) -> Path:
    """A /proc: a process with two threads, its child and grandchild, and a stranger."""
    me = os.getpid()
    files = {
        "stat": "cpu 0 0 0 0 0 0 0 0 0 0\n"
        + "".join(f"cpu{n} 100 20 30 4000 500 6 7 80 9 0\n" for n in cores)
        + "cpu999 1 1 1 1 1 1 1 1 0 0\n",
        "self/task/5/schedstat": "2000000000 500000000 7\n",
        "self/task/6/schedstat": "0 0 0\n",
        f"{me}/stat": f"{me} (a ) b) S 1 0 0 0 0 0 0 0 0 0 1 2 3 4 0 0\n",
        "9000001/stat": f"9000001 (child) S {me} 0 0 0 0 0 0 0 0 0 10 20 30 40 0 0\n",
        "9000002/stat": "9000002 (grandchild) S 9000001 0 0 0 0 0 0 0 0 0 100 200 0 0 0 0\n",
        "9000003/stat": "9000003 (stranger) S 1 0 0 0 0 0 0 0 0 0 5000 5000 0 0 0 0\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_figures_of_the_system_are_read(tmp_path: Path):
    cores = os.sched_getaffinity(0)
    found = reading(str(proc(tmp_path, cores)))
    assert found is not None and found.cores == len(cores)
    assert found.used == pytest.approx(len(cores) * 163 * TICK)
    assert found.own == pytest.approx((10 + 100 + 300) * TICK)
    assert found.threads == {"5": (2.0, 0.5), "6": (0.0, 0.0)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stat", "cpu 1 2 3 4 5 6 7 8 9 0\n"),  # other numbers of cores than outside of the container
        ("stat", None),
        ("self/task/5/schedstat", "0 0 0\n"),  # a kernel without the figures
        ("self/task/5/schedstat", "nonsense\n"),
    ],
)
def test_a_system_that_does_not_count_gives_no_figures(tmp_path: Path, name, text):
    folder = proc(tmp_path, os.sched_getaffinity(0))
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    assert reading(str(folder)) is None


def test_a_stranger_on_the_same_core_is_seen_and_a_child_is_not_a_stranger():
    if reading() is None:
        pytest.skip("this system does not count the time that threads wait")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    work = ("timeout", "2", "sh", "-c", "while :; do :; done")
    try:
        child = subprocess.Popen(work)
        before, own = reading(), time.process_time()
        compute(0.3)
        after, own = reading(), time.process_time() - own
        child.terminate()
        child.wait()
        assert before is not None and after is not None and after.own - before.own > own + 0.05
        subprocess.run(["sh", "-c", f"{shlex.join(work)} &"], check=True)  # its parent ends: it is not ours
        before = reading()
        compute(0.4)
        after = reading()
    finally:
        os.sched_setaffinity(0, cores)
    assert before is not None and after is not None
    load = between(before, after)
    assert load.others > 0.2 and load.waited > 0.2


def compute(seconds: float) -> None:
    """Keep this thread busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
