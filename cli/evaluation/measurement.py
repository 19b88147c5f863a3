"""Shared by the commands of ``earlyfusion eval``: common flags, the built-in words, table and JSON."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..results import add_out
from ..terminal import Parser, Run, add_command, integer, names, positive_integer, positive_integers, tell

if TYPE_CHECKING:
    from rich.table import Table

    from ...eval.items import Item

IMAGES = "folder of images with a metadata.jsonl, which has file_name and text of each"


def add_measurement(
    kinds: Any, name: str, summary: str, description: str, examples: str, run: Run, *, model: str = "MODEL"
) -> Parser:
    """Add a command that measures ``model`` and writes JSON."""
    parser = add_command(kinds, name, summary, description, examples, run)
    tokenizer = ", or folder with an image tokenizer" if model != "MODEL" else ""
    parser.add_argument("model", metavar=model, help=f"model folder{tokenizer}")
    add_out(parser, "FILE", "JSON file to write")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=positive_integer,
        help="use only the first N items of each data set (default: all)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=integer,
        default=0,
        help="random seed of the built-in suites and of sampling (default: 0)",
    )
    return parser


def add_heights(parser: Parser, more: str = "") -> None:
    parser.add_argument(
        "--heights",
        metavar="N,N",
        type=positive_integers,
        help=f"strip heights of the built-in words in pixels, chosen at random (default: 16){more}",
    )


def add_readers(parser: Parser, more: str = "") -> None:
    parser.add_argument(
        "--readers",
        metavar="NAMES",
        type=names,
        help=f"comma-separated OCR engines: rapidocr, tesseract (default: all installed){more}",
    )


def folder_items(args: Namespace) -> "tuple[list[Item], dict[str, Any]]":
    """The images of the folder ``args.images``, and their source for the JSON."""
    from ...eval.items import images_from_folder

    items, skipped = images_from_folder(args.images, limit=args.limit)
    for line in skipped:
        tell(f"skipped {line}")
    return items, {"data": str(args.images), "skipped": skipped, "images_skipped": len(skipped)}


def held_out_words(args: Namespace) -> "tuple[list[Item], dict[str, Any]]":
    """The built-in words as images, and their source for the JSON."""
    from ...data.render.fonts import STRIP_HEIGHT
    from ...eval.suites import word_suite

    heights = getattr(args, "heights", None) or (STRIP_HEIGHT,)
    return word_suite(args.seed, heights=heights)[: args.limit], {"data": f"held-out words, seed {args.seed}"}


@contextmanager
def or_give(option: str) -> Iterator[None]:
    """If the extra for the built-in data is missing, add to the error that ``option`` needs none."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error} (for the built-in data; or give {option})") from None


def finish(args: Namespace, result: dict[str, Any], *tables: "Table") -> None:
    """Write the JSON and print the tables."""
    from rich.console import Console

    from ...storage.files import write_json

    write_json(args.out, {**result, "model": str(args.model)})
    console = Console()
    for table in tables:
        console.print(table)
    console.print(f"written to {args.out}", markup=False, highlight=False, soft_wrap=True)
