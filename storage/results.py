"""The results of commands: what one wrote is never overwritten by another unasked.

The rule, for every command that writes: if ``--out`` holds what the same command made of the same files, the
command says so, or resumes. If it holds anything else that the command would replace, the command refuses,
unless ``--overwrite`` is given: that renames the earlier result to NAME.before-1 (or -2, ...). Nothing is
deleted. Without ``--out``, a command writes to a new folder (``numbered``).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
    inputs: tuple[str, ...] = ()
    """The files and folders that are read."""
    holds: tuple[str, ...] = ()
    """If ``out`` is a folder: patterns of what is written into it."""
    more: tuple[Path, ...] = ()
    """Other files that are written."""
    resumes: bool = False
    """The same command adds what is missing, instead of being done."""

    @property
    def record(self) -> Path:
        """Where it is noted what the result was made of."""
        return self.out / MADE if self.holds else self.out.with_name(f".{self.out.name}{MADE}")

    def note(self) -> dict[str, Any]:
        """What is noted there."""
        options = json.loads(json.dumps(dict(self.options), default=str))
        return {"options": options} | ({} if self.resumes else {"files": fingerprint(*self.inputs)})

    def there(self) -> list[Path]:
        """Those of ``out`` and ``more`` that exist, and would be replaced."""
        folder = bool(self.holds)
        found = any(
            path.name != MADE or pattern == MADE for pattern in self.holds for path in self.out.glob(pattern)
        )
        return [self.out] * (found if folder else self.out.is_file()) + [p for p in self.more if p.is_file()]

    def is_absent(self) -> bool:
        """Whether nothing is written yet."""
        return not (any(self.out.glob(ANYTHING[0])) if self.resumes else self.there())


@contextmanager
def claimed(result: Result, overwrite: bool = False) -> Iterator[bool]:
    """Yield whether there is something to do; ``noted`` is called after it.

    If the block raises and wrote nothing, what ``overwrite`` moved aside is put back. If it is killed, the
    same command runs again.

    Raises:
        ValueError: An earlier result is in the way and ``overwrite`` is false, or it cannot be moved.
    """
    there, note = result.there(), result.note()
    if there and not overwrite:
        before = read_json(result.record, "a note") if result.record.is_file() else {}
        if difference := _difference(before, note):
            raise ValueError(
                f"{there[0]} exists{difference}: give another name, or --overwrite, which moves it aside"
            )
        if before.get("done") and not result.resumes and len(there) == 1 + len(result.more):
            yield False
            return
    moved = {path: move_aside(path, result.inputs) for path in there if overwrite}
    if result.out in moved and result.record.is_file():  # a file's note goes with it
        aside = moved[result.out]
        moved[result.record] = result.record.rename(aside.with_name(f".{aside.name}{MADE}"))
    folder = result.record.parent
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    noted_here = result.is_absent()
    try:
        if noted_here:  # if this is killed, the same command knows what is its own
            with suppress(OSError):  # the command says it better
                write_json(result.record, {**note, "done": False})
        yield True
    except BaseException:
        if noted_here and result.is_absent():
            with suppress(OSError):  # not written, or the folder is not empty
                result.record.unlink(missing_ok=True)
                for one in new:
                    one.rmdir()
        for path, aside in moved.items():
            if not path.exists():
                aside.rename(path)
        raise


@contextmanager
def numbered(parent: Path) -> Iterator[Path]:
    """Yield a new folder, ``parent``/NNN with the next number; if nothing is written to it, it is removed."""
    new = [one for one in (parent, *parent.parents) if not one.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(one.name) for one in parent.iterdir() if one.name.isdecimal()), default=0)
    while (folder := parent / f"{number:03}").exists() or not _made(folder):
        number += 1
    try:
        yield folder
    finally:
        with suppress(OSError):  # something was written
            for one in (folder, *new):
                one.rmdir()


def _made(folder: Path) -> bool:
    """Whether this process made ``folder``, and no other one at the same time."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def noted(result: Result) -> None:
    """Note what the finished ``result`` was made of."""
    write_json(result.record, {**result.note(), "done": True})


def move_aside(path: str | Path, needed: Iterable[str | Path] = ()) -> Path:
    """Rename a folder or file to NAME.before-1, or the next number that is free; returns the new path.

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


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What the earlier result was made with, by its note; "" if it is the same."""
    if not before:
        return ", and is not noted to be of this command"
    old, new = before.get("options") or {}, now["options"]
    for name in dict.fromkeys([*new, *old]):
        if old.get(name) != new.get(name):
            return f", made with {name} {_shown(old.get(name))}, not {_shown(new.get(name))}"
    return "" if before.get("files") == now.get("files") else ", made of other files, or before they changed"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"...{text[-57:]}"
