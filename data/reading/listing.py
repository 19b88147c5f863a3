"""Which files a data set consists of, and what each of them is: one rule for every kind of source.

``datasets`` chooses files by patterns and takes words in their names (test, dev, food, music) for parts and
kinds. Here every file below the folder is read, or named with the reason why it is not.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import config as datasets_config
from huggingface_hub.constants import HF_HUB_CACHE

from ...tokenizers.pixels import image_endings

DATA = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "txt",
    ".tar": "tar",
    ".tgz": "tar",
}
"""Endings of files with rows, and what they hold."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Endings that may follow those of ``DATA``."""
SIDECARS = (".txt", ".caption", ".json")
"""Endings of files beside a picture of the same name, which become its columns txt, caption and json."""
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Part of a data set -> names of its folder, and beginnings of its files as the Hub names them."""
CONTENT = (".md", ".html", ".htm", ".pdf", ".docx", ".wav", ".mp3", ".flac", ".ogg", ".mp4", ".webm", ".mkv")
"""Endings of files that hold text, sound or film, and cannot be read as rows."""
ABOUT = re.compile(r"(readme|licen[cs]e|notice|citation|changelog)\b", re.IGNORECASE)
"""Names of files about the data."""

_HUB_NAME = re.compile(r"([a-z]+)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.")


class DataFile(NamedTuple):
    """A file with rows."""

    path: Path
    kind: str
    """One of the values of ``DATA``."""


class Listing(NamedTuple):
    """The files of a data set."""

    name: str
    """What messages call the data set."""
    folder: Path
    """What relative file names are relative to."""
    files: tuple[DataFile, ...] = ()
    """Files with rows, in the order in which they are read."""
    pictures: tuple[Path, ...] = ()
    """Pictures, if they are the rows."""
    metadata: tuple[Path, ...] = ()
    """metadata.jsonl, .csv or .parquet: the columns of the pictures in their folders."""
    sidecars: frozenset[Path] = frozenset()
    """Files beside pictures."""
    unread: tuple[tuple[str, str], ...] = ()
    """File name -> why the file is not read."""

    def all_files(self) -> Iterator[Path]:
        """Every file that is read."""
        yield from (file.path for file in self.files)
        yield from self.pictures
        yield from self.metadata
        yield from sorted(self.sidecars)


def list_files(
    path: Path,
    part: str = "train",
    ignore: Sequence[str] = (),
    *,
    follow_links: bool = False,
    strict: bool = True,
) -> Listing:
    """The files of the data set at ``path``: a file, or a folder with all files below it.

    Links are followed. Through a link that leaves the folder, only pictures are read: in an archive of a
    stranger it may lead to any file, and rows and texts would become training data.

    Args:
        part: The part to take if the folder has parts: folders train, validation and test, or files named
            like train-00000-of-00004.parquet.
        ignore: Names of files and folders, relative to ``path`` or not, that are left out.
        follow_links: Read rows and texts through links that leave the folder, too.
        strict: Refuse files that look like content and would not be read; else they are ``unread``.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: Nothing in it can be read, a file that looks like content would be left out, or a link to
            rows or texts leaves the folder.
    """
    if not path.exists():
        raise FileNotFoundError(f"{shown(path)} not found: a data set is expected there")
    if not path.is_dir():
        if _is_metadata(path) and _names_files(path):
            beside = list_files(path.parent, part, ignore, follow_links=follow_links, strict=strict)
            return beside._replace(name=shown(path))
        return _one_file(path)
    everything, unread = [], []
    for file in _walk(path):
        name = file.relative_to(path)
        if {str(name), file.name, name.parts[0]} & set(ignore):
            unread.append((shown(name), "ignored"))
        elif any(p.startswith(".") or p == "__MACOSX" for p in name.parts) or file.name.startswith("cache-"):
            unread.append((shown(name), "hidden"))
        elif file.exists() and not file.is_file():  # opening a named pipe would wait for ever
            unread.append((shown(name), "not a file"))
        else:
            everything.append(file)
    everything, others = _of_part(path, everything, part)
    unread += others
    pictures = [file for file in everything if file.suffix.lower() in image_endings()]
    stems = {file.with_suffix("") for file in pictures}
    metadata = [file for file in everything if _is_metadata(file)]
    sidecars = {f for f in everything if f.suffix.lower() in SIDECARS and f.with_suffix("") in stems}
    rest = set(everything) - set(pictures) - set(metadata) - sidecars
    files: list[DataFile] = []
    odd: list[Path] = []
    tars = {file.with_name(file.name.split(".")[0]) for file in rest if kind_of(file) == "tar"}
    folders = {file.parent for file in pictures}
    for file in sorted(rest):
        stem = file.with_name(re.sub(r"(_stats)?\.(json|parquet)$", "", file.name))
        if stem != file and (stem in tars or stem in folders):
            unread.append((shown(file.relative_to(path)), "statistics that img2dataset wrote"))
        elif ABOUT.match(file.name):
            unread.append((shown(file.relative_to(path)), "about the data"))
        elif (kind := kind_of(file)) is not None:
            files.append(DataFile(file, kind))
        elif file.suffix.lower() in CONTENT:
            odd.append(file)
        else:
            unread.append((shown(file.relative_to(path)), f"unknown ending {shown(file.suffix)!r}"))
    if pictures and files and (metadata or sidecars):  # the pictures are the rows
        odd += [file.path for file in files]
    if odd and not strict:
        unread += [(shown(file.relative_to(path)), "not what is read here") for file in odd]
        files = [] if pictures else files
    elif odd:
        names = [shown(file.relative_to(path)) for file in odd]
        raise ValueError(
            f"{shown(path)}: {_some(names)} would not be read: convert or move what you need, and leave out "
            f"the rest (ignore: [{_some(names)}])"
        )
    texts = [*(file.path for file in files), *metadata, *sorted(sidecars)]
    if not follow_links and (away := _leaving(path, texts)):
        names = [shown(file.relative_to(path)) for file in away]
        raise ValueError(
            f"{shown(path)}: links to {_some(names)} leave the folder. Only pictures are read through such "
            "links: copy the files, leave them out (ignore), or set follow_links: true if the links are yours"
        )
    if files and pictures and not metadata:  # the rows name the pictures
        pictures, sidecars = [], set()
    if not files and not pictures:
        found = f"found only {_some([name for name, _ in unread])}" if unread else "the folder is empty"
        raise ValueError(f"{shown(path)} has no data: expected {KNOWN}; {found}")
    return Listing(
        shown(path), path, tuple(files), tuple(pictures), tuple(metadata), frozenset(sidecars), tuple(unread)
    )


KNOWN = (
    f"files of rows ({', '.join(DATA)}, or one of them compressed: {', '.join(COMPRESSED)}), pictures, or a "
    "folder written by save_to_disk"
)


def kind_of(path: Path) -> str | None:
    """What a file holds, by its ending: one of the values of ``DATA``, or None."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return DATA.get(Path(name).suffix)


