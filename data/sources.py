"""Where training data come from: whatever ``datasets`` reads, from this machine's disk or from the Hub."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset
from datasets import config as datasets_config
from datasets.data_files import SPLIT_KEYWORDS
from datasets.exceptions import DatasetsError
from PIL import Image

from .cells import RawImage, Unusable, open_image, raw_images

__all__ = ["RawImage", "Unusable", "open_image", "raw_images"]

datasets.disable_progress_bars()  # the commands show their own

_FILES = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".txt": "text",
    ".tar": "webdataset",
}
HUB = "hf://datasets/"
"""Begins the address of a data set on the Hugging Face Hub: hf://datasets/owner/name."""
KNOWN = f"a folder written by save_to_disk, an imagefolder, files ({', '.join(_FILES)}), or {HUB}owner/name"

OnUnreadable = Callable[[str, str], None]
"""Called with a file, or a line of one, that cannot be read, and the reason."""


def load_source(
    path: str | Path,
    split: str = "train",
    *,
    streaming: bool = False,
    unreadable: OnUnreadable | None = None,
) -> Any:
    """The data set at ``path``: a folder of ``save_to_disk``, an imagefolder, or parquet, arrow, json, csv,
    text or webdataset files (one file, or a folder of them); or hf://datasets/owner/name.

    Args:
        split: The part to take if there are several.
        streaming: Return an ``IterableDataset``, whose files are read on the fly and never converted. A
            folder of ``save_to_disk`` needs no conversion and stays a ``Dataset``.
        unreadable: Called for each file, and each line of JSON, that cannot be read; the others are used.
            With None, one of them is an error.

    Returns:
        A ``Dataset``, or an ``IterableDataset`` with ``streaming``.

    Raises:
        FileNotFoundError: The data set is missing.
        ValueError: ``datasets`` cannot read it.
    """
    name = str(path)
    if name.startswith(HUB):
        return _loaded(name, split, name.removeprefix(HUB), streaming=streaming)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} not found: a data set is expected there ({KNOWN})")
    saved = path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file())
    try:
        if saved:
            return _loaded(name, split, name, saved=True)
        if path.is_dir():
            files = _data_files_of(path)
            return _loaded(name, split, str(path.absolute()), files, streaming=streaming)
        if path.suffix not in _FILES:
            raise ValueError(
                f"{path} cannot be read as a data set: unknown ending {path.suffix!r}; expected {KNOWN}"
            )
        return _loaded(name, split, _FILES[path.suffix], str(path.absolute()), streaming=streaming)
    except ValueError:
        files = [] if streaming or unreadable is None else _data_files(path, saved)
        if not files:
            raise
    return _readable(path, files, unreadable or (lambda *_: None))


def _loaded(
    name: str,
    split: str,
    path: str,
    data_files: str | dict[str, str] | None = None,
    *,
    streaming: bool = False,
    saved: bool = False,
) -> Any:
    load: Callable[..., Any] = datasets.load_dataset
    try:
        if saved:
            return _choose(datasets.load_from_disk(path), split)
        return _choose(load(path, data_files=data_files, streaming=streaming), split)
    except (ValueError, OSError, DatasetsError, pa.ArrowException) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name} cannot be read as a data set: {message}; expected {KNOWN}") from None


def _data_files_of(path: Path) -> dict[str, str] | None:
    """For a folder of images all of its files, unless there are folders for the parts.

    ``datasets`` finds the parts by names, too, and takes an image called portrait-dev-1.png for validation:
    of a folder with one such image it would read that one alone.
    """
    if any((path / name).is_dir() for names in SPLIT_KEYWORDS.values() for name in names):
        return None
    images = any(file.suffix.lower() in Image.registered_extensions() for file in path.rglob("*"))
    return {"train": "**"} if images else None


def _data_files(path: Path, saved: bool) -> list[Path]:
    """The files of a data set that may be read one by one; none where it is an imagefolder."""
    if saved:
        return sorted(path.glob("*.arrow"))
    files = sorted(file for file in path.rglob("*") if file.suffix in _FILES) if path.is_dir() else [path]
    kinds = {file.suffix for file in files}
    return files if len(kinds) == 1 and not any(file.name.startswith("metadata.") for file in files) else []


