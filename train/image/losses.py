"""The terms of the image tokenizer's loss, each a function of reconstruction and original.

Images are (B, 3, H, W) in [-1, 1]; the reconstruction is not clamped. The weights stand in
``ImageTokenizerTraining``; the quantizer's term comes from ``tokenizers.quantizer``, the adversarial one from
``adversary``, LPIPS from ``eval.perceptual``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .recognizer import Recognizer


def l1(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Mean absolute error."""
    return (reconstruction - original).abs().mean()


def mse(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Mean squared error."""
    return (reconstruction - original).square().mean()


def chroma(reconstruction: Tensor, original: Tensor) -> Tensor:
    """L1 + MSE of the color alone, the channels less their mean: 0 where there is no color."""
    difference = reconstruction - original
    difference = difference - difference.mean(dim=1, keepdim=True)
    return difference.abs().mean() + difference.square().mean()


def edge(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Mean absolute error of the first differences along both axes, of the gray image: strokes are edges."""
    difference = (reconstruction - original).mean(dim=1)
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def text_distance(recognizer: Recognizer, reconstruction: Tensor, original: Tensor, boxes: Tensor) -> Tensor:
    """Distance of the recognizer's features within the text boxes, weighted by their area; 0 without boxes.

    As in LPIPS (arXiv:1801.03924, eq. 1) the features of a position are scaled to unit length and their
    squared distance is taken; it is averaged over the area of all boxes, and summed over the layers.

    :param boxes: (N, 5): image in the batch, left, top, right, bottom in pixels.
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
    return mask.index_add(0, boxes[:, 0].long(), inside).clamp(max=1)  # no loop: it would wait for a GPU
