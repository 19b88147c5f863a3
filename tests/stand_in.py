"""A stand-in for a GPU: tensors that say ``cuda`` and compute on the CPU, for tests on machines without one.

    with StandIn() as gpu:
        net.to("cuda")
        net(tokens.to("cuda"))
    assert gpu.waits == []

The values are real, so that sampling proceeds and results can be compared with those of the CPU. Whatever
would make the host wait for a GPU is noted with the function of the package that did it: reading a value, a
shape that depends on values, and a copy in either direction that is not ``non_blocking``. A tensor of the CPU
that meets one of the GPU raises an error, as it does there, unless it is a single number.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ROOT = Path(__file__).parents[1]
GPU, INSIDE = torch.device("cuda:0"), torch.device("meta")
"""What Python sees as the device, and what PyTorch's C++ code sees, which may be built without cuda."""
READS = {"_local_scalar_dense", "is_nonzero", "equal"}
"""Operations that return a value of the device to the host."""
SIZED_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
"""Operations whose result has a size that the device must tell the host first."""
BETWEEN = {"_to_copy", "copy_", "_copy_from"}
"""Operations that copy from one device to another."""


class Wait(NamedTuple):
    """Something for which the host waits for the device."""

    kind: str
    """"read", "size" or "upload"."""
    where: str
    """The function of the package that did it, such as ``fusion_lm/generate.py generate_steps``."""


class OnGPU(Tensor):
    """A tensor whose values are in ``inner``, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGPU":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=INSIDE
        )
        made.inner = inner
        return made

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGPU({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: tensors of the stand-in are used inside of `with StandIn()` only")


class StandIn(TorchDispatchMode):
    """The context in which device="cuda" exists."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []
        """In order; clear it to begin counting."""
        self._devices = _Devices(self)

    def counted(self) -> dict[Wait, int]:
        """How often each wait occurred."""
        return dict(Counter(self.waits))

    def note(self, kind: str) -> None:
        """Note a wait of the function of the package that is running."""
        self.waits.append(Wait(kind, _caller()))

    def __enter__(self) -> "StandIn":
        super().__enter__()
        # So that a network keeps its parameters when it moves, as on a GPU, and optimizers find them.
        torch.__future__.set_swap_module_params_on_conversion(True)
        self._devices.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch.__future__.set_swap_module_params_on_conversion(False)
        self._devices.__exit__(*error)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.rpartition("::")[2]
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        far = any(isinstance(x, OnGPU) for x in tensors)
        near = any(not isinstance(x, OnGPU) and x.ndim for x in tensors)
        target = kwargs.pop("device", None)
        if target is None:
            on_gpu = far
        else:
            on_gpu = torch.device(target).type == INSIDE.type
            kwargs["device"] = torch.device("cpu")
        if name in BETWEEN:
            if name == "copy_":
                source, on_gpu = args[1], isinstance(args[0], OnGPU)
                later = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            else:
                source, later = args[0], kwargs.get("non_blocking", False)
            if on_gpu and not isinstance(source, OnGPU) and not later:
                self.note("upload")
            elif not on_gpu and isinstance(source, OnGPU):
                self.note("read")
        elif far and near:
            raise RuntimeError(f"{func}: expected all tensors on one device, found {GPU} and cpu")
        elif far and (name in READS or (name == "item")):
            self.note("read")
        elif far and (name in SIZED_BY_VALUES or _by_mask(name, args)):
            self.note("size")
        given = tree_map(lambda x: x.inner if isinstance(x, OnGPU) else x, (args, kwargs))
        result = func(*given[0], **given[1])
        return _wrapped(func, args, kwargs, result, on_gpu)


class _Devices(TorchFunctionMode):
    """Replaces cuda by a device that PyTorch knows, before its C++ code refuses it."""

    def __init__(self, owner: StandIn) -> None:
        super().__init__()
        self.owner = owner

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.device, torch._C._nn._parse_to):  # type: ignore[attr-defined]
            return func(*args, **kwargs)
        if func in (torch.tensor, torch.as_tensor) and _is_gpu(kwargs.get("device")):
            if isinstance(args[0], OnGPU):
                return args[0].to(kwargs.get("dtype") or args[0].dtype)
            made = func(*args, **{**kwargs, "device": "cpu"})
            return made.to(INSIDE)  # an upload
        args, kwargs = tree_map(lambda x: INSIDE if _is_gpu(x) else x, (tuple(args), dict(kwargs)))
        return func(*args, **kwargs)


def _is_gpu(x: Any) -> bool:
    if isinstance(x, str):
        return x == "cuda" or x.startswith("cuda:")
    return isinstance(x, torch.device) and x.type == "cuda"


def _by_mask(name: str, args: Any) -> bool:
    """Whether an indexing operation takes a mask, whose true values are counted first."""
    if name == "repeat_interleave":
        return True
    by_mask = name in ("index", "index_put_", "_index_put_impl_") and any(
        isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
    )
    return by_mask and (name == "index" or args[2].numel() != 1)  # one number is filled in where it is true


def _wrapped(func: Any, args: Any, kwargs: Any, result: Any, on_gpu: bool) -> Any:
    """The result as a tensor of the device; operations in place return their argument."""
    returns = func._schema.returns
    if len(returns) == 1 and returns[0].alias_info is not None and returns[0].alias_info.is_write:
        [written] = [
            kwargs[a.name] if a.name in kwargs else args[i]
            for i, a in enumerate(func._schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write and (a.name in kwargs or i < len(args))
        ][:1]
        if torch.Tag.inplace_view in func.tags and isinstance(written, OnGPU):
            with no_dispatch():  # squeeze_ and its like also change the shape that PyTorch sees
                func(*args, **kwargs)
        return written
    if not on_gpu:
        return result
    return tree_map(lambda x: OnGPU(x) if isinstance(x, Tensor) and not isinstance(x, OnGPU) else x, result)


def _caller() -> str:
    """The innermost function of the package on the stack, or else that of Lightning."""
    frame, outside = sys._getframe(1), ""
    while frame is not None:
        path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
        if ROOT in path.parents and "tests" not in path.parts and ".venv" not in path.parts:
            return f"{path.relative_to(ROOT).as_posix()} {name}"
        if "lightning" in path.parts and not outside:
            outside = f"lightning {path.name} {name}"
        frame = frame.f_back  # type: ignore[assignment]
    return outside or "tests"