def _readable(path: Path, files: Sequence[Path], unreadable: OnUnreadable) -> Dataset:
    """What of the ``files`` can be read."""
    parts: list[Dataset] = []
    for file in files:
        try:
            if file.suffix == ".arrow":
                part = Dataset.from_file(str(file))
            elif file.suffix == ".jsonl":
                part = _lines(file, unreadable)
            else:
                part = load_source(file)
            if parts:
                part = part.cast(parts[0].features)
            parts.append(part)
        except (ValueError, OSError, DatasetsError, pa.ArrowException) as error:
            unreadable(str(file), str(error).splitlines()[0] if str(error) else type(error).__name__)
    if not parts:
        raise ValueError(f"{path} cannot be read as a data set: none of its {len(files)} files can")
    return datasets.concatenate_datasets(parts)


def _lines(file: Path, unreadable: OnUnreadable) -> Dataset:
    """The lines of a file that are JSON objects with values of the types that most of them have."""
    rows: list[tuple[int, dict[str, Any]]] = []
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()  # no lone surrogates
                if not isinstance(row, dict):
                    raise ValueError(f"a {type(row).__name__}")
                rows.append((number, row))
            except (ValueError, RecursionError) as error:
                unreadable(f"{file}:{number}", f"no JSON object in UTF-8: {error}")
    schema = _common_schema([row for _, row in rows])
    kept = []
    for number, row in rows:
        try:
            kept.append(pa.array([row], type=pa.struct(list(schema)))[0].as_py())
        except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
            unreadable(f"{file}:{number}", f"values of other types than elsewhere: {error}")
    if not kept:
        raise ValueError("no line of it is a JSON object")
    return Dataset.from_list(kept, features=Features.from_arrow_schema(schema))


def _common_schema(rows: Sequence[dict[str, Any]]) -> pa.Schema:
    """The columns and types of most rows, and what others add without contradicting them."""
    types: Counter[pa.DataType] = Counter()
    for row in rows:
        with suppress(pa.ArrowException, ValueError, OverflowError, TypeError):
            types[pa.infer_type([row])] += 1
    schema = pa.schema([])
    for kind, count in types.most_common():
        if count > 1 or not len(schema):
            with suppress(pa.ArrowException):
                schema = pa.unify_schemas([schema, pa.schema(list(kind))])
    return schema


def _choose(found: Any, split: str) -> Any:
    """The part of a data set that is asked for, or its only one."""
    if isinstance(found, Dataset | IterableDataset):
        return found
    if not found:
        raise ValueError("it holds no rows")
    if split in found:
        return found[split]
    if len(found) == 1:
        return next(iter(found.values()))
    raise ValueError(f"it has the parts {', '.join(map(str, found))} and none called {split!r}")


def image_column(dataset: Dataset, wanted: str | None = None) -> str:
    """The name of the column of images: ``wanted``, or else ``image`` or ``images``.

    Raises:
        ValueError: There is no such column.
    """
    for name in [wanted] if wanted else ["image", "images"]:
        if name in dataset.column_names:
            return name
    expected = f"the column {wanted!r}" if wanted else "a column 'image' or 'images'"
    raise ValueError(f"expected {expected}, found {', '.join(dataset.column_names)}")


def undecoded(dataset: Any, columns: Sequence[str]) -> Any:
    """``dataset`` whose images come as stored bytes and paths, so that the caller decodes them once."""
    features = dataset.features.copy()
    for name in columns:
        features[name] = _undecoded(features[name])
    return dataset.cast(features) if features != dataset.features else dataset


def _undecoded(feature: Any) -> Any:
    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, datasets.List):
        return datasets.List(_undecoded(feature.feature), length=feature.length)
    if isinstance(feature, dict):
        return {name: _undecoded(part) for name, part in feature.items()}
    return feature


def base_folder(path: str | Path) -> Path:
    """Where the relative file names in the data set at ``path`` begin."""
    if str(path).startswith(HUB):
        return Path(datasets_config.HF_DATASETS_CACHE)
    path = Path(path).absolute()
    return path if path.is_dir() else path.parent