def shown(path: str | Path) -> str:
    """A file name that can be printed: bytes that are not UTF-8 are escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _leaving(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Those of ``files`` that are outside of ``folder`` once links are resolved.

    The caches of Hugging Face are inside: its snapshots are links to files of the cache.
    """
    roots = [os.path.realpath(root) for root in (folder, HF_HUB_CACHE, datasets_config.HF_DATASETS_CACHE)]
    places: dict[Path, str] = {}  # resolving a folder takes several system calls
    found = []
    for file in files:
        place = places.get(file.parent)
        if place is None:
            place = places[file.parent] = os.path.realpath(file.parent)
        real = Path(os.path.realpath(file) if file.is_symlink() else place)
        if not any(real.is_relative_to(root) for root in roots):
            found.append(file)
    return found


def _one_file(path: Path) -> Listing:
    kind = kind_of(path)
    if kind is None:
        raise ValueError(
            f"{shown(path)} cannot be read as a data set: unknown ending {shown(path.suffix)!r}; expected "
            f"{KNOWN}"
        )
    return Listing(shown(path), path.parent, (DataFile(path, kind),))


def _walk(folder: Path) -> list[Path]:
    """All files below ``folder``, sorted by name. A link to a folder that it is in is not followed."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        above = Path(os.path.realpath(place))
        folders[:] = [
            name for name in folders if not above.is_relative_to(os.path.realpath(os.path.join(place, name)))
        ]
        found += [Path(place, name) for name in names]
    return sorted(found)


def _of_part(path: Path, files: list[Path], part: str) -> tuple[list[Path], list[tuple[str, str]]]:
    """The files of ``part``, and those of other parts. Without parts, or with one alone, all files."""
    parts: dict[str | None, list[Path]] = {}
    for file in files:
        parts.setdefault(_part(file.relative_to(path)), []).append(file)
    if not parts.keys() - {None}:
        return files, []
    shared = [file for file in parts.pop(None, []) if _is_metadata(file)]
    loose = [file for file in files if _part(file.relative_to(path)) is None and file not in shared]
    if any(kind_of(file) or file.suffix.lower() in image_endings() for file in loose):
        return files, []  # "train" is one folder among others
    if part not in parts and len(parts) > 1:
        raise ValueError(f"{shown(path)} has the parts {', '.join(map(str, parts))}, but no part {part!r}")
    chosen = parts.pop(part) if part in parts else parts.popitem()[1]
    others = [(shown(f.relative_to(path)), f"part {name}") for name, some in parts.items() for f in some]
    return sorted([*chosen, *shared, *loose]), others


def _part(name: Path) -> str | None:
    match = _HUB_NAME.match(name.name)
    word = name.parts[0] if len(name.parts) > 1 else ""
    for part, names in PARTS.items():
        if word.lower() in names or match and match[1] in names:
            return part
    return None


def _is_metadata(path: Path) -> bool:
    return path.name.lower() in ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def _names_files(path: Path) -> bool:
    """Whether the rows of a metadata file name pictures."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            names = pq.read_schema(path).names
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                names = next(csv.reader(file)) if path.suffix == ".csv" else list(json.loads(file.readline()))
    except Exception:  # whatever is wrong with the file is said when it is read
        return False
    return any(name.endswith(("file_name", "file_names")) for name in names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
