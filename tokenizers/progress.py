"""How long work reports how far it is, and the bars that show it on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how many are done, and how many there are (None if unknown)."""


def silent(what: str, done: int, total: int | None) -> None:
    """Report nothing: the default where progress is optional."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show one bar for each thing that is being done, on stderr, while the context is open.

    Yields:
        What to report progress to. Nothing is shown if stderr is not a terminal.
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


def named(progress: Progress, name: str) -> Progress:
    """``progress`` with ``name`` added to what is being done."""
    return lambda what, done, total: progress(f"{what}, {name}", done, total)
