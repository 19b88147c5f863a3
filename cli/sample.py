"""The command `sample`."""

import base64
import io
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..eval.report.html import Part
from ..eval.report.samples import Sample, printable, write_samples
from ..fusion_lm.folder import load_model
from ..fusion_lm.generate import Guidance
from ..fusion_lm.infill import infill
from ..fusion_lm.sampling import Sampling
from ..fusion_lm.stream import Event, Finished, ImageDone, TextDelta, best, gather, stream
from ..tokenizers.documents import END_OF_TURN, DocumentTokenizer, ImagePart, Mark, split
from ..tokenizers.files import check_folder
from ..tokenizers.hub import local_folder
from ..tokenizers.pixels import load_image
from ..tokenizers.progress import progress_bars
from .evaluate import best_device

IMAGE_SUFFIXES = tuple(
    ".avif .bmp .gif .heic .jfif .jpeg .jpg .pbm .pgm .png .pnm .ppm .svg .tga .tif .tiff .webp".split()
)
"""An argument that ends in one of these (in any case) is an image, whether the file is there or not."""


def sample(args: Namespace) -> None:
    """Continue the prompt `args.segments` and write the folder `args.out`; see `earlyfusion sample --help`.

    A single document is printed while it is written. What is there when Ctrl+C comes is written, too (of
    --best-of and --infill nothing is there before the end).

    Raises ValueError or FileNotFoundError, one line each, before anything is written.
    """
    text = Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty)
    image = Sampling(args.image_temperature, args.image_top_k, args.image_top_p, args.image_min_p)
    guidance = Guidance(args.guidance, args.image_guidance)
    if args.negative is not None and guidance.branches == 1:
        raise ValueError("--negative is what guidance leads away from: give --guidance too, such as 3")
    if args.best_by != "forward" and (args.best_of == 1 or args.infill is not None):
        raise ValueError(
            f"--best-by {args.best_by} chooses among several continuations: give --best-of, such as 8"
        )
    check_folder(args.out)
    prompt: list[str | Image.Image | Mark] = [*read_segments(args.segments)]
    folder = local_folder(args.model)
    if not folder.exists():
        raise FileNotFoundError(
            f"no model folder at {folder}: `earlyfusion demo` makes one, --model names another"
        )
    model = load_model(folder, best_device(), args.weights)
    tokenizer = model.tokenizer
    if args.answer:
        if not prompt:
            raise ValueError("--answer answers a turn of a conversation: give it, as text or images")
        if tokenizer.vocab.sep is None:
            raise ValueError(
                f"the model in {folder} knows no conversations: its vocabulary has no token that ends a turn"
            )
        prompt.append(END_OF_TURN)
    shown = prompt_as_seen(prompt, tokenizer.encode(prompt, eos=False), tokenizer)
    options: dict[str, Any] = {
        "max_new_tokens": args.max_new_tokens or model.lm.config.context_length,  # the context ends it sooner
        "text": text,
        "image": image,
        "then": args.then,
        "seed": args.seed,
        "guidance": guidance,
        "negative": None if args.negative is None else tokenizer.encode([args.negative], eos=False),
    }
    if args.infill is not None:
        asked = {name: options[name] for name in ("image", "seed", "guidance", "negative")}
        drawn = infill(model, prompt, args.infill, candidates=args.n * args.best_of, **asked)
        written = [([one.image], "image") for one in drawn[: args.n]]
        shown = shown[:-1]
    elif args.best_of > 1:
        with progress_bars() as report:
            written = best(
                model,
                [prompt] * args.n,
                args.best_of,
                best_by=args.best_by,
                **options,
                progress=partial(report, "tokens"),
            )
    else:
        written = _streamed(args.n, stream(model, [prompt] * args.n, previews=False, **options), shown)
    samples = [Sample([*shown, *map(Part, segments)], stop) for segments, stop in written]
    settings = {
        "model": str(folder),
        "answer": args.answer,
        "then": args.then,
        "seed": args.seed,
        "n": args.n,
        "best_of": args.best_of,
        "best_by": args.best_by,
        "infill": args.infill,
        "weights": args.weights,
        "max_new_tokens": args.max_new_tokens,
        "text": vars(text),
        "image": {name: value for name, value in vars(image).items() if name != "repetition_penalty"},
        "guidance": {**vars(guidance), "negative": args.negative} if guidance.branches > 1 else None,
    }
    write_samples(args.out, samples, settings)
    at_once = args.best_of > 1 or args.infill is not None
    for number, one in enumerate(samples, start=1):
        lead = f"{number}: " if args.n > 1 else ""
        print(lead + "".join(map(_told, one.parts)) if args.n > 1 or at_once else "")
    print(f"written to {Path(args.out) / 'index.html'}")


