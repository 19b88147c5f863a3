"""Distances of pictures from their originals, on images clamped to [0, 1].

L1, MSE, PSNR and SSIM, and LPIPS and FID if there are weights (see ``perceptual``). A page goes through in
bands of rows: a float copy of a scan has 100 MB, and mapping dozens of them costs more than the arithmetic.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .perceptual import Perceptual

SSIM_WINDOW = 11
"""Side of SSIM's Gaussian window in px (sigma 1.5)."""
BAND = 2**16
"""Pixels of a band, about: its intermediate results stay in the cache."""


class PixelScores:
    """The metrics of one set of pictures, batch by batch."""

    def __init__(self, perceptual: Perceptual | None = None) -> None:
        """``perceptual`` must have seen the originals before the first update (see ``see_originals``)."""
        self.absolute = self.squared = self.ssim = self.lpips = 0.0  # sums
        self.values = self.images = self.with_ssim = 0
        self.perceptual = perceptual
        if perceptual is not None and perceptual.fid is not None:
            perceptual.fid.reset()

    def update(self, pictures: Tensor, originals: Tensor) -> list[float | None]:
        """Add two batches (B, 3, H, W) in [-1, 1]; returns each PSNR in dB, None if no pixel differs."""
        absolute, squared, similar = distances(pictures, originals)
        self.absolute += float(absolute.sum())
        self.squared += float(squared.sum())
        known = similar[~similar.isnan()]
        self.ssim, self.with_ssim = self.ssim + float(known.sum()), self.with_ssim + len(known)
        self.values += originals.numel()
        self.images += len(originals)
        if (extra := self.perceptual) is not None and (extra.lpips or extra.fid):
            got, expected = (unit_range(x).to(extra.device) for x in (pictures, originals))
            if extra.lpips is not None:
                with torch.no_grad():
                    self.lpips += float(extra.lpips(got * 2 - 1, expected * 2 - 1).double().sum())
            if extra.fid is not None:
                extra.fid.update(got, real=False)
        size = originals[0].numel()
        return [_psnr(value, size) for value in squared.tolist()]

    def compute(self) -> dict[str, float | None]:
        """{"l1", "mse", "psnr", "ssim", "lpips", "rfid"}; None if not measured.

        L1, MSE and PSNR cover all pixels of all images (PSNR is None if no pixel differs), SSIM and LPIPS are
        means over the images, and rFID compares the sets.
        """
        extra, values = self.perceptual, max(1, self.values)
        return {
            "l1": finite(self.absolute / values),
            "mse": finite(self.squared / values),
            "psnr": _psnr(self.squared, values),
            "ssim": finite(self.ssim / self.with_ssim) if self.with_ssim else None,
            "lpips": finite(self.lpips / self.images) if extra and extra.lpips else None,
            "rfid": finite(extra.fid.compute()) if extra and extra.fid and self.images > 1 else None,
        }


def see_originals(perceptual: Perceptual | None, originals: Tensor) -> None:
    """Add a batch (B, 3, H, W) in [-1, 1] to the originals that FID compares with."""
    if perceptual is not None and perceptual.fid is not None:
        perceptual.fid.update(unit_range(originals).to(perceptual.device), real=True)


def distances(pictures: Tensor, originals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of two batches (B, 3, H, W) in [-1, 1]: sums of absolute and of squared differences, in double, and
    SSIM, each (B,)."""
    absolute, squared = torch.zeros(2, len(originals), dtype=torch.float64)
    for top, bottom in _bands(originals):
        got, expected = (unit_range(x[:, :, top:bottom]) for x in (pictures, originals))
        difference = got - expected
        squared += difference.square().sum((1, 2, 3), dtype=torch.float64)
        absolute += difference.abs_().sum((1, 2, 3), dtype=torch.float64)
    return absolute, squared, ssim(pictures, originals)


def ssim(reconstruction: Tensor, original: Tensor) -> Tensor:
    """SSIM of two batches (B, 3, H, W) in [-1, 1], (B,): Gaussian window of 11 px, sigma 1.5.

    Where a window reaches over the edge, the image is mirrored (Wang et al., 2004, as in ``torchmetrics``).

    If a side is shorter, the window is the largest odd number of pixels that fits, and sigma
    shrinks with it. Below 3 px the result is NaN.
    """
    B, C, H, W = original.shape
    window = min(SSIM_WINDOW, *(side - (side + 1) % 2 for side in (H, W)))
    if window < 3:
        return torch.full((B,), torch.nan)
    sigma, pad = (1.5 if window == SSIM_WINDOW else (window - 1) / 7), window // 2
    gauss = torch.exp(-(((torch.arange(window) - pad) / sigma) ** 2) / 2)
    gauss = (gauss / gauss.sum()).tolist()
    mirrored = torch.cat([torch.arange(pad, 0, -1), torch.arange(H), torch.arange(H - 2, H - 2 - pad, -1)])
    total = torch.zeros(B, dtype=torch.float64)
    for top, bottom in _bands(original):
        rows = mirrored[top : bottom + 2 * pad]
        x, y = (
            F.pad(unit_range(z[:, :, rows]), (pad, pad, 0, 0), "reflect") for z in (reconstruction, original)
        )
        means = (_blurred(z, gauss) for z in (x, y, x * x, y * y, x * y))
        total += _similarity(*means).sum((1, 2, 3), dtype=torch.float64)
    return total / (C * H * W)


def _blurred(x: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted sums along both axes of (B, 3, H, W), where all of the window fits.

    Additions of shifted images: convolutions of a single channel are far slower on a CPU.
    """
    for axis in (3, 2):
        length = x.shape[axis] - len(weights) + 1
        total = x.narrow(axis, 0, length) * weights[0]
        for i, weight in enumerate(weights[1:], start=1):
            total.add_(x.narrow(axis, i, length), alpha=weight)
        x = total
    return x


def _similarity(mean_x: Tensor, mean_y: Tensor, xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """SSIM at each place from weighted means of x, y and their products."""
    c1, c2 = 0.01**2, 0.03**2
    both = mean_x * mean_y
    mean_x, mean_y = mean_x.square(), mean_y.square()
    spread = (xx - mean_x).clamp_(min=0) + (yy - mean_y).clamp_(min=0)
    return (2 * both + c1) * (2 * (xy - both) + c2) / ((mean_x + mean_y + c1) * (spread + c2))


def _bands(images: Tensor) -> Iterator[tuple[int, int]]:
    """First and last row of each band of a batch (B, 3, H, W)."""
    B, _, H, W = images.shape
    rows = max(1, BAND // (B * W))
    for top in range(0, H, rows):
        yield top, min(H, top + rows)


def unit_range(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return (images + 1).div_(2).clamp_(0, 1)


def finite(value: Tensor | float) -> float | None:
    """``value`` for JSON: infinity and NaN become None."""
    number = float(value)
    return number if math.isfinite(number) else None


def _psnr(squared: float, values: int) -> float | None:
    """In dB, of a sum of squared differences of ``values`` numbers in [0, 1]; None if they are equal."""
    return finite(-10 * math.log10(squared / values)) if squared else None
