"""Files of tensors, read and written one tensor at a time, so that large models fit into memory.

Reads safetensors (one file, or shards with an index) and PyTorch's files. Only tensors are read from the
latter, and nothing in them is run.
"""

import json
import pickle
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .files import read_json
from .pickled_tensors import read_pickled
from .pickles import Inert, check_stored, reason
from .safetensors_header import check_header

INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the types in safetensors' header."""


class Spec(NamedTuple):
    """Shape and type of a tensor, known before it is read or made."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class TensorFiles(Mapping[str, Tensor]):
    """Name -> tensor of several files; each tensor is read on access."""

    def __init__(self, paths: Iterable[Path]):
        """
        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is broken or holds a pickled object in place of a tensor, or two files hold
                one tensor.
        """
        self._reads: dict[str, Callable[[], Tensor]] = {}
        self._specs: dict[str, Spec] = {}
        self.paths = list(paths)
        for path in self.paths:
            if not path.is_file():
                raise FileNotFoundError(f"{path} not found: expected a file of tensors")
            for name, spec, read in _safetensors(path) if path.suffix == ".safetensors" else _pytorch(path):
                if name in self._reads:
                    raise ValueError(f"{path} holds the tensor {name!r}, which is also in another file")
                self._reads[name], self._specs[name] = read, spec

    @classmethod
    def of_folder(cls, folder: Path) -> "TensorFiles":
        """The weights in a folder of ``transformers``.

        Raises:
            FileNotFoundError: There are no weights, or a shard is missing.
            ValueError: A file is broken, or the index names a tensor that no shard holds.
        """
        for name in INDEX:
            if (folder / name).is_file():
                shards = read_json(folder / name, "an index of weights").get("weight_map")
                if not isinstance(shards, dict) or not shards:
                    raise ValueError(f"{folder / name} is not an index of weights: it lacks weight_map")
                files = cls(folder / str(shard) for shard in dict.fromkeys(shards.values()))
                if missing := sorted(set(shards) - set(files)):
                    raise ValueError(f"{folder / name} names the tensor {missing[0]!r}, which no shard holds")
                return files
        for name in SINGLE:
            if (folder / name).is_file():
                return cls([folder / name])
        raise FileNotFoundError(f"{folder} has no weights: expected one of {', '.join(SINGLE + INDEX)}")

    def spec(self, name: str) -> Spec:
        """Shape and type, without reading the tensor."""
        return self._specs[name]

    def __getitem__(self, name: str) -> Tensor:
        return self._reads[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._reads)

    def __len__(self) -> int:
        return len(self._reads)


Entry = tuple[str, Spec, Callable[[], Tensor]]


def _safetensors(path: Path) -> Iterator[Entry]:
    check_header(path)
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            specs = {}
            for name in names:
                part = file.get_slice(name)
                dtype = next((d for d, code in DTYPES.items() if code == part.get_dtype()), None)
                if dtype is None:
                    raise ValueError(f"{path}: the tensor {name!r} has unknown type {part.get_dtype()}")
                specs[name] = Spec(tuple(part.get_shape()), dtype)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from None

    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with safe_open(path, "pt") as file:  # opened again, so that earlier tensors can be freed
                return file.get_tensor(name)

        return read

    for name in names:
        yield name, specs[name], reader(name)


def _pytorch(path: Path) -> Iterator[Entry]:
    state = load_pytorch(path, mmap=True)
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds {_kind(state)}; only tensors are read: save its state_dict()")
    for name, tensor in state.items():
        if isinstance(tensor, Inert):
            raise ValueError(f"{path} holds {_kind(tensor)} as {name!r}; only tensors are read")
        if isinstance(tensor, Tensor):
            yield str(name), Spec(tuple(tensor.shape), tensor.dtype), lambda tensor=tensor: tensor


def load_pytorch(path: Path, mmap: bool = False) -> Any:
    """Read tensors and plain containers from a file of ``torch.save``.

    Nothing in the file is run: what it holds of other classes becomes ``Inert``.

    Args:
        path: The file.
        mmap: Map the tensors instead of reading them, if the file's format (since 2020) allows it.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        check_stored(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are read below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zipfile(path))
    except pickle.UnpicklingError:  # it names other classes
        return read_pickled(path)
    except Exception as error:  # torch and zips raise errors of many kinds
        raise ValueError(f"{path} is not a readable PyTorch checkpoint: {reason(error)}") from None


def _kind(value: Any) -> str:
    """The class that a pickle named, in words."""
    return f"a pickled {type(value).__name__}"


def check_finite(tensor: Tensor, name: str, where: str) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ValueError: ``tensor`` holds NaN or infinity.
    """
    if not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(
            f"{where}: {name} holds NaN or infinity in {bad:,} of {tensor.numel():,} numbers: take another "
            "checkpoint of the model"
        )


def write_tensors(
    path: Path,
    specs: Mapping[str, Spec],
    make: Callable[[str], Tensor],
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write a safetensors file, one tensor at a time.

    Args:
        path: The file.
        specs: Shape and type of each tensor, in order.
        make: Name -> the tensor.
        progress: Called after each tensor.

    Raises:
        ValueError: ``make`` returns another shape or type than ``specs`` says.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, spec in specs.items():
        start, end = end, end + _bytes(spec)
        header[name] = {"dtype": DTYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for number, (name, spec) in enumerate(specs.items(), start=1):
            tensor = make(name)
            if Spec(tuple(tensor.shape), tensor.dtype) != spec:
                raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, expected {spec}")
            data = tensor.contiguous().flatten().view(torch.uint8)
            file.write(data.numpy().data)
            if progress is not None:
                progress("tensors", number, len(specs))


def _bytes(spec: Spec) -> int:
    size = spec.dtype.itemsize
    for side in spec.shape:
        size *= side
    return size
