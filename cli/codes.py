"""``earlyfusion image-tokenizer encode | decode | import``: use a trained image tokenizer."""

import math
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.results import ANYTHING, MADE
from .results import add_out, writes
from .terminal import Parser, add_command, add_group, positive_integer, tell

if TYPE_CHECKING:
    from ..data.codes import Counts


def add(commands: Any) -> None:
    group = add_group(commands, "image-tokenizer", "train or run the image tokenizer (VQ-VAE)")
    parser = add_command(
        group,
        "encode",
        "turn pictures into small files of codes",
        """\
Write the codes and the size of each picture to OUT/NAME.npz, in the smallest number type that
fits. Files already encoded are skipped, so an interrupted command can be repeated; unreadable
files are reported and skipped.""",
        """\
  earlyfusion image-tokenizer encode photos --model runs/demo/model --out codes
  earlyfusion image-tokenizer decode codes --model runs/demo/model --out photos-again""",
        run,
    )
    parser.add_argument("images", metavar="IMAGES", help="an image file, or a folder, searched recursively")
    _add_options(parser)
    parser = add_command(
        group,
        "decode",
        "turn files of codes into pictures",
        """\
Turn the files of `encode` into PNG pictures of the original sizes. The tokenizer must be the
one that encoded them.""",
        "  earlyfusion image-tokenizer decode codes --model runs/demo/model --out photos-again",
        run,
    )
    parser.add_argument(
        "codes", metavar="CODES", help="the folder that `encode` wrote, or one of its .npz files"
    )
    _add_options(parser)
    parser = add_command(
        group,
        "import",
        "turn a taming-transformers VQGAN checkpoint into a tokenizer folder",
        """\
Turn a VQ checkpoint in the layout of taming-transformers (VQGAN and its relatives) into a
tokenizer folder, to use it or to measure it with `earlyfusion eval reconstruction`. The
network may be a part of a larger one (`first_stage_model.`, `module.`). Only tensors are
read: nothing in the file is run.""",
        """\
  earlyfusion image-tokenizer import vqgan.ckpt --out runs/vqgan
  earlyfusion image-tokenizer import latent-diffusion.ckpt --ema --out runs/f8""",
        run,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint file")
    add_out(parser)
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of the checkpoint")


def _add_options(parser: Parser) -> None:
    parser.add_argument(
        "--model", metavar="DIR", required=True, help="folder of an image tokenizer or of a model"
    )
    add_out(parser)
    parser.add_argument(
        "--tile",
        metavar="PIXELS",
        type=positive_integer,
        default=1024,
        help="tile size; pictures with a longer side are processed in tiles (default: %(default)s)",
    )


def run(args: Namespace) -> None:
    from ..train.loop.process import tune_malloc

    tune_malloc()  # before torch is imported: large pictures go through in equal tiles
    {"encode": _encode, "decode": _decode, "import": _import}[args.subcommand](args)


# A folder of codes without a note is of an earlier version: codes.json says whether it fits.
@writes(inputs=("images", "model"), holds=(MADE,), resumes=True)
def _encode(args: Namespace) -> None:
    from ..data.codes import encode_folder
    from ..tokenizers.progress import progress_bars
    from .models import load_image_tokenizer

    tokenizer = load_image_tokenizer(args.model)
    with progress_bars() as progress:
        counts = encode_folder(tokenizer, args.images, args.out, tile=args.tile, progress=progress)
    spent = counts.tokens * math.log2(tokenizer.codebook_size)
    rate = f", {spent / counts.pixels:.3g} bits per pixel" if counts.pixels else ""
    stored = f" ({8 * counts.bytes / counts.pixels:.3g} as files)" if counts.pixels else ""
    print(f"{_summary(counts, 'encoded')}: {counts.tokens:,} tokens{rate}{stored}; written to {args.out}")


@writes(inputs=("codes", "model"), holds=ANYTHING, resumes=True)
def _decode(args: Namespace) -> None:
    from ..data.codes import decode_folder
    from ..tokenizers.progress import progress_bars
    from .models import load_image_tokenizer

    with progress_bars() as progress:
        counts = decode_folder(
            load_image_tokenizer(args.model), args.codes, args.out, tile=args.tile, progress=progress
        )
    print(f"{_summary(counts, 'decoded')} from {counts.tokens:,} tokens; written to {args.out}")


@writes(inputs=("checkpoint",), holds=("config.json", "model.safetensors"))
def _import(args: Namespace) -> None:
    from ..tokenizers.vqvae.taming import load_taming
    from .info import describe

    load_taming(args.checkpoint, args.ema).save(args.out)
    print("\n".join(describe(Path(args.out))))


def _summary(counts: "Counts", done: str) -> str:
    """Report what was skipped; returns one line about what was done."""
    for line in counts.skipped:
        tell(f"skipped {line}")
    before = f" ({counts.before:,} done before)" if counts.before else ""
    skipped = f", skipped {len(counts.skipped):,}" if counts.skipped else ""
    return f"{done} {counts.images:,} images{before}{skipped}"
