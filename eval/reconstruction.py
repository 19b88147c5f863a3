"""How much survives the image tokenizer: pixels, codes, and the text that readers find before and after.

Pixel metrics are torchmetrics' on images clamped to [0, 1]. The text metrics follow TokBench
(arXiv:2505.18142), see `text_metrics`; the readers are those of `ocr`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from ..tokenizers.image import ImageTokenizer
from ..tokenizers.pixels import Policy, fit, to_pil, to_tensor
from .items import Item, Progress, ink_box
from .ocr import Reader, read_with
from .text_metrics import TextBox, by_pixels, grouped, side_by_side, tokbench

SSIM_WINDOW = 11
"""Side of SSIM's window in px (sigma 1.5)."""


def evaluate_reconstruction(
    tokenizer: ImageTokenizer,
    items: Sequence[Item],
    readers: Sequence[Reader] = (),
    *,
    policy: Policy = "resize",
    max_side: int | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Pass `items` through the tokenizer and measure what comes back; a JSON object.

    An image of a size that the tokenizer does not take is fitted first (`policy`, `max_side`: see
    `pixels.fit`), and what it then is counts as the original, for the pixels and for the readers.

    - "l1", "mse", "psnr": over all pixels of all images; "psnr" is None where no pixel differs. "ssim": mean
      over the images (see `ssim`).
    - "codebook_usage": share of the K codes that occur; "perplexity" of their distribution, 1..K;
      "bits_per_pixel": log2 K * codes / pixels; "tokens_per_image": codes per image.
    - with readers and texts: "ocr": {"original", "reconstruction"}, each {"t_acc", "t_ned", "cer",
      "exact_match"}, by the first reader; "ocr_by_reader": the same and more by each, see `read_scores`.

    Raises ValueError when there are no items.
    """
    if not items:
        raise ValueError("there are no images to measure")
    originals = [fit(item.image, tokenizer.factor, policy, max_side) for item in items]
    result: dict[str, Any] = {"kind": "reconstruction", "images": len(items)}
    metrics, reconstructions = _measure_pixels(tokenizer, originals, batch_size, progress)
    result |= metrics
    with_text = [i for i, item in enumerate(items) if item.text and item.text.strip()]
    if readers and with_text:
        by_reader = {}
        for reader in readers:
            before, after = (
                read_with(reader, [images[i] for i in with_text], what, progress)
                for images, what in ((originals, "originals"), (reconstructions, "reconstructions"))
            )
            boxes = [text_box(items[i], originals[i], *texts) for i, *texts in zip(with_text, before, after)]
            by_reader[reader.name] = {"version": reader.version, **read_scores(boxes)}
        first = by_reader[readers[0].name]
        result["ocr"] = {side: first[side] for side in ("original", "reconstruction")}
        result["ocr_by_reader"] = by_reader
    return result


def read_scores(boxes: Sequence[TextBox]) -> dict[str, Any]:
    """What one reader makes of the texts, before and after.

    - "original", "reconstruction": {"t_acc", "t_ned"}: TokBench's, means of its bins; {"cer", "exact_match"}:
      over all texts. T-ACC and T-NED are None where no bin holds a text that is read in the original.
    - "items": all texts, "counted": those in T-ACC and T-NED, "dropped": those outside TokBench's bins,
      "empty_bins": bins left out of the means, "bins": the scores in each.
    - "by_text_size": the same bins, names and means by the size of the type in px.
    - "by_kind": the scores of each kind, without bins.
    """
    overall, binned = side_by_side(boxes), tokbench(boxes)
    binned_mean = {name: binned.pop(name) for name in ("t_acc", "t_ned")}
    # Those that count are read right in the original, in whichever bin: its T-ACC and T-NED are 1 there.
    original_mean = {name: None if value is None else 1.0 for name, value in binned_mean.items()}
    return {
        "items": len(boxes),
        "original": {**overall["original"], **original_mean},
        "reconstruction": {**overall["reconstruction"], **binned_mean},
        **binned,
        "by_text_size": {"unit": "px per em where it is known, else px of ink height", **by_pixels(boxes)},
        "by_kind": {
            kind: {"items": len(some), **side_by_side(some)}
            for kind, some in grouped(boxes, lambda box: box.kind).items()
        },
    }


def text_box(item: Item, original: Image.Image, before: str, after: str) -> TextBox:
    """The text of `item`, which takes up what differs from the background of `original`."""
    text = (item.text or "").strip()
    left, top, right, bottom = ink_box(original) or (0, 0, *original.size)
    pixels = float(bottom - top) if item.size is None else item.size * original.height / item.image.height
    relative = (right - left) / len(text) / max(original.size)
    return TextBox(text, before, after, relative, pixels, item.kind)


def ssim(reconstruction: Tensor, original: Tensor) -> Tensor:
    """SSIM of each of two batches (B, 3, H, W) in [0, 1], (B,): Gaussian window of 11 px, sigma 1.5.

    In an image with a shorter side than that the window is the largest odd number of pixels that fits, and
    sigma shrinks with it (nothing is padded: agreeing padding would raise the score). Below 3 px there is no
    window to speak of, and the result is NaN.
    """
    window = min(SSIM_WINDOW, *(side - (side + 1) % 2 for side in original.shape[-2:]))
    if window < 3:
        return torch.full((len(original),), torch.nan)
    sigma = (
        1.5 if window == SSIM_WINDOW else (window - 1) / 7
    )  # torchmetrics' window: 2 * int(3.5 sigma + .5) + 1
    values = structural_similarity_index_measure(
        reconstruction, original, sigma=sigma, data_range=1.0, reduction="none"
    )
    assert isinstance(values, Tensor)  # a tuple comes only with the full image
    return values.view(-1)


@torch.no_grad()
def reconstruct(tokenizer: ImageTokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) in [-1, 1] -> (images of the same shape, codes (B, h, w)), on the CPU."""
    device = next(tokenizer.parameters()).device
    codes = tokenizer.encode(images.to(device))
    return tokenizer.decode(codes).float().cpu(), codes.cpu()


def reconstruct_pictures(
    tokenizer: ImageTokenizer,
    pictures: Sequence[Image.Image],
    *,
    batch_size: int = 32,
    batch: Callable[[list[int], Tensor, Tensor, Tensor], None] | None = None,
) -> list[Image.Image]:
    """Pictures with sides that are multiples of the factor, as they come back; batched by size.

    `batch` is called with each batch: indices, images and reconstructions (B, 3, H, W) in [-1, 1], codes.
    """
    out: list[Image.Image] = list(pictures)
    was_training = tokenizer.training
    tokenizer.eval()
    for same in grouped(range(len(pictures)), lambda i: pictures[i].size).values():
        for some in (same[i : i + batch_size] for i in range(0, len(same), batch_size)):
            images = torch.stack([to_tensor(pictures[i]) for i in some])
            back, codes = reconstruct(tokenizer, images)
            for i, picture in zip(some, back):
                out[i] = to_pil(picture)
            if batch is not None:
                batch(some, images, back, codes)
    tokenizer.train(was_training)
    return out


def _measure_pixels(
    tokenizer: ImageTokenizer, originals: Sequence[Image.Image], batch_size: int, progress: Progress | None
) -> tuple[dict[str, Any], list[Image.Image]]:
    """The metrics without readers, and the reconstructions."""
    l1, mse, psnr, similarity = (
        MeanAbsoluteError(),
        MeanSquaredError(),
        PeakSignalNoiseRatio(data_range=1.0),
        MeanMetric(nan_strategy="ignore"),
    )
    counts = torch.zeros(tokenizer.codebook_size, dtype=torch.int64)
    pixels = done = 0

    def measure(some: list[int], images: Tensor, back: Tensor, codes: Tensor) -> None:
        nonlocal pixels, done
        expected, got = ((x + 1).div(2).clamp(0, 1) for x in (images, back))
        for metric in (l1, mse, psnr):
            metric.update(got.flatten(), expected.flatten())
        similarity.update(ssim(got, expected))
        counts.add_(torch.bincount(codes.flatten(), minlength=len(counts)))
        pixels += images.shape[0] * images.shape[2] * images.shape[3]
        done += len(some)
        if progress is not None:
            progress("image tokenizer", done, len(originals))

    reconstructions = reconstruct_pictures(tokenizer, originals, batch_size=batch_size, batch=measure)
    share = counts[counts > 0].double() / counts.sum()
    K, total = len(counts), int(counts.sum())
    metrics = {
        "l1": finite(l1.compute()),
        "mse": finite(mse.compute()),
        "psnr": finite(psnr.compute()),
        "ssim": finite(similarity.compute()),
        "codebook_size": K,
        "codebook_usage": int((counts > 0).sum()) / K,
        "perplexity": float(torch.exp(-(share * share.log()).sum())),
        "bits_per_pixel": math.log2(K) * total / pixels,
        "tokens_per_image": total / len(originals),
    }
    return metrics, reconstructions


def finite(value: Tensor | float) -> float | None:
    """`value` as JSON can hold it: infinity and NaN become None."""
    number = float(value)
    return number if math.isfinite(number) else None


def table(result: dict[str, Any]) -> Table:
    """The result of `evaluate_reconstruction` for a terminal: pixels and codes, then each reader's scores."""
    figures = Table.grid(padding=(0, 3))
    figures.add_row(
        f"PSNR {show(result['psnr'], 2)} dB",
        f"SSIM {show(result['ssim'])}",
        f"L1 {show(result['l1'], 4)}",
        f"MSE {show(result['mse'], 5)}",
    )
    figures.add_row(
        f"codes used {result['codebook_usage']:.1%} of {result['codebook_size']}",
        f"perplexity {result['perplexity']:.1f}",
        f"{result['bits_per_pixel']:.3f} bits/pixel",
        f"{result['tokens_per_image']:.1f} tokens/image",
    )
    out = Table.grid()
    out.title, out.title_justify = f"Reconstruction of {result['images']} images", "left"
    out.add_row(figures)
    for reader, scores in result.get("ocr_by_reader", {}).items():
        out.add_row(_reader_table(reader, scores))
    return out


def _reader_table(reader: str, scores: dict[str, Any]) -> Table:
    # Narrow enough for a terminal of 80 columns.
    text = Table(f"{reader} {scores['version']}", "texts", "counted", "T-ACC", "T-NED", box=SIMPLE_HEAD)
    text.pad_edge, text.collapse_padding = False, True
    for name in ("exact", "CER"):
        text.add_column(f"{name}\nbefore, after")
    text.columns[0].no_wrap = True
    for column in text.columns[1:]:
        column.justify = "right"
    text.add_row("all, mean of bins", *_cells(scores))
    for row in scores["bins"]:
        text.add_row(f"  size {row['bin']}", *_cells(row))
    for row in scores["by_text_size"]["bins"]:
        text.add_row(f"  type {row['bin']} px", *_cells(row))
    for kind, row in scores["by_kind"].items():
        text.add_row(f"  {escape(kind)}", *_cells(row))
    text.caption = "size: width of a character / longer side of the image"
    if scores["empty_bins"]:
        text.caption += f"; empty: {', '.join(scores['empty_bins'])}"
    text.caption_justify = "left"
    return text


def _cells(row: dict[str, Any]) -> list[str]:
    before, after = row["original"], row["reconstruction"]
    return [
        str(row["items"]),
        str(row["counted"]),
        *(show(after[name]) for name in ("t_acc", "t_ned")),
        *(f"{show(before[name])}, {show(after[name])}" for name in ("exact_match", "cer")),
    ]


def show(value: float | None, digits: int = 3) -> str:
    """A figure for a table; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"
