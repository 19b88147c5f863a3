"""Texts to train a text tokenizer on, from files and data sets."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


class Counted:
    """Texts that are counted while they are read."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._from = texts
        self.texts = self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._from:
            self.texts += 1
            self.characters += len(text)
            yield text


def read_texts(
    path: str | Path, column: str = "text", tell: Callable[[str], None] = lambda _: None
) -> Iterator[str]:
    """The texts of a file or folder: ``column`` of its rows (strings, or lists of them), or the lines of a
    file with an unknown ending.

    What cannot be read is left out, with a warning.

    Args:
        tell: Called at the end with a line that says what was read, and which columns were not.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The column is missing, or has no text.
    """
    from .listing import kind_of
    from .sources import open_source
    from .stored import Account, streamed_rows

    if Path(path).is_file() and kind_of(Path(path)) is None:
        yield from _lines(Path(path))
        return
    source = open_source(path)
    if source.columns and column not in source.columns:
        raise ValueError(f"{path} has no column {column!r}, only {', '.join(source.columns)}")
    problems: list[str] = []
    account = Account()
    rows = streamed_rows(source, [column], account, lambda file, why: problems.append(f"{file}: {why}"))
    found = False
    for number, row in enumerate(rows):
        cell = row.get(column)
        for text in cell if isinstance(cell, list) else [cell]:
            if text is None:  # where an image is
                continue
            if not isinstance(text, str):
                kind = type(text).__name__
                raise ValueError(f"{path}: row {number} of {column!r} holds a {kind}, expected a string")
            found = True
            yield text
    others = [name for name in dict.fromkeys([*source.columns, *account.columns]) if name != column]
    if not found and problems:
        raise ValueError(f"{path} has no text that can be read: {problems[0]}")
    rest = f"; not used: {', '.join(others)}" if others else ""
    tell(f"{path}: {account.rows:,} rows, column {column}{rest}")
    if problems:
        warnings.warn(f"{path}: {len(problems):,} files or lines cannot be read; {problems[0]}", stacklevel=2)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from (line.rstrip("\n") for line in file if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
