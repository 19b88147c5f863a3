"""Data sets, on this machine's disk or on the Hub, before they are read; ``stored.py`` reads their rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, IterableDataset
from datasets import config as datasets_config
from datasets.exceptions import DatasetsError

from ...storage.files import read_json
from .content import PICTURES
from .listing import Listing, list_files
from .readers import PLACE, Refused, Row, reason, rows_of

datasets.disable_progress_bars()  # the commands show their own

HUB = "hf://datasets/"
"""Begins the address of a data set on the Hugging Face Hub: hf://datasets/owner/name."""
EXAMPLES = 64
"""Rows that are looked at before a data set is read."""


def fail(file: str, why: str) -> None:
    """The ``Report`` that stops at the first file or line that cannot be read."""
    raise Refused(f"{file} cannot be read: {why}")


@dataclass(frozen=True)
class Source:
    """A data set that is not read yet."""

    name: str
    folder: Path
    """What relative file names are relative to."""
    columns: tuple[str, ...]
    """All columns, or those of the first rows where files do not list theirs."""
    examples: tuple[Row, ...]
    """Some of its first rows."""
    listing: Listing | None = None
    """Its files, if they are read here."""
    dataset: Any = None
    """A ``Dataset`` or ``IterableDataset``, if ``datasets`` reads it: from ``save_to_disk`` or the Hub."""


def open_source(
    path: str | Path,
    part: str = "train",
    *,
    streaming: bool = False,
    ignore: Sequence[str] = (),
    follow_links: bool = False,
    strict: bool = False,
) -> Source:
    """Look at the data set at ``path``: a folder of ``save_to_disk``; a file of rows, or a folder of them, of
    pictures, or of both (see ``listing``); or hf://datasets/owner/name.

    Args:
        part: The part to take if there are several.
        streaming: For the Hub: do not download everything first.
        ignore: Names of files and folders that are not used.
        follow_links: As in ``listing.list_files``.
        strict: Refuse files that look like content and would not be read.

    Raises:
        FileNotFoundError: The data set is missing.
        ValueError: It cannot be read, or holds files that would be left out.
    """
    name = str(path)
    if name.startswith(HUB):
        load: Callable[..., Any] = datasets.load_dataset
        found = _loaded(name, part, lambda: load(name.removeprefix(HUB), streaming=streaming))
        return source_of(found, name, Path(datasets_config.HF_DATASETS_CACHE))
    path = Path(path)
    if _is_saved(path):
        try:
            found = load_saved(path, part)
        except ValueError:
            files = sorted(path.glob("*.arrow"))
            if not files:
                raise
            names = (*ignore, "state.json", "dataset_info.json")
            listing = list_files(path, part, names, follow_links=follow_links, strict=strict)
        else:
            return source_of(found, name, path.absolute())
    else:
        listing = list_files(path, part, ignore, follow_links=follow_links, strict=strict)
    examples: list[Row] = []
    columns: dict[str, None] = {}
    for file in _some_files(listing):
        for number, row in enumerate(rows_of(file, lambda *_: None)):
            del row[PLACE]
            columns |= dict.fromkeys(row)
            examples.append(row)
            if number + 1 == EXAMPLES // 4:
                break
    return Source(
        listing.name, listing.folder.absolute(), tuple(columns), tuple(examples[:EXAMPLES]), listing=listing
    )


def load_saved(path: str | Path, part: str = "train") -> Dataset:
    """The data set in a folder of ``save_to_disk``.

    Raises:
        FileNotFoundError: The folder is missing.
        ValueError: It is not such a folder, or ``datasets`` cannot read it.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} not found: a folder written by save_to_disk is expected there")
    if not _is_saved(Path(path)):
        raise ValueError(f"{path} is not a folder that save_to_disk wrote")

    def load() -> Any:
        _check_regular(Path(path))
        return datasets.load_from_disk(str(path))

    found = _loaded(str(path), part, load)
    try:
        found.data.validate(full=True)  # damaged offsets would point outside the file, and end the process
    except pa.ArrowException as error:
        raise ValueError(f"{path} cannot be read as a data set: {reason(error)}") from None
    return found


def _check_regular(folder: Path) -> None:
    """Raise an error if a file of a saved data set is a pipe or a device, on which reading would wait."""
    for state in [*folder.glob("state.json"), *folder.glob("*/state.json")]:
        named = [state.parent / file["filename"] for file in read_json(state, "the state")["_data_files"]]
        for file in [*state.parent.iterdir(), *named]:
            if not file.is_file() and not file.is_dir():
                raise ValueError(f"{file.name} is missing or not a regular file")


def image_columns(columns: Sequence[str], wanted: str | None, name: str) -> list[str]:
    """The columns of pictures: ``wanted``, or image, or images, or those named like endings of pictures.

    Raises:
        ValueError: The columns do not include it.
    """
    endings = [column for column in columns if column.lower() in PICTURES]
    for found in [[wanted]] if wanted else [["image"], ["images"], endings]:
        if found and set(found) <= set(columns):
            return found
    expected = f"the column {wanted!r}" if wanted else "a column 'image' or 'images'"
    raise ValueError(f"{name}: expected {expected}, found {', '.join(columns)}")


def source_of(dataset: Any, name: str = "the data set", folder: Path | None = None) -> Source:
    """A ``Dataset`` or ``IterableDataset`` as a source. Its images are decoded later, by the caller."""
    if dataset.features is None:  # streamed from files that do not state their columns
        dataset = dataset._resolve_features()
    dataset = _undecoded(dataset)
    first = (
        dataset.select(range(min(EXAMPLES, len(dataset))))
        if isinstance(dataset, Dataset)
        else dataset.take(EXAMPLES)
    )
    examples = tuple(dict(row) for row in first)
    return Source(name, folder or Path.cwd(), tuple(dataset.features), examples, dataset=dataset)


def _loaded(name: str, part: str, load: Callable[[], Any]) -> Any:
    try:
        return _choose(load(), part)
    except (
        ValueError,
        OSError,
        TypeError,
        AttributeError,
        LookupError,
        RecursionError,
        DatasetsError,
        pa.ArrowException,
    ) as error:  # a state.json may hold anything
        raise ValueError(f"{name} cannot be read as a data set: {reason(error)}") from None


def _choose(found: Any, part: str) -> Any:
    """The requested part of a data set, or its only one."""
    if isinstance(found, Dataset | IterableDataset):
        return found
    if not found:
        raise ValueError("it has no rows")
    if part in found:
        return found[part]
    if len(found) == 1:
        return next(iter(found.values()))
    raise ValueError(f"it has the parts {', '.join(map(str, found))}, but no part {part!r}")


def _some_files(listing: Listing) -> Iterator[Listing]:
    """The first files and the last one, as listings of their own; pictures together."""
    if listing.pictures:
        yield listing
        return
    files = listing.files if len(listing.files) <= 8 else (*listing.files[:7], listing.files[-1])
    for file in files:
        yield listing._replace(files=(file,))


def _undecoded(dataset: Any) -> Any:
    """``dataset`` whose images come as stored bytes and paths."""
    features = dataset.features.copy()
    for name in features:
        features[name] = _without_decoding(features[name])
    return dataset.cast(features) if features != dataset.features else dataset


def _without_decoding(feature: Any) -> Any:
    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, datasets.List):
        return datasets.List(_without_decoding(feature.feature), length=feature.length)
    if isinstance(feature, datasets.LargeList):
        return datasets.LargeList(_without_decoding(feature.feature))
    if isinstance(feature, dict):
        return {name: _without_decoding(part) for name, part in feature.items()}
    return feature


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


# storing
