"""A network in a folder: ``config.json`` (the dataclass) and ``model.safetensors``, read strictly."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import nn
from torch.overrides import TorchFunctionMode

from .files import atomic_folder, read_json, write_bytes, write_json
from .tensor_files import Spec, TensorFiles

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = 1


def save_network(network: nn.Module, config: Any, folder: Path, kind: str) -> None:
    """Write both files, or neither. Other files in ``folder`` stay."""
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
    shapes: Callable[[Any], Mapping[str, tuple[int, ...]]] | None = None,
) -> Any:
    """Build ``network_class(config_class(...))`` from ``folder`` and load its weights.

    Args:
        network_class: The module.
        config_class: Its config, a dataclass.
        folder: Has config.json and model.safetensors.
        kind: What config.json must say it is.
        upgrade: Converts the fields of an earlier version's config to today's.
        renamed: Prefix of tensor names in earlier versions -> today's prefix.
        unfilled: Build the network on the meta device and give it the file's tensors in their stored types,
            so that nothing is allocated twice. The file must then hold all tensors.
        shapes: Computes the shapes of all tensors, which are floats, from the config.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The kind or format differs, a field is unknown or invalid, or names or shapes of the
            weights do not fit.
    """
    config = read_config(config_class, folder, kind, upgrade)
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected the weights")
    files = TensorFiles([path])
    names = {_renamed(name, renamed or {}): name for name in files}
    found = {new: files.spec(old) for new, old in names.items()}
    if shapes is not None:  # first, since building a network of 1,000 layers takes seconds
        _check_tensors(
            {name: Spec(shape, torch.float32) for name, shape in shapes(config).items()}, found, path
        )
    try:
        with torch.device("meta"), _NoValues():
            network = network_class(config)
        _check_tensors({n: Spec(tuple(t.shape), t.dtype) for n, t in _tensors(network).items()}, found, path)
        if not unfilled:
            network = network_class(config)
    except (TypeError, ValueError) as error:
        prefix = "" if str(path) in str(error) else f"{folder / CONFIG}: "
        raise ValueError(f"{prefix}{error}") from None
    # Copies, since the file may be overwritten.
    state = {new: files[old].clone() for new, old in names.items()}
    network.load_state_dict(state, strict=False, assign=unfilled)
    return network


class _NoValues(TorchFunctionMode):
    """Skips functions that change only values, for the meta device: there they do nothing, but import torch's
    compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__ or func is nn.functional.normalize:
            return (args or tuple(kwargs.values()))[0]
        return func(*args, **(kwargs or {}))


def read_config(
    config_class: type, folder: Path, kind: str, upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> Any:
    """Read the ``config_class`` in ``folder``/config.json; arguments and errors as in ``load_network``."""
    path = folder / CONFIG
    values = read_json(path, f"a config of kind {kind!r}")
    if (found := values.pop("kind", None)) != kind:
        raise ValueError(f"{path} has kind {found!r}, expected {kind!r}")
    if (found := values.pop("format", None)) != FORMAT:
        raise ValueError(f"{path} has format {found}, expected format {FORMAT}: update earlyfusion")
    values = upgrade(values)
    names = {field.name for field in fields(config_class)}
    if unknown := sorted(set(values) - names):
        raise ValueError(f"{path} has the unknown field {unknown[0]!r}; expected {', '.join(sorted(names))}")
    try:
        return config_class(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _tensors(network: nn.Module) -> dict:
    """The state dict with one name per tensor; tied embeddings have two."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor
    return kept


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def _check_tensors(wanted: Mapping[str, Spec], found: Mapping[str, Spec], path: Path) -> None:
    """Compare names, shapes and kinds of the tensors in a file's header with those of a network."""
    for name in sorted(set(wanted) | set(found)):
        if name not in found:
            raise ValueError(f"{path} lacks the tensor {name!r}, which {CONFIG} requires")
        if name not in wanted:
            raise ValueError(f"{path} holds the tensor {name!r}, which {CONFIG} does not describe")
        shape, dtype = found[name]
        if shape != wanted[name].shape:
            raise ValueError(f"{path}: {name} has shape {shape}, {CONFIG} requires {wanted[name].shape}")
        if dtype.is_floating_point != wanted[name].dtype.is_floating_point:
            raise ValueError(f"{path}: {name} is of type {dtype}, expected {wanted[name].dtype}")
