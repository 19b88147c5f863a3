"""Tensors in files of ``torch.save`` that hold other objects too, such as whole checkpoints of Lightning 1.

``torch.load(weights_only=True)`` refuses those. Here tensors are built from their numbers, and everything
else is left ``Inert``: nothing in the file is run. Both formats of torch are read: zip (since 1.6), and the
one before.
"""

import io
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .pickles import DICTIONARIES, Inert, InertUnpickler, Items

MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of the format before zip."""
TYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
"""Names of storages."""


class _Storage(NamedTuple):
    """Numbers in the file."""

    dtype: torch.dtype
    key: str
    size: int
    first: int = 0
    """Where a view of a storage begins."""


class _Numbers(NamedTuple):
    """A tensor that is not read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickled(path: Path) -> Any:
    """What is in a file of ``torch.save``: tensors, plain values and containers; the rest is ``Inert``.

    The tensors are mapped, not copied.

    Raises:
        ValueError: The file is damaged or in another format, or a tensor does not fit into its numbers.
    """
    try:
        read = _read_zip if zipfile.is_zipfile(path) else _read_legacy
        value, storages = read(path)
        return _with_tensors(value, storages, {})
    except Exception as error:  # whatever a zip, a pickle or its values can be wrong with
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a readable PyTorch checkpoint: {reason}") from None


class _Unpickler(InertUnpickler):
    def persistent_load(self, pid: Any) -> Any:
        kind, *rest = pid
        if kind == "module":
            return rest[0]
        if kind != "storage" or not isinstance(rest[0], torch.dtype):
            raise ValueError(f"it holds numbers of an unknown type, {getattr(rest[0], '__name__', rest[0])}")
        dtype, key, _, size, *view = rest
        first = view[0][1] if view and view[0] is not None else 0
        if not isinstance(size, int) or not isinstance(first, int) or size < 0 or first < 0:
            raise ValueError(f"storage {key!r} has an invalid size")
        return _Storage(dtype, str(key), size, first)


class _Rebuilt:
    """``torch._utils._rebuild_tensor``. A class, since a pickle could set attributes of a function."""

    def __new__(cls, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
        if not isinstance(storage, _Storage):
            return Inert()
        numbers = (offset, *shape, *stride)
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or len(shape) != len(stride):
            raise ValueError(f"a tensor of shape {shape} and stride {stride} is invalid")
        return _Numbers(storage, offset, tuple(shape), tuple(stride))

    def __setstate__(self, state: Any) -> None:
        pass


class _Parameter:
    """``torch._utils._rebuild_parameter``: the tensor."""

    def __new__(cls, data: Any, *rest: Any) -> Any:
        return data

    def __setstate__(self, state: Any) -> None:
        pass


NAMED = {
    **DICTIONARIES,
    **{("torch", f"{name}Storage"): dtype for name, dtype in TYPES.items()},
    **{("torch.cuda", f"{name}Storage"): dtype for name, dtype in TYPES.items()},
    ("torch._utils", "_rebuild_tensor"): _Rebuilt,
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuilt,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _Parameter,
}
"""All that a pickle may name with effect. None of it calls, imports or reads anything."""

Read = Callable[[_Storage], Tensor]


def _read_zip(path: Path) -> tuple[Any, Read]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it has no data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")
        if archive.getinfo(pickles[0]).file_size > path.stat().st_size:
            raise ValueError("its data.pkl is compressed and larger than the file")
        value = _Unpickler(io.BytesIO(archive.read(pickles[0])), NAMED).load()

    def storages(storage: _Storage) -> Tensor:
        with zipfile.ZipFile(path) as archive:
            record = archive.getinfo(f"{root}data/{storage.key}")
            if record.compress_type != zipfile.ZIP_STORED:
                if record.file_size > storage.size * storage.dtype.itemsize:
                    raise ValueError(f"storage {storage.key!r} is larger than it says")
                return torch.frombuffer(bytearray(archive.read(record)), dtype=torch.uint8)
        with path.open("rb") as file:
            file.seek(record.header_offset + 26)
            start = record.header_offset + 30 + sum(int.from_bytes(file.read(2), "little") for _ in range(2))
        return _mapped(path, start, record.file_size)

    return value, storages


def _read_legacy(path: Path) -> tuple[Any, Read]:
    places: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        found: list[_Storage] = []

        class Legacy(_Unpickler):
            def persistent_load(self, pid: Any) -> Any:
                value = super().persistent_load(pid)
                if isinstance(value, _Storage):
                    found.append(value)
                return value

        try:
            first = InertUnpickler(file).load()
        except Exception:
            first = None
        if first != MAGIC:
            raise ValueError("it does not begin as a file of torch.save")
        InertUnpickler(file).load()  # version of the format
        InertUnpickler(file).load()  # sizes of C's types
        value = Legacy(file, NAMED).load()
        keys = InertUnpickler(file).load()
        widths = {storage.key: storage.dtype.itemsize for storage in found}
        for key in keys:
            length = file.read(8)
            if len(length) < 8:
                raise ValueError("it is cut short")
            size = int.from_bytes(length, "little")
            places[str(key)] = file.tell(), size * widths[str(key)]
            file.seek(size * widths[str(key)], io.SEEK_CUR)
        if file.tell() > path.stat().st_size:
            raise ValueError("it is cut short")

    return value, lambda storage: _mapped(path, *places[storage.key])


def _mapped(path: Path, start: int, size: int) -> Tensor:
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    if start + size > path.stat().st_size:
        raise ValueError("it is cut short")
    return torch.from_numpy(np.memmap(path, np.uint8, "c", start, (size,)))


def _with_tensors(value: Any, read: Read, seen: dict[int, Any]) -> Any:
    """The same dictionaries and lists with tensors in them."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _Numbers):
        made: Any = _tensor(value, read)
    elif isinstance(value, dict):
        made = seen[id(value)] = Items()
        made.update({key: _with_tensors(item, read, seen) for key, item in value.items()})
    elif type(value) is list:
        made = seen[id(value)] = []
        made.extend(_with_tensors(item, read, seen) for item in value)
    else:
        made = value
    seen[id(value)] = made
    return made


def _tensor(numbers: _Numbers, read: Read) -> Tensor:
    (dtype, _, _, first), shape = numbers.storage, numbers.shape
    if not prod(shape):
        return torch.empty(shape, dtype=dtype)
    data = read(numbers.storage)
    if data.data_ptr() % dtype.itemsize:
        data = data.clone()
    whole = data[: len(data) // dtype.itemsize * dtype.itemsize].view(dtype)
    begin = first + numbers.offset
    last = begin + sum((side - 1) * step for side, step in zip(shape, numbers.stride))
    if last >= len(whole) or prod(shape) > len(whole):
        raise ValueError(f"a tensor of shape {shape} does not fit into its {len(whole)} numbers")
    return whole.as_strided(shape, numbers.stride, begin)
