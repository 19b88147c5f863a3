"""Weight layouts for generation, where products have few rows and take as long as reading the weights.

    auto      on CPUs float16 if that is exact; otherwise, and on other devices, float32
    float32   on CPUs packed by oneDNN: the same numbers, in the order in which they are read
    float16   half the bytes, CPUs only: packed by FBGEMM, which computes in float32. Exact if the weights
              were stored in float16. Without FBGEMM (outside x86) the weights stay float32
    bfloat16  half the bytes, and products in bfloat16, for which only some CPUs have instructions
    int8      a quarter of the bytes, one scale per output (symmetric, rounded to nearest); the rest stays
              float32 on CPUs and is bfloat16 on other devices

A model with packed or int8 weights only generates: it cannot be trained or saved.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..choices import WEIGHTS, Weights
from ..model import FusionLM

FEW = 16
"""Most rows of a typical step. Products of up to this many rows read int8 weights directly; with more rows,
the weights are unpacked first. oneDNN packs for this many rows (packed for one, products of eight rows took
twice as long)."""


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
    """x @ weight.T, the weight (O, C) int8 and scales (O,): weight-only quantization."""

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
        if x.device.type == "cpu" and len(rows) <= FEW:  # the fast kernel needs bfloat16 inputs
            y = torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), self.weight, self.ones)
            return (y.to(x.dtype) * self.scales).view(*x.shape[:-1], -1)
        return F.linear(x, self.weight.to(x.dtype)) * self.scales


def for_generation(model: FusionLM, weights: Weights) -> FusionLM:
    """Copy a model into a weight layout that generates faster.

    ``model`` itself does not change, and shares memory with the copy where the layout is the same. A packed
    copy can only generate: computing a loss or saving it raises an error (``FusionLM.packed``).

    Args:
        model: The transformer.
        weights: The layout, see the top of this module.

    Returns:
        The copy, in evaluation mode.

    Raises:
        ValueError: The layout is unknown, or does not exist on the model's device.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights: expected one of {', '.join(WEIGHTS)}, got {weights!r}")
    model = _shared(model).eval()
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
            raise ValueError(
                f"weights: float16 is for CPUs only, the model is on {model.embedding.weight.device}: use "
                "bfloat16 or auto"
            )
        model.float()
        packs = "fbgemm" in torch.backends.quantized.supported_engines
        return _replace(model, Float16Linear) if packs else model
    if weights == "bfloat16":
        return model.bfloat16()
    rest = torch.float32 if on_cpu else torch.bfloat16
    quantized = iter([Int8Linear(weight, rest) for weight in linears])
    return _replace(model.to(rest), lambda _: next(quantized))


def _shared(model: FusionLM) -> FusionLM:
    """A copy whose parameters are new but share the memory of the model's."""
    parameters = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, parameters)


def _replace(model: FusionLM, new: Callable[[Tensor], nn.Module]) -> FusionLM:
    """Replace every linear layer by ``new`` of its weight, in the order of ``modules()``."""
    model.packed = True
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, new(module.weight))
    return model
