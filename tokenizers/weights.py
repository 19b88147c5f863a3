"""A network in a folder: ``config.json`` (the dataclass) and ``model.safetensors``, read strictly."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import nn

from .files import atomic_folder, read_json, write_bytes, write_json
from .tensor_files import TensorFiles

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = 1


def save_network(network: nn.Module, config: Any, folder: Path, kind: str) -> None:
    """Write both files, or neither; whatever else lies in ``folder`` stays."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(network).items()}
    with atomic_folder(folder) as new:
        write_json(new / CONFIG, {"kind": kind, "format": FORMAT, **asdict(config)})
        write_bytes(new / WEIGHTS, save_tensors(state))


def load_network(
    network_class: type,
    config_class: type,
    folder: Path,
    kind: str,
    *,
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    renamed: Mapping[str, str] | None = None,
    unfilled: bool = False,
) -> Any:
    """Build ``network_class(config_class(...))`` from ``folder`` and fill in its weights.

    ``upgrade`` makes the fields of this version from an earlier one's, ``renamed`` maps beginnings of
    tensors' names in earlier versions to today's. ``unfilled`` builds the network without numbers and gives
    it the file's tensors, in their types: it takes no more memory than they do. All of its tensors must be
    stored.

    :raises FileNotFoundError: a file is missing.
    :raises ValueError: another kind or format, an unknown or bad field, or weights of other names or shapes.
    """
    config = read_config(config_class, folder, kind, upgrade)
    try:
        with torch.device("meta") if unfilled else nullcontext():
            network = network_class(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from None
    _fill(network, folder / WEIGHTS, renamed or {}, unfilled)
    return network


def read_config(
    config_class: type, folder: Path, kind: str, upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> Any:
    """The ``config_class`` in ``folder``/config.json; errors as :func:`load_network`'s."""
    path = folder / CONFIG
    values = read_json(path, f"a config of kind {kind!r}")
    if (found := values.pop("kind", None)) != kind:
        raise ValueError(f"{path} is of kind {found!r}, expected {kind!r}")
    if (found := values.pop("format", None)) != FORMAT:
        raise ValueError(f"{path} has format {found}; this earlyfusion reads format {FORMAT}")
    values = upgrade(values)
    names = {field.name for field in fields(config_class)}
    if unknown := sorted(set(values) - names):
        raise ValueError(f"{path} has the unknown field {unknown[0]!r}; known are {', '.join(sorted(names))}")
    try:
        return config_class(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _tensors(network: nn.Module) -> dict:
    """The state dict without a second name for a shared tensor (tied embeddings)."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor
    return kept


def _fill(network: nn.Module, path: Path, renamed: Mapping[str, str], assign: bool) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: the weights belong there")
    files = TensorFiles([path])
    state = {name: files[name].clone() for name in files}  # copies, since the file may be written over
    for old, new in renamed.items():
        state = {new + n.removeprefix(old) if n.startswith(old) else n: t for n, t in state.items()}
    wanted = _tensors(network)
    for name in sorted(set(wanted) | set(state)):
        if name not in state:
            raise ValueError(f"{path} lacks the tensor {name!r} that {CONFIG} asks for")
        if name not in wanted:
            raise ValueError(f"{path} holds the tensor {name!r} that {CONFIG} has no place for")
        if state[name].shape != wanted[name].shape:
            shapes = tuple(state[name].shape), tuple(wanted[name].shape)
            raise ValueError(f"{path}: {name} has the shape {shapes[0]}, {CONFIG} asks for {shapes[1]}")
    network.load_state_dict(state, strict=False, assign=assign)