def _streamed(
    n: int, events: Iterator[Event], shown: Sequence[Part]
) -> list[tuple[list[str | Image.Image], str]]:
    """What ``n`` rows write and why they end; a single one is printed as it comes, after what is `shown`.

    What is there when Ctrl+C comes is kept.
    """
    written: list[list[str | Image.Image]] = [[] for _ in range(n)]
    stops = ["interrupted"] * n
    printed = "".join(map(_told, shown))
    with progress_bars() as report:
        try:
            for event in events:
                if n == 1:
                    print(printed + _news(event), end="", flush=True)
                    printed = ""
                gather(written[event.row], event)
                if isinstance(event, Finished):
                    stops[event.row] = event.stop
                    if n > 1:
                        report("documents", n - stops.count("interrupted"), n)
        except KeyboardInterrupt:
            if not any(written):
                raise
    return list(zip(written, stops, strict=True))


def read_segments(arguments: Sequence[str]) -> list[str | Image.Image]:
    """Command line segments: images are read, all else is text.

    Raises FileNotFoundError or ValueError for an image that is missing or broken, and ValueError for a prompt
    of empty texts alone. No arguments are no mistake: the model then begins a document by itself.
    """
    segments: list[str | Image.Image] = [load_image(a) if is_image(a) else a for a in arguments]
    if segments and not any(segments):
        raise ValueError(
            "the prompt is empty: give some text or an image, or no segment at all to start from nothing"
        )
    return segments


def is_image(argument: str) -> bool:
    """Whether a segment is an image: by its suffix, or because such a file exists and is one."""
    if argument.lower().endswith(IMAGE_SUFFIXES):
        return True
    if not os.path.isfile(argument):  # False, not an error, for texts that could be no file name
        return False
    try:
        with Image.open(argument):
            return True
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError:  # `load_image` has the words for it
        return True


def prompt_as_seen(
    prompt: Sequence[str | Image.Image | Mark], tokens: Tensor, tokenizer: DocumentTokenizer
) -> list[Part]:
    """The prompt's segments, images scaled to the size at which the model sees them."""
    grids = iter(p.codes.shape for p in split(tokens, tokenizer.vocab) if isinstance(p, ImagePart))
    factor = tokenizer.image.factor
    segments: list[Part] = []
    for segment in prompt:
        if isinstance(segment, str):
            segments.append(Part(segment, prompt=True))
        elif isinstance(segment, Image.Image):
            rows, columns = next(grids)[:2]  # the third axis holds a position's codes
            size = columns * factor, rows * factor
            segments.append(Part(segment.resize(size, Image.Resampling.LANCZOS), prompt=True))
    return segments


def _told(part: Part) -> str:
    """A part of a document on a terminal."""
    if isinstance(part.content, str):
        return printable(part.content)
    return f" [image {part.content.width} x {part.content.height}] "


def _news(event: Event) -> str:
    """What an event adds to a terminal."""
    if isinstance(event, TextDelta):
        return printable(event.text)
    if isinstance(event, ImageDone):
        return _told(Part(event.image)) + inline_image(event.image)
    return ""


def inline_image(image: Image.Image) -> str:
    """The control sequence that shows an image in the terminal, "" where it is none that can.

    By kitty's graphics protocol (kitty, Ghostty) or that of iTerm2 (iTerm2, WezTerm, VS Code).
    """
    if not sys.stdout.isatty():
        return ""
    file = io.BytesIO()
    scale = max(1, 128 // max(image.size))
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(file, "PNG")
    data = base64.standard_b64encode(file.getvalue()).decode()
    if "KITTY_WINDOW_ID" in os.environ or os.environ.get("TERM_PROGRAM") == "ghostty":
        parts = [data[i : i + 4096] for i in range(0, len(data), 4096)]
        keys = ["a=T,f=100,", *[""] * (len(parts) - 1)]
        more = [*[1] * (len(parts) - 1), 0]
        return "".join(f"\x1b_G{k}m={m};{p}\x1b\\" for k, m, p in zip(keys, more, parts, strict=True))
    if os.environ.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm", "vscode"):
        return f"\x1b]1337;File=inline=1;size={len(file.getvalue())}:{data}\a"
    return ""
