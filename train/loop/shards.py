"""Checks a checkpoint before torch and Lightning read it, which would run what a pickle in it says.

A sharded checkpoint is a folder: ``meta.pt`` and, of ``torch.distributed.checkpoint``, ``.metadata`` and
``__RANK_N.distcp``. torch reads ``.metadata`` with ``pickle.load``, and values that are not tensors with
``torch.load(weights_only=False)``. So both are first read here, by an unpickler that knows the classes of
this format and nothing else. Lightning reads the other files with ``weights_only=True``.
"""

import io
import re
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from ...storage.pickles import RestrictedUnpickler, check_stored, reason

METADATA = ".metadata"
_METADATA = "torch.distributed.checkpoint.metadata"
_SHARD = re.compile(r"__\d+_\d+\.distcp")


class _Fixed(type):
    """A class whose attributes a pickle cannot set."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise ValueError("it changes a class")


class _Record(metaclass=_Fixed):
    """Takes the place of an object of the format; keeps what it is made of."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Record":
        made = object.__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Bytes(_Record):
    """A value that is not a tensor."""


class _Place(_Record):
    """Where a value is stored: file, first byte, number of bytes, transformations."""


class _Whole(_Record):
    """``Metadata``."""


def _named() -> dict[tuple[str, str], Any]:
    records = ["TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex"]
    records += ["StorageMeta", "_MEM_FORMAT_ENCODING"]
    types = {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    return {
        **{(_METADATA, name): _Record for name in records},
        (_METADATA, "Metadata"): _Whole,
        (_METADATA, "BytesStorageMetadata"): _Bytes,
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _Place,
        ("torch.serialization", "_get_layout"): _Record,
        ("torch", "Size"): _Record,
        **{("torch", name): _Record for name in types},
        **{("pathlib", name): _Record for name in ("PosixPath", "WindowsPath", "PurePosixPath")},
        **{("pathlib._local", name): _Record for name in ("PosixPath", "WindowsPath")},
    }


def check_shards(folder: Path) -> None:
    """Refuse a sharded checkpoint that could do more than fill tensors.

    Raises:
        ValueError: A file is missing or damaged, or a pickle in it names anything but the format's classes.
    """
    try:
        _check(folder)
    except Exception as error:  # pickles and zips raise errors of many kinds
        raise ValueError(f"{folder} is not a checkpoint of shards: {reason(error)}") from None


def _check(folder: Path) -> None:
    path = folder / METADATA
    if not path.is_file():
        raise ValueError(f"it has no {METADATA}")
    try:
        with path.open("rb") as file:
            whole = RestrictedUnpickler(file, _named()).load()
    except Exception as error:
        raise ValueError(f"{METADATA}: {reason(error)}") from None
    if not isinstance(whole, _Whole) or not isinstance(whole.state, dict):
        raise ValueError(f"{METADATA} does not describe one")
    kinds, places = whole.state["state_dict_metadata"], whole.state["storage_data"]
    pickled = {name for name, kind in kinds.items() if isinstance(kind, _Bytes)}
    streams: dict[str, Any] = {}
    try:
        for index, place in places.items():
            name = index.state["fqn"]
            values = dict(place.state)
            file, start, length = values["relative_path"], values["offset"], values["length"]
            if not isinstance(file, str) or not _SHARD.fullmatch(file):
                raise ValueError(f"{name} is stored in {file!r}, expected a file such as __0_0.distcp")
            if values.get("transform_descriptors"):
                raise ValueError(f"{name} is stored in a transformed way, which is not supported")
            if file not in streams:
                if not (folder / file).is_file():
                    raise ValueError(f"it lacks {file}")
                streams[file] = (folder / file).open("rb")
            stream = streams[file]
            size = stream.seek(0, io.SEEK_END)
            if type(start) is not int or type(length) is not int or not 0 <= start <= start + length <= size:
                raise ValueError(f"{file} is shorter than {METADATA} says")
            _check_value(stream, start, length, f"{file}: {name}", name in pickled)
    finally:
        for stream in streams.values():
            stream.close()


class _Slice(io.RawIOBase):
    """Bytes ``start`` to ``start + length`` of a file, as a file."""

    def __init__(self, file: Any, start: int, length: int) -> None:
        super().__init__()
        self.file, self.start, self.length, self.at = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, (0, self.at, self.length)[whence] + offset)
        return self.at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.length - self.at)
        self.file.seek(self.start + self.at)
        data = self.file.read(left if size is None or size < 0 else min(size, left))
        self.at += len(data)
        return data


def _check_value(file: Any, start: int, length: int, name: str, pickled: bool) -> None:
    part: Any = _Slice(file, start, length)
    try:
        check_stored(part)
        if pickled:
            torch.load(io.BytesIO(_Slice(file, start, length).read()), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{name}: {reason(error)}") from None


def guard(strategy: Any) -> None:
    """Let ``strategy`` of Lightning check every checkpoint before it reads it.

    This covers what Lightning finds by itself, such as the ``hpc_ckpt_1.ckpt`` of a cluster's job.
    """
    if getattr(strategy.load_checkpoint, "checked", False):
        return
    load = strategy.load_checkpoint

    def load_checkpoint(checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        path = Path(checkpoint_path)
        if path.is_dir():
            check_shards(path)
        check_stored(path / "meta.pt" if path.is_dir() else path)
        try:
            return load(checkpoint_path, weights_only=True)
        except CheckpointException as error:  # not an Exception; it has an error of each rank
            first = next(iter(error.failures.values()))
            raise ValueError(f"{path} does not fit this training: {reason(first[0])}") from None
        except Exception as error:  # torch raises errors of many kinds
            raise ValueError(f"{path} cannot be read: {reason(error)}") from error

    load_checkpoint.checked = True
    strategy.load_checkpoint = load_checkpoint
