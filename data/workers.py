"""Many shards at once: in this process, in several of this machine, or on a Ray cluster."""

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import Any, Literal, NamedTuple

from .splits import Shard

Engine = Literal["local", "ray"]
Make = Callable[..., int]
"""Makes a shard, and returns the number of its images. Called with the shard, and perhaps an ``OnRows``."""
Setup = Callable[[], Make]
"""Loads the tokenizers, once in each process. It can be pickled."""


class Done(NamedTuple):
    """A finished shard."""

    shard: Shard
    images: int
    rows: int
    """Rows that ``on_rows`` has not reported."""


def make_all(
    setup: Setup,
    shards: Iterable[Shard],
    jobs: int = 1,
    engine: Engine = "local",
    on_rows: Callable[[str, int], None] = lambda *_: None,
) -> Iterator[Done]:
    """Make all ``shards``, in any order.

    Args:
        jobs: Number of processes; each computes with its share of the machine's threads.
        on_rows: Called with a part and the number of its rows that were done since the last call. Only this
            process reports before a shard is finished.

    Raises:
        ValueError: A row cannot be used, or a process died.
        ImportError: Ray is not installed.
    """
    if engine == "ray":
        yield from _ray(setup, shards, jobs)
    elif jobs == 1:
        make = setup()
        for shard in shards:
            images = make(shard, lambda rows, part=shard.part: on_rows(part, rows))
            yield Done(shard, images, 0)
    else:
        yield from _pool(setup, shards, jobs)


_make: Make | None = None


def _start(setup: Setup, threads: int) -> None:
    global _make
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _make = setup()


def _end_with_parent() -> None:
    """End this process when its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(shard: Shard) -> int:
    assert _make is not None
    return _make(shard)


def _context() -> BaseContext:
    """How processes start. A fork of this one would share the threads that torch has begun."""
    if sys.platform != "linux":  # macOS: libraries that are imported may not survive a fork
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.prepare"])  # imported once for all of them
    return context


def _pool(setup: Setup, shards: Iterable[Shard], jobs: int) -> Iterator[Done]:
    import torch

    threads = max(1, torch.get_num_threads() // jobs)
    waiting: dict[Future[int], Shard] = {}
    with ProcessPoolExecutor(jobs, _context(), _start, (setup, threads)) as pool:
        try:
            for shard in shards:
                waiting[pool.submit(_run, shard)] = shard
                if len(waiting) > 2 * jobs:  # streamed rows wait in memory
                    yield from _finished(waiting)
            while waiting:
                yield from _finished(waiting)
        except BrokenProcessPool:
            raise ValueError(
                "a worker process died (killed, or out of memory). Finished shards are kept: run the same "
                "command again, perhaps with fewer --jobs"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _finished(waiting: dict[Future[int], Shard]) -> Iterator[Done]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        shard = waiting.pop(future)
        yield Done(shard, future.result(), shard.size)


class _RayWorker:
    """An actor of Ray Data: one model per worker."""

    def __init__(self, setup: Setup) -> None:
        self.make = setup()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part, number, size = batch["part"][0], int(batch["number"][0]), int(batch["size"][0])
        return {**batch, "images": [self.make(Shard(str(part), number, size))]}


def _ray(setup: Setup, shards: Iterable[Shard], jobs: int) -> Iterator[Done]:
    import ray
    from ray.exceptions import RayError

    rows = []
    for shard in shards:
        if shard.rows is not None:
            raise ValueError("streaming reads rows in one process: leave out --engine ray, or streaming")
        rows.append({"part": shard.part, "number": shard.number, "size": shard.size})
    if not rows:
        return
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    work = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _RayWorker, fn_constructor_args=(setup,), batch_size=1, compute=ray.data.ActorPoolStrategy(size=jobs)
    )
    try:
        for row in work.iter_rows():
            yield Done(Shard(row["part"], row["number"], row["size"]), row["images"], row["size"])
    except RayError as error:  # its text is the tracebacks of several processes
        cause = getattr(error, "cause", None) or error
        message = str(cause).strip().splitlines()
        raise ValueError(f"Ray: {message[-1] if message else type(cause).__name__}") from None
