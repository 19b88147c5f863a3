"""Where training data come from: whatever ``datasets`` reads from this machine's disk."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetsError
from PIL import Image

from ..tokenizers.pixels import load_image

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
KNOWN = f"a folder written by save_to_disk, an imagefolder, or files ({', '.join(_FILES)})"


class RawImage(NamedTuple):
    """An image of a data set as it is stored: bytes, a file, or already decoded."""

    data: bytes | None
    path: str | None
    image: Image.Image | None = None


def load_source(path: str | Path, split: str = "train") -> Dataset:
    """The data set at ``path``: a folder of ``save_to_disk``, an imagefolder, or parquet, arrow, json, csv,
    text or webdataset files (one file, or a folder of them).

    :param split: which part to take where there are several.
    :raises FileNotFoundError: nothing is there.  :raises ValueError: ``datasets`` cannot read it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} not found: a data set is expected there ({KNOWN})")
    try:
        if path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file()):
            return _choose(datasets.load_from_disk(str(path)), split, path)
        if path.is_dir():
            return _choose(datasets.load_dataset(str(path.absolute())), split, path)
        if path.suffix not in _FILES:
            raise ValueError(f"unknown ending {path.suffix!r}")
        return _choose(
            datasets.load_dataset(_FILES[path.suffix], data_files=str(path.absolute())), split, path
        )
    except (ValueError, OSError, DatasetsError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as a data set: {message}; expected {KNOWN}") from None


def _choose(found: Any, split: str, path: Path) -> Dataset:
    if isinstance(found, Dataset):
        return found
    if not isinstance(found, DatasetDict) or not found:
        raise ValueError("it holds no rows")
    if split in found:
        return found[split]
    if len(found) == 1:
        return next(iter(found.values()))
    raise ValueError(f"it has the parts {', '.join(map(str, found))} and none called {split!r}")


def image_column(dataset: Dataset, wanted: str | None = None) -> str:
    """``wanted``, or ``image``, or ``images``, whichever is there.

    :raises ValueError: no such column.
    """
    for name in [wanted] if wanted else ["image", "images"]:
        if name in dataset.column_names:
            return name
    expected = f"the column {wanted!r}" if wanted else "a column 'image' or 'images'"
    raise ValueError(f"expected {expected}, found {', '.join(dataset.column_names)}")


def undecoded(dataset: Dataset, columns: list[str]) -> Dataset:
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


def raw_images(value: Any, folder: Path | None = None) -> list[RawImage | None]:
    """The images of one cell: an image or a list of them; None stays None (OBELICS' empty places).

    :param folder: where relative file names begin.
    """
    if isinstance(value, list):
        return [image for item in value for image in raw_images(item, folder)]
    if value is None:
        return [None]
    if isinstance(value, Image.Image):
        return [RawImage(None, None, value)]
    if isinstance(value, bytes):
        return [RawImage(value, None)]
    if isinstance(value, str | Path):
        return [RawImage(None, str(folder / value if folder else value))]
    if isinstance(value, dict) and (value.get("bytes") is not None or value.get("path")):
        path = value.get("path")
        return [RawImage(value.get("bytes"), str(folder / path) if folder and path else path)]
    raise ValueError(f"a cell holds a {type(value).__name__} where an image is expected")


def open_image(raw: RawImage) -> Image.Image:
    """Decode to upright RGB. Raises ValueError or FileNotFoundError in one line."""
    if raw.image is not None:
        return load_image(raw.image)
    if raw.data is None:
        return load_image(raw.path or "")
    try:
        image = Image.open(io.BytesIO(raw.data))
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over
        reason = "unknown format" if isinstance(error, OSError) else str(error).splitlines()[0]
        raise ValueError(f"{raw.path or 'an image'} cannot be read as an image: {reason}") from None
    return load_image(image)


def base_folder(path: str | Path) -> Path:
    """Where the relative file names in the data set at ``path`` begin."""
    path = Path(path).absolute()
    return path if path.is_dir() else path.parent


def fingerprint(*paths: str | Path | None, content: bool = False) -> str:
    """A hash of the names, sizes and times of the files at ``paths``, or of their ``content``."""
    digest = hashlib.sha256()
    for path in map(Path, filter(None, paths)):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if not file.is_file() or file.name.startswith((".", "cache-")):  # datasets' own by-products
                continue
            status = file.stat()
            facts: list[Any] = [str(file.relative_to(path)), status.st_size]
            facts.append(hashlib.sha256(file.read_bytes()).hexdigest() if content else status.st_mtime_ns)
            digest.update(json.dumps(facts).encode())
        digest.update(b"|")
    return digest.hexdigest()[:16]
