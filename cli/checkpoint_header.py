"""Reads the plain values of a Lightning checkpoint, without torch, tensors, or running code from the file."""

import zipfile
from pathlib import Path
from typing import Any

from ..storage.pickles import InertUnpickler, check_stored


def read_header(path: Path) -> dict[str, Any]:
    """The dictionary in a checkpoint, a file or a folder of shards; tensors are placeholders.

    Raises:
        ValueError: the file is damaged, or not a checkpoint.
    """
    file = path / "meta.pt" if path.is_dir() else path  # beside the shards
    try:
        check_stored(file)
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as stream:
                header = InertUnpickler(stream).load()
        header["global_step"]
        return header
    except Exception as error:  # zip, pickle and broken values raise errors of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a checkpoint of a training run: {reason}") from None
