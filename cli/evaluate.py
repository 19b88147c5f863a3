"""``earlyfusion eval reconstruction | reading | writing | lm``: load, measure, print a table, write the JSON.

Each takes the parsed command line: `model`, `out`, `limit`, `seed`, perhaps `images` or `words`. Each raises
ValueError, FileNotFoundError or ImportError with one line that tells what to do, and writes `out` only when
all is measured. Importing this module imports nothing heavy.
"""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tokenizers.progress import progress_bars

if TYPE_CHECKING:
    from rich.table import Table

    from ..eval.items import Item, Word
    from ..fusion_lm.folder import Model


WITHOUT_TEXT = "none of the images comes with a transcript, so that no OCR was run"


def reconstruction(args: Namespace) -> None:
    """Measure the image tokenizer in the folder `args.model`; without an OCR engine, the pixels alone.

    Also takes `suite`, `kinds` and `per_kind` (see `_images`), `ceilings` (other codecs at equal bits),
    `sheet` (a .png or .html file to write, or None), `lpips_weights` and `fid_weights` (files or None).
    """
    check_out(args.out)
    if args.sheet is not None:
        from ..eval.report.sheet import check_sheet

        check_sheet(args.sheet)
        check_out(args.sheet, "--sheet", "a file")
    from ..eval.metrics.ocr import INSTALL, missing, readers
    from ..eval.metrics.perceptual import Perceptual
    from ..eval.report.reconstruction_table import table
    from ..eval.tasks.reconstruction import measure
    from ..tokenizers.image import ImageTokenizer

    device = best_device()
    tokenizer = ImageTokenizer.load(image_folder(args.model)).to(device)
    perceptual = Perceptual(args.lpips_weights, args.fid_weights, device)
    items, source = _images(args)
    with_text = any(item.text or item.boxes for item in items)
    judges = readers(args.readers) if with_text else []
    if not judges and with_text:
        _tell(f"the text scores are left out: {INSTALL}")
    with progress_bars() as progress:
        measured = measure(
            tokenizer, items, judges, ceilings=args.ceilings, perceptual=perceptual, progress=progress
        )
    result = {**measured.figures, **source}
    result["not_measured"] |= missing() if with_text else {"text": WITHOUT_TEXT}
    if args.sheet is not None:
        from ..eval.report.sheet import write_sheet

        write_sheet(args.sheet, measured.samples, [judge.name for judge in judges])
    _finish(args, result, table(result))
    if args.sheet is not None:
        print(f"sheet written to {args.sheet}")


def reading(args: Namespace) -> None:
    """Let the model in the folder `args.model` read the images."""
    check_out(args.out)
    from ..eval.tasks.reading import evaluate_reading, table

    model, tokenizer = _generating(args.model)
    items, source = _images(args)
    with progress_bars() as progress:
        result = evaluate_reading(
            model, tokenizer, items, views=args.views, seed=args.seed, progress=progress
        )
    result["skipped"] = source["skipped"] + result["skipped"]
    _finish(args, {**source, **result}, table(result))


def writing(args: Namespace) -> None:
    """Let the model in the folder `args.model` write the words, and the installed OCR engines read them."""
    check_out(args.out)
    from ..eval.metrics.ocr import INSTALL, readers

    judges = readers(args.readers)
    if not judges:
        raise ValueError(f"writing is judged by OCR, and {INSTALL}")
    if args.best_of > 1 and args.temperature == 0:
        raise ValueError("--best-of draws the same picture each time: give --temperature too, such as 0.5")
    words, originals, source = _words(args)
    from ..eval.tasks.writing import evaluate_writing, table
    from ..fusion_lm.generate import Guidance
    from ..fusion_lm.sampling import Sampling

    model, tokenizer = _generating(args.model)
    with progress_bars() as progress:
        result = evaluate_writing(
            model,
            tokenizer,
            words,
            judges,
            originals=originals,
            sampling=Sampling(args.temperature),
            guidance=Guidance(args.guidance),
            best_of=args.best_of,
            best_by=args.best_by,
            seed=args.seed,
            progress=progress,
        )
    _finish(args, {**result, **source}, table(result))


def lm(args: Namespace) -> None:
    """Measure all that the model in the folder `args.model` can do with words and pictures.

    Also takes `heights`, `sequences` and `sheet` (an .html file to write, or None).
    """
    check_out(args.out)
    if args.sheet is not None:
        check_out(args.sheet, "--sheet", "an HTML file")
    from ..eval.metrics.ocr import INSTALL, readers
    from ..eval.tasks.everything import evaluate_lm, page, tables
    from ..fusion_lm.folder import load_model
    from ..tokenizers.files import write_text

    model, tokenizer = load_model(args.model, best_device())
    judges = readers()
    if not judges:
        _tell(f"what is written is not read: {INSTALL}")
    with progress_bars() as progress:
        measured = evaluate_lm(
            model,
            tokenizer,
            judges,
            heights=args.heights,
            limit=args.limit,
            sequences=args.sequences,
            seed=args.seed,
            progress=progress,
        )
    if args.sheet is not None:
        write_text(args.sheet, page(measured, f"What {args.model} reads, writes, names and draws"))
    about = {"kind": "lm", "seed": args.seed, "heights": args.heights}
    _finish(args, {**about, **measured.figures}, *tables(measured.figures))
    if args.sheet is not None:
        print(f"sheet written to {args.sheet}")


