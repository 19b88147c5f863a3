"""Many shards at once: in this process, in several of this machine, or on a Ray cluster."""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Literal, NamedTuple

from .shards import Block, Counts

Engine = Literal["local", "ray"]
Make = Callable[..., Counts]
"""Called with a block, and perhaps with whom to tell that rows are done."""
Setup = Callable[[], Make]
"""Loads the tokenizers; each process calls its own once. It can be pickled."""


class Done(NamedTuple):
    """What came of a block; ``rows`` were not told before."""

    block: Block
    counts: Counts
    rows: int


def make_all(
    setup: Setup,
    blocks: Iterable[Block],
    jobs: int = 1,
    engine: Engine = "local",
    report: Callable[[str, int], None] = lambda *_: None,
) -> Iterator[Done]:
    """Make the shards of all ``blocks``, in any order.

    :param jobs: processes; each computes with its share of the machine's threads.
    :param report: called with a part and how many of its rows more are done, where that is known early.
    :raises ValueError: a row cannot be used, or a process died.  :raises ImportError: there is no Ray.
    """
    if engine == "ray":
        yield from _ray(setup, blocks, jobs)
    elif jobs == 1:
        make = setup()
        for block in blocks:
            counts = make(block, lambda rows, part=block.part: report(part, rows))
            yield Done(block, counts, 0)
    else:
        yield from _pool(setup, blocks, jobs)


_make: Make | None = None


def _start(setup: Setup, parent: int, threads: int) -> None:
    global _make
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _make = setup()


def _end_with(parent: int) -> None:
    """A process whose parent was killed has nobody to work for."""
    import time

    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run(block: Block) -> Counts:
    assert _make is not None
    return _make(block)


def _pool(setup: Setup, blocks: Iterable[Block], jobs: int) -> Iterator[Done]:
    import torch

    threads = max(1, torch.get_num_threads() // jobs)
    context = get_context("spawn")  # a fork would share the threads that torch has begun
    waiting: dict[Future[Counts], Block] = {}
    with ProcessPoolExecutor(jobs, context, _start, (setup, os.getpid(), threads)) as pool:
        try:
            for block in blocks:
                waiting[pool.submit(_run, block)] = block
                if len(waiting) > 2 * jobs:  # streamed rows wait in memory
                    yield from _finished(waiting)
            while waiting:
                yield from _finished(waiting)
        except BrokenProcessPool:
            raise ValueError(
                "a process that made shards died (killed, or out of memory): finished shards are kept; run "
                "the same command again, perhaps with fewer --jobs"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _finished(waiting: dict[Future[Counts], Block]) -> Iterator[Done]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        block = waiting.pop(future)
        yield Done(block, future.result(), block.size)


class _RayWorker:
    """An actor of Ray Data: one model per worker."""

    def __init__(self, setup: Setup) -> None:
        self.make = setup()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        from dataclasses import asdict

        part, number, size = batch["part"][0], int(batch["number"][0]), int(batch["size"][0])
        counts = self.make(Block(str(part), number, size))
        return {**batch, "counts": [asdict(counts)]}


def _ray(setup: Setup, blocks: Iterable[Block], jobs: int) -> Iterator[Done]:
    import ray
    from ray.exceptions import RayError

    rows = []
    for block in blocks:
        if block.rows is not None:
            raise ValueError("streaming reads rows in one process: leave out --engine ray, or streaming")
        rows.append({"part": block.part, "number": block.number, "size": block.size})
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
            counts = Counts(**row["counts"])
            yield Done(Block(row["part"], row["number"], row["size"]), counts, row["size"])
    except RayError as error:  # its text is the tracebacks of several processes
        cause = getattr(error, "cause", None) or error
        message = str(cause).strip().splitlines()
        raise ValueError(f"Ray: {message[-1] if message else type(cause).__name__}") from None
