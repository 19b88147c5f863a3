"""Reconstruction: how much the image tokenizer preserves, in pixels, codes, and text that OCR reads.

The pixel metrics are in ``metrics.pixels``. The text metrics follow TokBench (arXiv:2505.18142), see
``metrics.text``; the texts come from ``metrics.passages``, the readers from ``metrics.ocr``, and other codecs
at equal bits from ``metrics.ceilings``. Images without a transcript are judged by what the OCR engine itself
reads in the original.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...tokenizers.batches import equal_batches
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.pixels import Policy, fit, to_pil, to_tensor
from ...tokenizers.progress import Progress, silent
from ...tokenizers.vqvae.tiles import decode_tiled, encode_tiled
from ..items import Item
from ..metrics.ceilings import ceilings as all_ceilings
from ..metrics.codebook import code_counts, perplexity, usage
from ..metrics.ocr import LineFinder, Reader, read_with
from ..metrics.passages import Passage, line_passage, one_line, passages
from ..metrics.perceptual import WITHOUT_FID, WITHOUT_LPIPS, Perceptual
from ..metrics.pixels import PixelScores, see_originals
from ..metrics.text import agreement, mean, read_scores, t_ned

BATCH_PIXELS = 2**21
"""Maximum pixels in a batch: many words, or one page; larger pictures are processed in tiles."""

OCR_OF_ORIGINAL = "OCR of the original image, not a transcript"
"""What images without a text are compared with."""

Reading = tuple[str, dict[str, tuple[str, str]]]
"""A text, and the readings of each reader (by name) in the original and in the reconstruction."""


@dataclass(frozen=True)
class Reconstruction:
    """One image of a measurement, for sheets and pages."""

    name: str
    kind: str | None
    original: Image.Image
    reconstruction: Image.Image
    psnr: float | None
    """In dB; None if no pixel differs."""
    ceilings: dict[str, Image.Image] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    transcript: bool = True
    """False: the texts are not known; the reference is what each reader reads in the original."""

    def t_ned(self, reader: str) -> float | None:
        """Mean over the texts that ``reader`` reads correctly in the original, or reads at all if there is no
        transcript; None without such a text."""
        judged = [(text, read[reader]) for text, read in self.readings if reader in read]
        if not self.transcript:
            return mean(t_ned(before, after) for _, (before, after) in judged if before)
        return mean(t_ned(text, after) for text, (before, after) in judged if before == text)


@dataclass(frozen=True)
class Measurement:
    """The result of ``measure``."""

    figures: dict[str, Any]
    """A JSON object."""
    results: list[Reconstruction]
    """In the order of the items."""


def measure(
    tokenizer: ImageTokenizer,
    items: Sequence[Item],
    readers: Sequence[Reader] = (),
    *,
    policy: Policy = "resize",
    max_side: int | None = None,
    batch_size: int = 32,
    ceilings: bool = False,
    perceptual: Perceptual | None = None,
    finder: LineFinder | None = None,
    progress: Progress = silent,
) -> Measurement:
    """Reconstruct items and measure the result.

    Images of sizes that the tokenizer does not take are fitted first (see ``pixels.fit``); the fitted image
    is the original, for pixels and for readers. The figures:

    - "l1", "mse", "psnr", "ssim", "lpips", "rfid": see ``PixelScores.compute``; "not_measured": why one is
      None without weights.
    - "codebook_size": K; "codes_per_position": n; "codebook_usage": fraction of the n*K codes that occur;
      "perplexity" of their distribution, 1..K (see ``codebook.perplexity``); "tokens_per_image": codes per
      image, all n of every position; "bits_per_pixel": log2 K * codes / pixels.
    - with readers and texts: "ocr": {"original", "reconstruction"}, each {"t_acc", "t_ned", "cer",
      "exact_match"}, by the first reader; "ocr_by_reader": the same and more by each, see
      ``text.read_scores``.
    - with readers and ``finder``: "ocr_of_original": of the images without a text, whose reference is each
      reader's reading of the original: {"reference": these words, "images", "lines": found, "finder": its
      name, "without_lines": names of images on which none is found, "by_reader": {name: {"version", and
      ``text.agreement``}}}.
    - with ``ceilings``: "ceilings": {name: {"bits_per_pixel" actually spent, "without": number of
      images that the codec cannot express in the bits of their codes, the pixel metrics, "ocr",
      "ocr_by_reader" and "ocr_of_original" as above}}; their "reconstruction" is the ceiling's picture.

    Args:
        items: Images, perhaps with texts.
        readers: OCR engines.
        policy: How images are fitted.
        max_side: Longest side in px; larger images are scaled down.
        batch_size: Maximum images in a batch.
        ceilings: Also measure other codecs at equal bits.
        perceptual: LPIPS and FID.
        finder: Finds the lines of images without a text. Default: these are not read.
        progress: Called as work proceeds.

    Raises:
        ValueError: ``items`` is empty.
    """
    if not items:
        raise ValueError("items is empty: give at least one image to measure")
    originals = [fit(item.image, tokenizer.factor, policy, max_side) for item in items]
    figures: dict[str, Any] = {"kind": "reconstruction", "images": len(items)}
    if perceptual is not None:
        perceptual.begin()
    measured, reconstructions, psnrs, bits = _through_tokenizer(
        tokenizer, originals, batch_size, perceptual, progress
    )
    figures |= measured
    figures["not_measured"] = (
        perceptual.missing() if perceptual else {"lpips": WITHOUT_LPIPS, "rfid": WITHOUT_FID}
    )
    rows = {"original": originals, "reconstruction": reconstructions}
    if ceilings:
        found, pictures = _ceilings(originals, bits, perceptual, progress)
        figures["ceilings"] = found
        rows |= pictures

    known = passages(items, originals, policy)
    blind = [i for i, item in enumerate(items) if not item.boxes and not one_line(item.text or "")]
    found_lines = _find(finder, blind, originals, progress) if finder and readers else {}
    lines = [passage for some in found_lines.values() for passage in some]
    read = _read(readers, [*known, *lines], rows, progress)
    for row in rows if read else ():
        if row == "original":
            continue
        target = figures if row == "reconstruction" else figures["ceilings"][row]
        boxes = {
            name: [text.box(*pair) for text, *pair in zip([*known, *lines], mine["original"], mine[row])]
            for name, mine in read.items()
        }
        versions = {reader.name: {"version": reader.version} for reader in readers}
        if known:
            scores = {name: versions[name] | read_scores(mine[: len(known)]) for name, mine in boxes.items()}
            first = scores[readers[0].name]
            target["ocr"] = {side: first[side] for side in ("original", "reconstruction")}
            target["ocr_by_reader"] = scores
        if lines:
            target["ocr_of_original"] = {
                "by_reader": {
                    name: versions[name] | agreement(mine[len(known) :]) for name, mine in boxes.items()
                }
            }
    if finder and readers and blind:
        figures["ocr_of_original"] = {
            "reference": OCR_OF_ORIGINAL,
            "images": len(blind),
            "lines": len(lines),
            "finder": finder.name,
            "without_lines": [items[i].name for i, some in found_lines.items() if not some],
            **figures.get("ocr_of_original", {"by_reader": {}}),
        }

    readings: list[list[Reading]] = [[] for _ in items]
    for i, text in enumerate([*known, *lines]):
        pairs = {name: (mine["original"][i], mine["reconstruction"][i]) for name, mine in read.items()}
        shown = text.text or next((before for before, _ in pairs.values() if before), "")
        readings[text.item].append((shown, pairs))
    results = [
        Reconstruction(
            item.name,
            item.kind,
            originals[i],
            reconstructions[i],
            psnrs[i],
            {name: images[i] for name, images in rows.items() if name not in ("original", "reconstruction")},
            readings[i],
            i not in found_lines,
        )
        for i, item in enumerate(items)
    ]
    return Measurement(figures, results)


def _find(
    finder: LineFinder, some: Sequence[int], originals: Sequence[Image.Image], progress: Progress
) -> dict[int, list[Passage]]:
    """The lines on the originals with the indices ``some``, as passages whose text is not known."""
    found = {}
    for i in some:
        found[i] = [line_passage(i, box, originals[i]) for box in finder.find(originals[i])]
        progress(f"{finder.name}: lines", len(found), len(some))
    return found


def _read(
    readers: Sequence[Reader],
    texts: Sequence[Passage],
    rows: Mapping[str, Sequence[Image.Image]],
    progress: Progress,
) -> dict[str, dict[str, list[str]]]:
    """Reader -> row -> a reading of each text, in one line."""
    if not texts:
        return {}
    return {
        reader.name: {
            row: list(
                map(one_line, read_with(reader, [t.picture(images[t.item]) for t in texts], row, progress))
            )
            for row, images in rows.items()
        }
        for reader in readers
    }


def flat_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """The main figures of ``measure``, flat, for training logs; missing figures are left out.

    "l1", "mse", "psnr", "ssim", "lpips", "rfid", "codebook_usage", "perplexity", and for each reader
    "READER/t_acc", "READER/t_ned", "READER/cer", "READER/exact_match" of the reconstructions.
    """
    names = ("l1", "mse", "psnr", "ssim", "lpips", "rfid", "codebook_usage", "perplexity")
    found = {name: figures.get(name) for name in names}
    for reader, scores in figures.get("ocr_by_reader", {}).items():
        found |= {f"{reader}/{name}": value for name, value in scores["reconstruction"].items()}
    return {name: float(v) for name, v in found.items() if v is not None and math.isfinite(v)}


@torch.no_grad()
def reconstruct(tokenizer: ImageTokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Encode and decode images (B, 3, H, W) in [-1, 1].

    A single image of more than ``BATCH_PIXELS`` is processed in tiles (see ``tokenizers.vqvae.tiles``).

    Returns:
        Images of the same shape and codes (B, h, w[, n]), on the CPU.
    """
    device = next(tokenizer.parameters()).device
    if len(images) == 1 and images.shape[2] * images.shape[3] > BATCH_PIXELS:
        codes = encode_tiled(tokenizer, images.to(device))
        return decode_tiled(tokenizer, codes).float().cpu(), codes.cpu()
    codes = tokenizer.encode(images.to(device))
    return tokenizer.decode(codes).float().cpu(), codes.cpu()


