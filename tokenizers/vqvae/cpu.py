"""Faster inference of the image tokenizer on CPUs, behind ``Conv``; elsewhere that is ``nn.Conv2d``.

Two things slow a CPU down in a convolutional tokenizer. Direct 3 x 3 convolutions compute nine products where
Winograd's algorithm (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308)
needs about two; PyTorch ships it for float32 (NNPACK), but always prefers oneDNN. And CPUs without bfloat16
instructions emulate that type, tens of times slower than float32.

Results change by no more than the rounding of float32. Nothing changes on a GPU, with gradients, under
autocast or in ``torch.compile``.
"""

from functools import cache

import torch
from torch import Tensor, nn

SMALLEST_WINOGRAD = 400
"""Fewest positions for which Winograd is faster: each call transforms the weights again."""
LARGEST_WINOGRAD = 2**27
"""Most elements of input or output for Winograd; NNPACK's workspace takes about 14 bytes for each."""


class Conv(nn.Conv2d):
    """``nn.Conv2d`` that is faster at inference on a CPU, with the same weights and results.

    3 x 3 kernels use Winograd's algorithm. A bfloat16 that the CPU emulates is computed in float32 and
    rounded once.
    """

    winograd = True
    """Allow Winograd's algorithm. Its rounding error, 1e-5 of the largest element, depends on where the image
    begins."""

    def forward(self, input: Tensor) -> Tensor:
        if not _at_inference(input):
            return super().forward(input)
        dtype = compute_dtype(input)
        weight = self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        x = input.to(dtype)
        if self._suits_winograd(x):
            weight = weight.contiguous()
            convolve = torch.ops.aten._nnpack_spatial_convolution  # slower on a batch than image by image
            images = [convolve(image[None], weight, bias, [1, 1]) for image in x.contiguous()]
            return (images[0] if len(images) == 1 else torch.cat(images)).to(input.dtype)
        return self._conv_forward(x, weight, bias).to(input.dtype)

    def _suits_winograd(self, x: Tensor) -> bool:
        return (
            self.winograd
            and x.ndim == 4
            and x.numel() > 0
            and self.kernel_size == (3, 3)
            and self.stride == self.dilation == self.padding == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
            and x.dtype == torch.float32
            and x[0, 0].numel() >= SMALLEST_WINOGRAD
            and max(x[0].numel(), self.out_channels * x[0, 0].numel()) <= LARGEST_WINOGRAD
            and _nnpack()
        )


def fast_layout(x: Tensor, winograd: bool = True) -> Tensor:
    """``x`` (B, C, H, W) in the memory format that is fastest for a network of ``Conv``."""
    if not _at_inference(x) or (winograd and compute_dtype(x) == torch.float32 and _nnpack()):
        return x
    return x.contiguous(memory_format=torch.channels_last)  # oneDNN's own order, so it copies nothing


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type for matrix products of ``x``: float32 for a bfloat16 that this CPU emulates, else its own."""
    emulated = x.device.type == "cpu" and x.dtype == torch.bfloat16 and not has_bfloat16()
    return torch.float32 if emulated else x.dtype


def _at_inference(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


@cache
def _nnpack() -> bool:
    available = getattr(torch, "_nnpack_available", None)  # calling it also initializes NNPACK
    return (
        available is not None and hasattr(torch.ops.aten, "_nnpack_spatial_convolution") and bool(available())
    )


@cache
def has_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16."""
    checks = (getattr(torch.cpu, n, None) for n in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)
