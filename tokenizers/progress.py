"""Progress reports of long work, the bars that show them on a terminal, and what to run next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[str, int, int | None], None]
"""Called as (description, items done, items in total or None if unknown)."""


def silent(what: str, done: int, total: int | None) -> None:
    """Ignore a report: the default where progress is optional."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show one bar per description on stderr, while the context is open.

    Yields:
        A function to report progress to. Nothing is shown if stderr is not a terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


_AFTER: ContextVar[float | None] = ContextVar("seconds after this", default=None)


def suggest(command: str) -> None:
    """Print the command to run next, unless the running one is ``part_of_more``."""
    if _AFTER.get() is None:
        print(f"next: {command}")


@contextmanager
def part_of_more(after: float) -> Iterator[None]:
    """The commands that run in this context belong to a larger one, which needs ``after`` more seconds."""
    before = _AFTER.set(after)
    try:
        yield
    finally:
        _AFTER.reset(before)


def seconds_after() -> float | None:
    """What ``part_of_more`` was given; None outside of it."""
    return _AFTER.get()


def named(progress: Progress, name: str) -> Progress:
    """A ``Progress`` that adds ``name`` to every description and passes it to ``progress``."""
    return lambda what, done, total: progress(f"{what}, {name}", done, total)
