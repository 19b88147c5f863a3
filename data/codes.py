"""Pictures <-> files of codes, for ``earlyfusion image-tokenizer encode`` and ``decode``.

A folder of codes holds for each picture ``NAME.npz`` (NAME with its ending, in the same sub-folder) with the
arrays ``codes`` (h, w) or (h, w, n), in the smallest unsigned integers, and ``size`` (height, width), and
``codes.json``, which says which tokenizer they belong to. A picture is padded with white, at the right and at
the bottom, to multiples of the tokenizer's factor; decoding cuts that off again.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..storage.files import read_json, write_bytes, write_json
from ..tokenizers.image import ImageTokenizer
from ..tokenizers.pixels import IMAGE_SUFFIXES, fit, load_image, to_pil, to_tensor
from ..tokenizers.progress import Progress
from ..tokenizers.vqvae.tiles import decode_tiled, encode_tiled

INDEX = "codes.json"
FORMAT = 1
BATCH_PIXELS = 2**20
"""Pixels of a batch: pictures of one size go through the network together."""
WAITING_PIXELS = 2**24
"""Pixels that wait for others of their size before the largest heap goes as it is."""
LARGEST_FILE = 2**28
"""Bytes of the codes in a file, unpacked: those of the largest picture that Pillow opens, and some."""


@dataclass
class Counts:
    """What a run did."""

    images: int = 0
    before: int = 0
    """Done by an earlier run."""
    tokens: int = 0
    pixels: int = 0
    """Of the pictures in their first size."""
    bytes: int = 0
    """Of the files that were written."""
    skipped: list[str] = field(default_factory=list)
    """One line for each file that cannot be read: its name and why."""


class _Job(NamedTuple):
    """A picture on its way in, or codes on their way out."""

    data: Tensor
    """(3, H, W) float32, or (h, w) or (h, w, n) int64."""
    size: tuple[int, int]
    """(height, width) of the picture."""
    target: Path
    tiled: bool
    """Too large for one piece: it goes alone."""


def encode_folder(
    tokenizer: ImageTokenizer,
    images: str | Path,
    out: str | Path,
    *,
    tile: int = 1024,
    progress: Progress | None = None,
) -> Counts:
    """Encode the image file ``images``, or all below that folder, into the folder ``out``.

    Each file is written whole or not at all. It is skipped if it exists and is not older than its picture. A
    picture whose longer side is above ``tile`` pixels is encoded in tiles.

    Raises:
        FileNotFoundError: The folder is missing, or has no image.
        ValueError: No image can be read, ``out`` holds codes of another tokenizer, or ``tile`` is too small.
    """
    root, files = _files(Path(images), IMAGE_SUFFIXES, "images")
    out, counts = Path(out), Counts()
    mark = weights_hash(tokenizer)
    if (out / INDEX).exists():
        _check_index(out / INDEX, mark, "choose another --out")
    index = {
        "format": FORMAT,
        "tokenizer": mark,
        "factor": tokenizer.factor,
        "codebook_size": tokenizer.codebook_size,
        "codes_per_position": tokenizer.codes_per_position,
    }
    write_json(out / INDEX, index)
    smallest = np.min_scalar_type(tokenizer.codebook_size - 1)

    def jobs() -> Iterator[_Job]:
        for path in files:
            target = out / path.relative_to(root).with_name(f"{path.name}.npz")
            if target.exists() and target.stat().st_mtime >= path.stat().st_mtime:
                counts.before += 1
                continue
            try:
                image = load_image(path)
            except (OSError, ValueError) as error:
                counts.skipped.append(_reason(path, root, error))
                continue
            padded = fit(image, tokenizer.factor, "pad")
            yield _Job(to_tensor(padded), (image.height, image.width), target, max(padded.size) > tile)

    def run(batch: Sequence[_Job]) -> None:
        pixels = torch.stack([job.data for job in batch]).to(_device(tokenizer))
        codes = encode_tiled(tokenizer, pixels, tile) if batch[0].tiled else tokenizer.encode(pixels)
        for job, one in zip(batch, codes.cpu().numpy()):
            file = io.BytesIO()
            np.savez_compressed(file, codes=one.astype(smallest), size=np.array(job.size, np.uint32))
            write_bytes(job.target, file.getvalue())
            counts.images += 1
            counts.tokens += one.size
            counts.pixels += math.prod(job.size)
            counts.bytes += file.tell()

    _run(jobs(), run, "encode", len(files), counts, progress)
    if not counts.images and not counts.before:
        raise ValueError(f"none of the {len(files)} images in {images} can be read; {counts.skipped[0]}")
    return counts


def decode_folder(
    tokenizer: ImageTokenizer,
    codes: str | Path,
    out: str | Path,
    *,
    tile: int = 1024,
    progress: Progress | None = None,
) -> Counts:
    """Decode the folder ``codes`` that ``encode_folder`` wrote, or one file of it, to PNG files in ``out``.

    ``a.png.npz`` becomes ``a.png``, ``a.jpg.npz`` becomes ``a.jpg.png``. Files that exist and are
    not older than their codes are skipped.

    Raises:
        FileNotFoundError: The folder, its codes or its codes.json is missing.
        ValueError: The codes are of another tokenizer, none can be read, or ``tile`` is too small.
    """
    root, files = _files(Path(codes), (".npz",), "codes")
    folders = (root, *root.absolute().parents) if Path(codes).is_file() else (root,)
    index = next((folder / INDEX for folder in folders if (folder / INDEX).exists()), root / INDEX)
    _check_index(index, weights_hash(tokenizer), "give the --model that encoded them")
    out, counts = Path(out), Counts()

    def jobs() -> Iterator[_Job]:
        for path in files:
            name = path.name.removesuffix(".npz")
            name = name if name.lower().endswith(".png") else f"{name}.png"
            target = out / path.relative_to(root).with_name(name)
            if target.exists() and target.stat().st_mtime >= path.stat().st_mtime:
                counts.before += 1
                continue
            try:
                grid, size = read_codes(path, tokenizer)
            except (OSError, ValueError) as error:
                counts.skipped.append(_reason(path, root, error))
                continue
            yield _Job(grid, size, target, max(grid.shape[:2]) * tokenizer.factor > tile)

    def run(batch: Sequence[_Job]) -> None:
        grids = torch.stack([job.data for job in batch]).to(_device(tokenizer))
        images = decode_tiled(tokenizer, grids, tile) if batch[0].tiled else tokenizer.decode(grids)
        for job, one in zip(batch, images):
            file = io.BytesIO()
            to_pil(one[:, : job.size[0], : job.size[1]]).save(file, "PNG")
            write_bytes(job.target, file.getvalue())
            counts.images += 1
            counts.tokens += job.data.numel()
            counts.pixels += math.prod(job.size)
            counts.bytes += file.tell()

    _run(jobs(), run, "decode", len(files), counts, progress)
    if not counts.images and not counts.before:
        raise ValueError(f"none of the {len(files)} files in {codes} can be read; {counts.skipped[0]}")
    return counts


def read_codes(path: Path, tokenizer: ImageTokenizer) -> tuple[Tensor, tuple[int, int]]:
    """Codes (h, w) or (h, w, n) int64 of a file, and the picture's (height, width).

    Raises:
        ValueError: It is not a file of codes, or does not fit the tokenizer.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if any(one.file_size > LARGEST_FILE for one in file.zip.infolist()):  # before memory is asked for
                raise ValueError(f"it holds more than {LARGEST_FILE} bytes")
            codes, size = file["codes"], file["size"]
    except (ValueError, KeyError, EOFError, OSError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a file of codes: {error}") from None
    n, K, factor = tokenizer.codes_per_position, tokenizer.codebook_size, tokenizer.factor
    fits = (
        codes.dtype.kind == "u"
        and size.shape == (2,)
        and size.dtype.kind == "u"
        and codes.shape == (*(-(-int(side) // factor) for side in size), *((n,) if n > 1 else ()))
    )
    if not fits or not codes.size or codes.max() >= K:
        slots = f" with {n} codes" if n > 1 else ""
        raise ValueError(
            f"{path} holds {codes.dtype} of the shape {codes.shape} for a picture of {size.tolist()} pixels, "
            f"expected a position{slots} for {factor} x {factor} pixels each, in 0..{K - 1}"
        )
    return torch.from_numpy(codes.astype(np.int64)), (int(size[0]), int(size[1]))


def weights_hash(tokenizer: ImageTokenizer) -> str:
    """A hash of the weights, which determine what each code means."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        values = tensor.detach().cpu().reshape(-1).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _run(
    jobs: Iterator[_Job],
    run: Callable[[Sequence[_Job]], None],
    what: str,
    total: int,
    counts: Counts,
    progress: Progress | None,
) -> None:
    """Run all jobs, those of one shape in batches."""
    waiting: dict[tuple[int, ...], list[_Job]] = {}

    def pixels(batch: Sequence[_Job]) -> int:
        return sum(math.prod(job.size) for job in batch)

    def flush(shape: tuple[int, ...]) -> None:
        run(waiting.pop(shape))
        if progress is not None:
            progress(what, counts.images + counts.before + len(counts.skipped), total)

    held = 0
    for job in jobs:
        shape = tuple(job.data.shape)
        batch = waiting.setdefault(shape, [])
        batch.append(job)
        held += math.prod(job.size)
        if job.tiled or pixels(batch) + math.prod(job.size) > BATCH_PIXELS:
            held -= pixels(batch)
            flush(shape)
        while held > WAITING_PIXELS:
            largest = max(waiting, key=lambda shape: pixels(waiting[shape]))
            held -= pixels(waiting[largest])
            flush(largest)
    for shape in list(waiting):
        flush(shape)
    if progress is not None:
        progress(what, total, total)


def _files(path: Path, suffixes: Sequence[str], what: str) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files."""
    if path.is_file():
        return path.parent, [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path} not found: a folder of {what}, or one file, is expected there")
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in suffixes and not file.name.startswith(".")
    )
    if not files:
        raise FileNotFoundError(f"{path} has no {what}: expected {', '.join(suffixes)}")
    return path, files


def _check_index(path: Path, mark: str, hint: str) -> None:
    """Refuse codes of another tokenizer."""
    index: dict[str, Any] = read_json(path, "the index of a folder of codes (`image-tokenizer encode`)")
    if index.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {index.get('format')!r}, this version knows {FORMAT}")
    if index.get("tokenizer") != mark:
        raise ValueError(
            f"{path.parent} holds codes of another image tokenizer ({index.get('tokenizer')}, this one is "
            f"{mark}): {hint}"
        )


def _reason(path: Path, root: Path, error: Exception) -> str:
    message = str(error).replace(f"{path} ", "", 1)
    return f"{path.relative_to(root)}: {message}"


def _device(tokenizer: ImageTokenizer) -> torch.device:
    return next(tokenizer.parameters()).device
