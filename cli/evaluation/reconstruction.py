"""``earlyfusion eval reconstruction``: how much of images and their text the tokenizer keeps."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from ..results import writes
from ..terminal import best_device, check_out, names, positive_integer, tell
from .measurement import IMAGES, add_measurement, add_readers, finish, folder_items, held_out_words, or_give

if TYPE_CHECKING:
    from ...eval.items import Item

    Suite = tuple[list[Item], str]
    """Images, and their source."""

WITHOUT_TEXT = "the built-in pictures show no text"


def _words(args: Namespace) -> "Suite":
    items, source = held_out_words(args)
    return items, source["data"]


def _words64(args: Namespace) -> "Suite":
    from ...eval.suites import words64_suite

    return words64_suite(args.seed, args.per_kind), f"words64 suite, seed {args.seed}"


def _ocr(args: Namespace) -> "Suite":
    from ...eval.suites import ocr_suite

    return ocr_suite(args.seed, args.kinds, args.per_kind), f"OCR suite, seed {args.seed}"


def _openmoji(args: Namespace) -> "Suite":
    from ...eval.suites import openmoji_suite

    return openmoji_suite(args.seed, args.per_kind), f"OpenMoji, held-out concepts, seed {args.seed}"


def _scans(args: Namespace) -> "Suite":
    from ...eval.suites import scans

    return scans(), "photographed page of scikit-image"


SUITES = {"words": _words, "words64": _words64, "ocr": _ocr, "openmoji": _openmoji, "scans": _scans}
"""The built-in images."""


def add(kinds: Any) -> None:
    parser = add_measurement(
        kinds,
        "reconstruction",
        "measure how much of images and their text the tokenizer keeps",
        """\
Encode and decode images and compare: L1, MSE, PSNR, SSIM, codebook usage, bits per pixel.
If the texts in the images are known and the extra `ocr` is installed, also compare what OCR
engines read before and after (T-ACC, T-NED, CER, by text size), and in JPEG, WebP and
scaled-down images of equal bits.

Without --images, measure a built-in suite (--suite) of held-out words in held-out fonts, or
of held-out pictures (extra `demo`):
words     words and random strings, black on white, on strips 16 px high
words64   the same on strips of 32 x 128 px
ocr       words, random strings, lines, pages, receipts, tables, in color, light on dark,
          rotated; --kinds selects some of them
openmoji  drawings of 64 x 64 px, of things that the demo does not train on
scans     photographed print (extra `scans`)

With --images, metadata.jsonl has a line for each image: {"file_name": "a.png", "text": "..."},
or, for text boxes, "objects": {"bbox": [[x, y, width, height], ...], "text": [...]}.
Images without a text, scans for example, are compared line by line with what the OCR engine
itself reads in the original; that says what became illegible, not how well it reads.
A TIFF of several pages counts as several images.""",
        """\
  earlyfusion eval reconstruction runs/demo/model --out reconstruction.json
  earlyfusion eval reconstruction runs/demo/model --suite ocr --kinds line,page \\
      --sheet sheet.html --out ocr.json
  earlyfusion eval reconstruction runs/image-tokenizer --images photos --out photos.json""",
        run,
        model="MODEL_OR_TOKENIZER",
    )
    parser.add_argument("--images", metavar="DIR", help=IMAGES)
    parser.add_argument(
        "--suite", choices=tuple(SUITES), default="words", help="built-in images (default: %(default)s)"
    )
    parser.add_argument(
        "--kinds",
        metavar="KINDS",
        type=names,
        help="comma-separated kinds of the ocr suite, such as word,line,page (default: all)",
    )
    parser.add_argument(
        "--per-kind",
        metavar="N",
        type=positive_integer,
        default=40,
        help="images of each kind in ocr (a quarter as many pages) and words64; pictures in openmoji, at "
        "most 30 (default: %(default)s)",
    )
    add_readers(parser, "; none: only pixels are measured")
    parser.add_argument(
        "--no-ceilings",
        dest="ceilings",
        action="store_false",
        help="skip JPEG, WebP and scaled-down images of equal bits",
    )
    parser.add_argument(
        "--sheet", metavar="FILE", help="also write the pictures, worst first, as .html or .png"
    )
    parser.add_argument(
        "--lpips-weights", metavar="FILE", help="file with the backbone weights of LPIPS (default: no LPIPS)"
    )
    parser.add_argument(
        "--fid-weights", metavar="FILE", help="file with the Inception weights of FID (default: no FID)"
    )


@writes(inputs=("model", "images", "lpips_weights", "fid_weights"), more=("sheet",))
def run(args: Namespace) -> None:
    """Measure; without an OCR engine, the pixels alone."""
    from ...train.loop.process import tune_malloc

    tune_malloc()  # before torch is imported: a scan needs blocks that glibc would give back after each step
    check_out(args.out)
    if args.sheet is not None:
        from ...eval.report.reconstruction_sheet import check_sheet

        check_sheet(args.sheet)
        check_out(args.sheet, "--sheet", "a file")
    from ...eval.metrics.ocr import INSTALL, missing, readers
    from ...eval.metrics.perceptual import Perceptual
    from ...eval.report.reconstruction_table import table
    from ...eval.tasks.reconstruction import measure
    from ...tokenizers.progress import progress_bars
    from ..models import load_image_tokenizer

    tokenizer = load_image_tokenizer(args.model)
    perceptual = Perceptual(args.lpips_weights, args.fid_weights, best_device())
    items, source = _items(args)
    asked = args.readers != ["none"]
    with_text = asked and (args.images is not None or any(item.text or item.boxes for item in items))
    judges = readers(args.readers) if with_text else []
    if not judges and with_text:
        tell(f"text is not measured: {INSTALL}")
    with progress_bars() as progress:
        measured = measure(
            tokenizer,
            items,
            judges,
            ceilings=args.ceilings,
            perceptual=perceptual,
            finder=judges[0] if judges and args.images is not None else None,
            progress=progress,
        )
    result = {**measured.figures, **source}
    result["not_measured"] |= (
        missing() if with_text else {"text": WITHOUT_TEXT if asked else "--readers none"}
    )
    if args.sheet is not None:
        from ...eval.report.reconstruction_sheet import write_sheet

        write_sheet(args.sheet, measured.results, [judge.name for judge in judges])
    finish(args, result, table(result))
    if args.sheet is not None:
        print(f"sheet written to {args.sheet}")


def _items(args: Namespace) -> "tuple[list[Item], dict[str, Any]]":
    """The images to measure, and their source for the JSON."""
    if args.images is not None:
        return folder_items(args)
    with or_give("--images DIR"):
        items, data = SUITES[args.suite](args)
    return items[: args.limit], {"data": data, "skipped": [], "images_skipped": 0}
