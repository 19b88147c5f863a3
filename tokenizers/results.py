"""The results of commands: what one wrote is never overwritten by another unasked.

The rule, for every command that writes: if ``--out`` holds what the same command made of the same files, the
command says so, or resumes. If it holds anything else that the command would replace, the command refuses, unless
``--overwrite`` is given: that renames the earlier result to NAME.before-1 (or -2, ...). Nothing is deleted.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import fingerprint, read_json, write_json

MADE = ".made.json"
"""In a folder: the options that it was made with, and a hash of the files that were read. Of a file NAME:
``.NAME.made.json`` beside it."""
ANYTHING = ("[!.]*",)
"""Every file and folder but hidden ones."""


@dataclass(frozen=True)
class Result:
    """What a command is about to write."""

    out: Path
    """A folder, or a file."""
    options: Mapping[str, Any]
    """All options that it depends on."""
    inputs: tuple[str | Path, ...] = ()
    """The files and folders that are read."""
    holds: tuple[str, ...] = ()
    """If ``out`` is a folder: patterns of what is written into it."""
    more: tuple[Path, ...] = ()
    """Other files that are written."""
    resumes: bool = False
    """The same command adds what is missing, instead of being done."""


@contextmanager
def claimed(result: Result, overwrite: bool = False) -> Iterator[bool]:
    """Yield whether there is something to do; after the block, note what ``result`` was made of.

    If the block raises and wrote nothing, what ``overwrite`` moved aside is put back.

    Raises:
        ValueError: An earlier result is in the way and ``overwrite`` is false, or it cannot be moved.
    """
    now = json.loads(json.dumps(dict(result.options), default=str))
    note = {"options": now} if result.resumes else {"options": now, "files": fingerprint(*result.inputs)}
    there = [path for path in (result.out, *result.more) if _holds(path, result)]
    if there and not overwrite:
        difference = _difference(result, note)
        if not difference and not result.resumes and len(there) == 1 + len(result.more):
            yield False
            return
        if difference:
            raise ValueError(
                f"{there[0]} holds an earlier result{difference}: give another name, or --overwrite, which moves "
                "the old one aside"
            )
    moved = {path: move_aside(path, result.inputs) for path in there if overwrite}
    try:
        if result.resumes:
            write_json(_record(result), note)
        yield True
    except BaseException:
        for path, aside in moved.items():
            if path.is_dir() and [entry.name for entry in path.iterdir()] in ([], [MADE]):
                (path / MADE).unlink(missing_ok=True)
                path.rmdir()
            if not path.exists():
                aside.rename(path)
        raise
    write_json(_record(result), note)


def move_aside(path: str | Path, needed: Iterable[str | Path] = ()) -> Path:
    """Rename the folder or file ``path`` to NAME.before-1, or the next number that is free; returns the new path.

    Args:
        path: What is in the way.
        needed: Files and folders that are read afterwards.

    Raises:
        ValueError: ``path`` contains something that is needed, or the current folder, or cannot be renamed.
    """
    path = Path(path)
    here = path.resolve()
    for one in (*needed, Path.cwd()):
        if Path(one).resolve().is_relative_to(here):
            raise ValueError(f"{path} cannot be moved aside, since {one} is needed: give another name")
    stem, ending = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    number = 1
    while (aside := path.with_name(f"{stem}.before-{number}{ending}")).exists():
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        raise ValueError(f"{path} cannot be moved aside ({error.strerror}): give another name") from None
    return aside


def _holds(path: Path, result: Result) -> bool:
    if result.holds and path == result.out:
        return path.is_dir() and any(True for pattern in result.holds for _ in path.glob(pattern))
    return path.is_file()


def _record(result: Result) -> Path:
    return result.out / MADE if result.holds else result.out.with_name(f".{result.out.name}{MADE}")


def _difference(result: Result, note: Mapping[str, Any]) -> str:
    """What the earlier result was made with; "" if it is the same."""
    path = _record(result)
    if not path.is_file():
        return " that this command did not make"
    before = read_json(path, "a note of what a result was made of")
    old, new = before.get("options", {}), note["options"]
    for name in dict.fromkeys([*new, *old]):
        if old.get(name) != new.get(name):
            return f", made with {name} {_shown(old.get(name))}, not {_shown(new.get(name))}"
    return "" if before.get("files") == note.get("files") else ", made of other files, or before they changed"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
