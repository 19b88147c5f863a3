"""Files and folders that are written completely or not at all."""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically: readers, also after a crash, see the old file or the new one.

    Missing parent folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path.name))
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically like ``write_bytes``."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically like ``write_bytes``.

    Raises:
        ValueError: It contains NaN or infinity, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


LARGEST_JSON = 2**24
"""Bytes; in Python's objects, JSON takes up to 20 times as much."""


def read_json(path: str | Path, what: str, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """Read the JSON object in the file ``path``.

    Args:
        path: The file.
        what: Its description in error messages, such as "a model's config".
        largest: Most bytes of the file.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is not a JSON object, has NaN or infinity, or is too large.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe would block
        raise ValueError(f"{path} is not {what}: it is not a file")
    try:
        if (size := path.stat().st_size) > largest:
            raise ValueError(f"it has {size:,} bytes, expected at most {largest:,}")
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_json)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} not found: expected {what}") from None
    except (ValueError, RecursionError, OSError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path} is not {what}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not {what}: expected a JSON object, found {type(value).__name__}")
    return value


def _not_json(name: str) -> None:
    raise ValueError(f"it contains {name}")


def check_folder(folder: str | Path) -> None:
    """Check before long work that its output ``folder`` can be written.

    Raises:
        ValueError: It is a file, or not writable.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a folder to write")
    nearest = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(
            f"{folder} cannot be written: {nearest} is not a writable folder; change its permissions or "
            "choose another one"
        )


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to write into; it becomes ``folder`` when the block succeeds.

    If the block raises, ``folder`` is unchanged. If ``folder`` exists, each file or folder at the top level
    of the temporary one replaces its namesake, and everything else stays: a path given by mistake loses
    nothing.
    """
    folder = Path(folder)
    check_folder(folder)
    # Inside the existing folder, which may be a mount point: a sibling could be on another file system.
    parent = folder if folder.exists() else folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / _temporary_name(folder.name)
    replaced = parent / _temporary_name(folder.name)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            replaced.mkdir()
            for entry in sorted(temporary.iterdir()):
                target = folder / entry.name
                if target.is_dir() or (entry.is_dir() and target.exists()):  # os.replace swaps only files
                    os.replace(target, replaced / entry.name)
                os.replace(entry, target)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_temporary(folder: str | Path) -> None:
    """Remove the temporary files and folders that killed processes left below ``folder``."""
    for entry in list(Path(folder).rglob(".*.tmp")):
        if re.fullmatch(r"\..*\.[0-9a-f]{8}\.tmp", entry.name):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def fingerprint(*paths: str | Path | None, content: bool = False) -> str:
    """A hash of the names, sizes and times of the files at ``paths``, or of their ``content``.

    Hidden files are left out, and so are those that ``datasets`` writes beside the data (cache-*).
    """
    digest = hashlib.sha256()
    for path in map(Path, filter(None, paths)):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if not file.is_file() or file.name.startswith((".", "cache-")):
                continue
            status = file.stat()
            facts: list[Any] = [str(file.relative_to(path)), status.st_size]
            facts.append(hashlib.sha256(file.read_bytes()).hexdigest() if content else status.st_mtime_ns)
            digest.update(json.dumps(facts).encode())
        digest.update(b"|")
    return digest.hexdigest()[:16]


def _temporary_name(name: str) -> str:
    return f".{name}.{secrets.token_hex(4)}.tmp"
