"""The command `sample`."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..eval.commands import best_device, progress_bars
from ..fusion_lm.folder import load_model
from ..fusion_lm.generate import Generated, Guidance, generate
from ..fusion_lm.sampling import Sampling
from ..tokenizers.documents import DocumentTokenizer, ImagePart, split
from ..tokenizers.pixels import load_image, to_pil
from .samples import ImageSegment, Sample, Segment, TextSegment, printable, write_samples

IMAGE_SUFFIXES = tuple(
    ".avif .bmp .gif .heic .jfif .jpeg .jpg .pbm .pgm .png .pnm .ppm .svg .tga .tif .tiff .webp".split()
)
"""An argument that ends in one of these (in any case) is an image, whether the file is there or not."""


def sample(args: Namespace) -> None:
    """Continue the prompt `args.segments` and write the folder `args.out`; see `earlyfusion sample --help`.

    Raises ValueError or FileNotFoundError, one line each, before anything is written.
    """
    text = Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty)
    image = Sampling(args.image_temperature, args.image_top_k, args.image_top_p, args.image_min_p)
    guidance = Guidance(args.guidance, args.image_guidance)
    if args.negative is not None and guidance.branches == 1:
        raise ValueError("--negative is what guidance leads away from: give --guidance too, such as 3")
    prompt = read_segments(args.segments)
    folder = Path(args.model)
    if not folder.exists():
        raise FileNotFoundError(
            f"no model folder at {folder}: `earlyfusion demo` makes one, --model names another"
        )
    model, tokenizer = load_model(folder, best_device())
    tokens = tokenizer.encode(prompt, eos=False)
    with progress_bars() as report:
        results = generate(
            model,
            tokenizer.vocab,
            [tokens] * args.n,
            max_new_tokens=args.max_new_tokens or model.config.context_length,  # the context ends it sooner
            text=text,
            image=image,
            then=args.then,
            seed=args.seed,
            guidance=guidance,
            negative=None if args.negative is None else tokenizer.encode([args.negative], eos=False),
            progress=lambda step, steps: report("tokens", step, steps),
        )
    shown = prompt_as_seen(prompt, tokens, tokenizer)
    samples = [_as_sample(shown, result, tokenizer) for result in results]
    settings = {
        "model": str(folder),
        "then": args.then,
        "seed": args.seed,
        "n": args.n,
        "max_new_tokens": args.max_new_tokens,
        "text": vars(text),
        "image": {name: value for name, value in vars(image).items() if name != "repetition_penalty"},
        "guidance": {**vars(guidance), "negative": args.negative} if guidance.branches > 1 else None,
    }
    write_samples(args.out, samples, settings)
    _print(samples, args.out)


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
    prompt: Sequence[str | Image.Image], tokens: Tensor, tokenizer: DocumentTokenizer
) -> list[Segment]:
    """The prompt's segments, images scaled to the size at which the model sees them."""
    grids = iter(p.codes.shape for p in split(tokens, tokenizer.vocab) if isinstance(p, ImagePart))
    factor = tokenizer.image.factor
    segments: list[Segment] = []
    for segment in prompt:
        if isinstance(segment, str):
            segments.append(TextSegment(segment, prompt=True))
        else:
            rows, columns = next(grids)[:2]  # the third axis holds a position's codes
            size = columns * factor, rows * factor
            segments.append(ImageSegment(segment.resize(size, Image.Resampling.LANCZOS), prompt=True))
    return segments


def _as_sample(prompt: list[Segment], result: Generated, tokenizer: DocumentTokenizer) -> Sample:
    written = tokenizer.decode(result.tokens[result.prompt_length :], partial="drop")
    new: list[Segment] = [TextSegment(s) if isinstance(s, str) else ImageSegment(to_pil(s)) for s in written]
    return Sample([*prompt, *new], result.stop)


def _print(samples: Sequence[Sample], out: str) -> None:
    """The documents as text, on standard output."""
    for number, one in enumerate(samples, start=1):
        line = "".join(
            printable(s.text)
            if isinstance(s, TextSegment)
            else f" [image {s.image.width} x {s.image.height}] "
            for s in one.segments
        )
        print(f"{number}: {line}" if len(samples) > 1 else line)
    print(f"written to {Path(out) / 'index.html'}")