def reconstruct_pictures(
    tokenizer: ImageTokenizer,
    pictures: Sequence[Image.Image],
    *,
    batch_size: int = 32,
    on_batch: Callable[[list[int], Tensor, Tensor, Tensor], None] | None = None,
) -> list[Image.Image]:
    """Reconstructions of pictures whose sides are multiples of the factor; batched by size.

    Args:
        batch_size: Maximum pictures in a batch; fewer if they are large.
        on_batch: Called with each batch: indices, images and reconstructions (B, 3, H, W) in [-1, 1], codes.
    """
    out: list[Image.Image] = list(pictures)
    was_training = tokenizer.training
    tokenizer.eval()
    for some in _batches(pictures, batch_size):
        images = torch.stack([to_tensor(pictures[i]) for i in some])
        back, codes = reconstruct(tokenizer, images)
        for i, picture in zip(some, back):
            out[i] = to_pil(picture)
        if on_batch is not None:
            on_batch(some, images, back, codes)
    tokenizer.train(was_training)
    return out


def _batches(pictures: Sequence[Image.Image], batch_size: int) -> list[list[int]]:
    """Indices of pictures of equal size, in batches of at most ``BATCH_PIXELS``, smallest size first."""

    def most(i: int) -> int:
        return max(1, min(batch_size, BATCH_PIXELS // (pictures[i].width * pictures[i].height)))

    batches = equal_batches([picture.size for picture in pictures], most)
    return sorted(batches, key=lambda batch: pictures[batch[0]].size)


def _through_tokenizer(
    tokenizer: ImageTokenizer,
    originals: Sequence[Image.Image],
    batch_size: int,
    perceptual: Perceptual | None,
    progress: Progress,
) -> tuple[dict[str, Any], list[Image.Image], list[float | None], list[float]]:
    """The metrics without readers, the reconstructions, and each image's PSNR and bits of its codes."""
    K, n = tokenizer.codebook_size, tokenizer.codes_per_position
    scores = PixelScores(perceptual)
    counts = torch.zeros(n, K, dtype=torch.int64)
    psnrs: list[float | None] = [None] * len(originals)
    bits = [0.0] * len(originals)
    pixels = done = 0

    def add(some: list[int], images: Tensor, back: Tensor, codes: Tensor) -> None:
        nonlocal pixels, done
        see_originals(perceptual, images)
        for i, value in zip(some, scores.update(back, images)):
            psnrs[i], bits[i] = value, math.log2(K) * codes[0].numel()
        counts.add_(code_counts(codes, K, n))
        pixels += images.shape[0] * images.shape[2] * images.shape[3]
        done += len(some)
        progress("image tokenizer", done, len(originals))

    reconstructions = reconstruct_pictures(tokenizer, originals, batch_size=batch_size, on_batch=add)
    total = int(counts.sum())
    metrics = {
        **scores.compute(),
        "codebook_size": K,
        "codes_per_position": n,
        "codebook_usage": float(usage(counts)),
        "perplexity": float(perplexity(counts)),
        "bits_per_pixel": math.log2(K) * total / pixels,
        "tokens_per_image": total / len(originals),
    }
    return metrics, reconstructions, psnrs, bits


def _ceilings(
    originals: Sequence[Image.Image], bits: Sequence[float], perceptual: Perceptual | None, progress: Progress
) -> tuple[dict[str, Any], dict[str, list[Image.Image]]]:
    """The metrics without readers of each ceiling, and its pictures; ``bits`` are the images' budgets."""
    figures, rows = {}, {}
    pixels = sum(image.width * image.height for image in originals)
    for name, make in all_ceilings().items():
        made = []
        for image, budget in zip(originals, bits):
            made.append(make(image, int(budget)))
            progress(f"{name} of equal bits", len(made), len(originals))
        rows[name] = [one.image for one in made]
        scores = PixelScores(perceptual)
        for some in _batches(originals, 32):
            scores.update(*(torch.stack([to_tensor(x[i]) for i in some]) for x in (rows[name], originals)))
        figures[name] = {
            "bits_per_pixel": sum(one.bits for one in made) / pixels,
            "without": sum(not one.fits for one in made),
            **scores.compute(),
        }
    return figures, rows
