"""The command `text-tokenizer fit`: texts from files -> a sentencepiece model."""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..tokenizers.text import FILE, TextTokenizer

DATA_SETS = (".arrow", ".csv", ".json", ".jsonl", ".parquet")
"""Suffixes of files with columns."""


def fit(args: Namespace) -> None:
    """Train on `args.input` and write `args.out`; see `earlyfusion text-tokenizer fit --help`."""
    counts = [0, 0]  # texts, characters

    def counted(texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            counts[0] += 1
            counts[1] += len(text)
            yield text

    tokenizer = TextTokenizer.train(
        counted(text for name in args.input for text in read_texts(name, args.column)),
        args.vocab_size,
        character_coverage=args.character_coverage,
        max_piece_length=args.max_piece_length,
    )
    tokenizer.save(args.out)
    print(f"{counts[0]:,} texts, {counts[1]:,} characters -> {tokenizer.vocab_size:,} pieces")
    if tokenizer.vocab_size < args.vocab_size:
        print(f"these texts give no more: --vocab-size was {args.vocab_size:,}")
    print(f"written to {Path(args.out) / FILE}")


def read_texts(path: str | Path, column: str = "text") -> Iterator[str]:
    """The texts of a file or folder: `column` of a data set (strings, or lists of them), else the lines.

    Raises FileNotFoundError, and ValueError naming the file, for what is not as expected.
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
