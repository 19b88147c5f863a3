"""Texts to train a text tokenizer on, from files and data sets."""

from collections.abc import Iterable, Iterator
from pathlib import Path

DATA_SETS = (".arrow", ".csv", ".json", ".jsonl", ".parquet")
"""Suffixes of files with columns."""


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


def read_texts(path: str | Path, column: str = "text") -> Iterator[str]:
    """The texts of a file or folder: ``column`` of a data set (strings, or lists of them), else the lines.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8, or the column is missing or holds something else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} not found: texts to train on are expected there")
    if path.is_dir() or path.suffix in DATA_SETS:
        return _column(path, column)
    return _lines(path)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from (line.rstrip("\n") for line in file if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def _column(path: Path, column: str) -> Iterator[str]:
    from .sources import load_source

    dataset = load_source(path)
    if column not in dataset.column_names:
        raise ValueError(f"{path} has no column {column!r}; it has {', '.join(dataset.column_names)}")
    for number, row in enumerate(dataset.select_columns(column)):
        cell = row[column]  # type: ignore[index]
        for text in cell if isinstance(cell, list) else [cell]:
            if text is None:  # where an image stands
                continue
            if not isinstance(text, str):
                kind = type(text).__name__
                raise ValueError(f"{path}: row {number} of {column!r} holds a {kind}, expected a string")
            yield text
