"""Distances of pictures from their originals.

torchmetrics' L1, MSE, PSNR and SSIM on images clamped to [0, 1], and LPIPS and FID with weights (see
``perceptual``).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from .perceptual import Perceptual

SSIM_WINDOW = 11
"""Side of SSIM's Gaussian window in px (sigma 1.5)."""


class PixelScores:
    """The metrics of one set of pictures, batch by batch."""

    def __init__(self, perceptual: Perceptual | None = None) -> None:
        """``perceptual`` must have seen the originals before the first update (see ``see_originals``)."""
        self.l1, self.mse = MeanAbsoluteError(), MeanSquaredError()
        self.psnr = PeakSignalNoiseRatio(data_range=1.0)
        self.ssim, self.lpips = MeanMetric(nan_strategy="ignore"), MeanMetric()
        self.perceptual = perceptual
        self.images = 0
        if perceptual is not None and perceptual.fid is not None:
            perceptual.fid.reset()

    def update(self, pictures: Tensor, originals: Tensor) -> list[float | None]:
        """Add two batches (B, 3, H, W) in [-1, 1]; returns each PSNR in dB, None if no pixel differs."""
        got, expected = unit_range(pictures), unit_range(originals)
        for metric in (self.l1, self.mse, self.psnr):
            metric.update(got.flatten(), expected.flatten())
        self.ssim.update(ssim(got, expected))
        self.images += len(got)
        if (extra := self.perceptual) is not None:
            got, expected = got.to(extra.device), expected.to(extra.device)
            if extra.lpips is not None:
                with torch.no_grad():
                    self.lpips.update(extra.lpips(got * 2 - 1, expected * 2 - 1).cpu())
            if extra.fid is not None:
                extra.fid.update(got, real=False)
        error = (unit_range(pictures) - unit_range(originals)).square().mean((1, 2, 3))
        return [finite(-10 * math.log10(value)) if value else None for value in error.tolist()]

    def compute(self) -> dict[str, float | None]:
        """{"l1", "mse", "psnr", "ssim", "lpips", "rfid"}; None if not measured.

        L1, MSE and PSNR cover all pixels of all images (PSNR is None if no pixel differs), SSIM and LPIPS are
        means over the images, and rFID compares the sets.
        """
        extra = self.perceptual
        return {
            "l1": finite(self.l1.compute()),
            "mse": finite(self.mse.compute()),
            "psnr": finite(self.psnr.compute()),
            "ssim": finite(self.ssim.compute()),
            "lpips": finite(self.lpips.compute()) if extra and extra.lpips else None,
            "rfid": finite(extra.fid.compute()) if extra and extra.fid and self.images > 1 else None,
        }


def see_originals(perceptual: Perceptual | None, originals: Tensor) -> None:
    """Add a batch (B, 3, H, W) in [-1, 1] to the originals that FID compares with."""
    if perceptual is not None and perceptual.fid is not None:
        perceptual.fid.update(unit_range(originals).to(perceptual.device), real=True)


def ssim(reconstruction: Tensor, original: Tensor) -> Tensor:
    """SSIM of two batches (B, 3, H, W) in [0, 1], (B,): Gaussian window of 11 px, sigma 1.5.

    If a side is shorter, the window is the largest odd number of pixels that fits, and sigma shrinks with it.
    Nothing is padded, since equal padding would raise the score. Below 3 px the result is NaN.
    """
    window = min(SSIM_WINDOW, *(side - (side + 1) % 2 for side in original.shape[-2:]))
    if window < 3:
        return torch.full((len(original),), torch.nan)
    # torchmetrics' window: 2 * int(3.5 sigma + .5) + 1
    sigma = 1.5 if window == SSIM_WINDOW else (window - 1) / 7
    values: Any = structural_similarity_index_measure(
        reconstruction, original, sigma=sigma, data_range=1.0, reduction="none"
    )
    return values.view(-1)


def unit_range(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return (images + 1).div(2).clamp(0, 1)


def finite(value: Tensor | float) -> float | None:
    """``value`` for JSON: infinity and NaN become None."""
    number = float(value)
    return number if math.isfinite(number) else None
