"""The terms of the image tokenizer's loss, as functions of reconstruction and original, and their sum.

Images are (B, 3, H, W) in [-1, 1]; the reconstruction is not clamped. The quantizer's term comes from
``tokenizers.vqvae.quantizer``, the adversarial one from ``adversary``, LPIPS from
``eval.metrics.perceptual``.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recognizer import SHIPPED, Recognizer
from .settings import ImageTokenizerSettings


def l1(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Mean absolute error."""
    return (reconstruction - original).abs().mean()


def mse(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Mean squared error."""
    return (reconstruction - original).square().mean()


def chroma(reconstruction: Tensor, original: Tensor) -> Tensor:
    """L1 + MSE of the color, which is the channels minus their mean."""
    difference = reconstruction - original
    difference = difference - difference.mean(dim=1, keepdim=True)
    return difference.abs().mean() + difference.square().mean()


def edge(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Mean absolute error of the gray image's first differences along both axes; strokes are edges."""
    difference = (reconstruction - original).mean(dim=1)
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def text_distance(recognizer: Recognizer, reconstruction: Tensor, original: Tensor, boxes: Tensor) -> Tensor:
    """Distance of the recognizer's features within the text boxes, weighted by their area; 0 without boxes.

    As in LPIPS (arXiv:1801.03924, eq. 1) it is the squared distance of features of unit length, averaged over
    the area of all boxes and summed over the layers.

    Args:
        recognizer: The network whose features are compared.
        reconstruction: (B, 3, H, W).
        original: (B, 3, H, W).
        boxes: (N, 5): image in the batch, left, top, right, bottom in pixels.
    """
    if not len(boxes):
        return reconstruction.new_zeros(())
    chosen = boxes[:, 0].long().unique()
    inside = box_mask(boxes, reconstruction.shape)[chosen]
    with torch.no_grad():
        wanted = recognizer.features(original[chosen])
    total = reconstruction.new_zeros(())
    for found, target in zip(recognizer.features(reconstruction[chosen]), wanted, strict=True):
        distance = (F.normalize(found, dim=1) - F.normalize(target, dim=1)).square().sum(dim=1)
        height, width = distance.shape[-2:]
        weight = F.adaptive_avg_pool2d(inside, (height, width))
        total = total + (distance * weight).sum() / weight.sum().clamp(min=1e-6)
    return total


def box_mask(boxes: Tensor, shape: torch.Size) -> Tensor:
    """(B, H, W): 1 in the pixels whose center lies in a box of their image, 0 elsewhere."""
    B, _, H, W = shape
    x, y = (torch.arange(side, device=boxes.device) + 0.5 for side in (W, H))
    left, top, right, bottom = boxes[:, 1:, None].unbind(1)  # (N, 1) each
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    inside = (rows[:, :, None] & columns[:, None]).float()  # (N, H, W)
    mask = torch.zeros(B, H, W, device=boxes.device)
    return mask.index_add(0, boxes[:, 0].long(), inside).clamp(max=1)  # no loop, which would wait for the GPU


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], whose peak is 2."""
    return 10 * torch.log10(4 / mse.clamp(min=1e-10))


class ReconstructionLoss:
    """The terms that have a weight, and their weighted sum.

    Not a Module, since its networks are neither trained nor saved; they move to the images' device.
    """

    def __init__(
        self, weights: dict[str, float], recognizer: Recognizer | None = None, lpips: nn.Module | None = None
    ) -> None:
        """
        Args:
            weights: Weights of the terms by name; terms of weight 0 are not computed, except l1 and mse.
            recognizer: The network of the term text.
            lpips: The network of the term lpips.
        """
        self.weights, self.recognizer, self.lpips = weights, recognizer, lpips

    @classmethod
    def of(cls, settings: ImageTokenizerSettings) -> Self:
        """The loss for the settings of a training."""
        weights = {
            "l1": 1.0,
            "mse": settings.mse_weight,
            "chroma": settings.chroma_weight,
            "edge": settings.edge_weight,
            "text": settings.text_weight,
            "lpips": settings.lpips_weight,
        }
        recognizer = lpips = None
        if settings.text_weight:
            recognizer = Recognizer.load(settings.recognizer or SHIPPED).requires_grad_(False)
        if settings.lpips_weight and settings.lpips_backbone:
            from ...eval.metrics import perceptual

            lpips = perceptual.lpips(settings.lpips_backbone).requires_grad_(False)
        return cls(weights, recognizer, lpips)

    def terms(self, reconstruction: Tensor, images: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Unweighted scalars by name; ``boxes`` (N, 5) as in ``text_distance``."""
        terms = {"l1": l1(reconstruction, images), "mse": mse(reconstruction, images)}
        if self.weights["chroma"]:
            terms["chroma"] = chroma(reconstruction, images)
        if self.weights["edge"]:
            terms["edge"] = edge(reconstruction, images)
        if self.recognizer is not None:
            network = self.recognizer.to(images.device)
            terms["text"] = text_distance(network, reconstruction, images, boxes)
        if self.lpips is not None:
            terms["lpips"] = self.lpips.to(images.device)(reconstruction, images).mean()
        return terms

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of the weighted terms (scalar)."""
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
