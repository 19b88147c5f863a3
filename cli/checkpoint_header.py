"""Reads the plain values of a Lightning checkpoint, without torch, tensors, or running code from the file."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

PLAIN = {("collections", "OrderedDict"): OrderedDict}
"""The only classes that are loaded."""


class _Left:
    """Placeholder for objects of all other classes, such as tensors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


class _Header(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return PLAIN.get((module, name), _Left)

    def persistent_load(self, pid: Any) -> None:
        return None


def read_header(path: Path) -> dict[str, Any]:
    """The dictionary in a checkpoint, a file or a folder of shards; tensors are placeholders.

    Raises:
        ValueError: the file is damaged, or not a checkpoint.
    """
    file = path / "meta.pt" if path.is_dir() else path  # beside the shards
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as stream:
                header = _Header(stream).load()
        header["global_step"]
        return header
    except Exception as error:  # zip, pickle and broken values raise errors of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a checkpoint of a training run: {reason}") from None