def image_folder(folder: str | Path) -> Path:
    """Where the image tokenizer lies in the folder of a model, of a tokenizer, or of itself.

    Raises FileNotFoundError when there is none.
    """
    folder = Path(folder)
    for path in (folder / "tokenizer" / "image", folder / "image", folder):
        if (path / "config.json").exists():
            return path
    raise FileNotFoundError(
        f"{folder} holds no image tokenizer: the folder of a model or of a tokenizer is expected"
    )


def check_out(path: str | Path, option: str = "--out", expected: str = "a JSON file") -> None:
    """Refuse a file that cannot be written before the minutes of work. Raises ValueError."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder: the name of {expected} is expected")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"{option} {path} cannot be written: {parent} is not a folder that you may write to")


def best_device() -> str:
    """The GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _images(args: Namespace) -> "tuple[list[Item], dict[str, Any]]":
    """The images to measure, and where they are from.

    `args.images` is the user's folder. Without one `args.suite`, where the command has it: "words", "ocr"
    (with `args.kinds`, None for all, and `args.per_kind`), "words64", "openmoji" or "scans".
    """
    from ..eval.items import images_from_folder, scaled

    if args.images is not None:
        items, skipped = images_from_folder(args.images, limit=args.limit)
        for line in skipped:
            _tell(f"skipped {line}")
        if heights := getattr(args, "heights", None):
            items = [scaled(item, heights) for item in items]
        return items, {"data": str(args.images), "skipped": skipped, "images_skipped": len(skipped)}
    suite = getattr(args, "suite", "words")  # `eval reading` has the words alone
    none = {"skipped": [], "images_skipped": 0}
    try:
        if suite == "ocr":
            from ..eval.items import ocr_suite

            items = ocr_suite(args.seed, args.kinds, args.per_kind)
            return items[: args.limit], {"data": f"OCR suite, seed {args.seed}", **none}
        if suite == "words64":
            from ..eval.items import words64_suite

            items = words64_suite(args.seed, args.per_kind)
            return items[: args.limit], {"data": f"words64 suite, seed {args.seed}", **none}
        if suite == "openmoji":
            from ..eval.items import openmoji_suite

            items = openmoji_suite(args.seed, args.per_kind)
            return items[: args.limit], {"data": f"OpenMoji, held-out concepts, seed {args.seed}", **none}
        if suite == "scans":
            from ..eval.items import scans

            return scans()[: args.limit], {"data": "photographed page of scikit-image", **none}
    except ImportError as error:
        raise ImportError(f"{error} (for the built-in images; or give --images DIR)") from None
    return _suite(args, "--images DIR"), {"data": f"held-out words, seed {args.seed}", **none}


def _generating(folder: str) -> "Model":
    """The model in a folder, with weights that generate fast on a CPU, and as they are elsewhere."""
    from ..fusion_lm.folder import load_model

    device = best_device()
    return load_model(folder, device, "auto" if device == "cpu" else None)


def _words(args: Namespace) -> "tuple[list[Word], list[Item], dict[str, Any]]":
    """The words to write, the same in type (built-in suite only), and where they are from."""
    from ..eval.items import Word, words_from_file

    if args.words is not None:
        return words_from_file(args.words, limit=args.limit), [], {"data": str(args.words)}
    items = _suite(args, "--words FILE")
    words = [Word(item.text or "", item.kind) for item in items]
    return words, items, {"data": f"held-out words, seed {args.seed}"}


def _suite(args: Namespace, instead: str) -> "list[Item]":
    from ..data.render.words import STRIP_HEIGHT
    from ..eval.items import word_suite

    try:
        return word_suite(args.seed, heights=getattr(args, "heights", None) or (STRIP_HEIGHT,))[: args.limit]
    except ImportError as error:
        raise ImportError(f"{error} (for the built-in words; or give {instead})") from None


def _finish(args: Namespace, result: dict[str, Any], *tables: "Table") -> None:
    from rich.console import Console

    from ..tokenizers.files import write_json

    write_json(args.out, {**result, "model": str(args.model)})
    console = Console()
    for table in tables:
        console.print(table)
    console.print(f"written to {args.out}", markup=False, highlight=False, soft_wrap=True)


def _tell(line: str) -> None:
    print(f"earlyfusion: {line}", file=sys.stderr)
