"""Weights laid out for generation, whose products have few rows and take as long as the weights take to read.

    auto      on CPUs float16 where that loses nothing; otherwise, and elsewhere, float32
    float32   on CPUs packed by oneDNN: the same numbers, read in the order in which they are needed
    float16   half of the bytes, for CPUs: packed by FBGEMM, which computes with them in float32. Where the
              file is in float16 they are its numbers; where there is no FBGEMM (not on x86) they stay float32
    bfloat16  half of the bytes, and products in bfloat16, which only some CPUs have instructions for
    int8      a quarter of them, one scale for each output (symmetric, rounded to nearest); on CPUs the rest
              stays float32, elsewhere it is bfloat16

A model with packed or int8 weights generates, and nothing else: it cannot be trained or saved.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..choices import WEIGHTS, Weights
from ..model import FusionLM

FEW = 16
"""Rows that a step has at most, about: up to so many a product with int8 weights reads them as they are,
while for more they are first unpacked; and oneDNN is told to expect so many. (Packed for one row its products
of eight took twice as long.)"""


class PackedLinear(nn.Module):
    """x @ weight.T by oneDNN, the weight in blocks."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), FEW)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., O)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")


class Float16Linear(nn.Module):
    """x @ weight.T by FBGEMM, the weight in float16, x and the products in float32."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight.detach().float(), None)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., O)."""
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


class Int8Linear(nn.Module):
    """x @ weight.T, the weight (O, C) int8 and scales (O,): weight-only quantisation."""

    weight: Tensor
    scales: Tensor
    ones: Tensor

    def __init__(self, weight: Tensor, dtype: torch.dtype):
        super().__init__()
        exact = weight.detach().float()
        scales = (exact.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", (exact / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales.to(dtype))
        self.register_buffer("ones", torch.ones(len(scales), dtype=torch.bfloat16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., O)."""
        rows = x.reshape(-1, x.shape[-1])
        if x.device.type == "cpu" and len(rows) <= FEW:  # the kernel that is fast takes bfloat16
            y = torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), self.weight, self.ones)
            return (y.to(x.dtype) * self.scales).view(*x.shape[:-1], -1)
        return F.linear(x, self.weight.to(x.dtype)) * self.scales


def for_generation(model: FusionLM, weights: Weights) -> FusionLM:
    """``model`` with its weights laid out anew, in place.

    :raises ValueError: there are no such weights, or not on this device.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights are {weights!r}, expected one of {', '.join(WEIGHTS)}")
    model.eval().requires_grad_(False)
    linears = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    on_cpu = model.embedding.weight.device.type == "cpu"
    if weights == "auto":
        exact = on_cpu and all(torch.equal(w.half().to(w.dtype), w) for w in linears)
        weights = "float16" if exact else "float32"
    if weights == "float32":
        model.float()
        return _replace(model, PackedLinear) if on_cpu and torch.backends.mkldnn.is_available() else model
    if weights == "float16":
        if not on_cpu:
            raise ValueError("float16 weights are for CPUs: take bfloat16 or auto")
        model.float()
        packs = "fbgemm" in torch.backends.quantized.supported_engines
        return _replace(model, Float16Linear) if packs else model
    if weights == "bfloat16":
        return model.bfloat16()
    rest = torch.float32 if on_cpu else torch.bfloat16
    quantised = iter([Int8Linear(weight, rest) for weight in linears])
    return _replace(model.to(rest), lambda _: next(quantised))


def _replace(model: FusionLM, new: Callable[[Tensor], nn.Module]) -> FusionLM:
    """``new`` of its weight in the place of every linear layer, in the order of ``modules()``."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, new(module.weight))
    return model
