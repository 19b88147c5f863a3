"""``earlyfusion sample``: continue a prompt of texts and images."""

import argparse
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..fusion_lm.choices import BEST_BY, WEIGHTS
from ..storage.hub import PRETRAINED
from ..storage.results import numbered
from .prompts import are_joined, in_words, news, prompt_as_seen, read_prompts, read_segments, said
from .results import add_out, writes
from .sampling import MODALITIES, add_best_of, add_sampling, recorded, sampling_of
from .terminal import add_command, best_device, box, integer, positive_integer, real, tell
from .terminal_image import Show, viewer

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..eval.report.page.html import Part
    from ..fusion_lm.folder import Model
    from ..tokenizers.documents import Encoded

    Written = tuple[list[str | Image], str]
    """The new segments of a sample, and why it ended."""

SAMPLES = "runs/samples"
"""Without ``--out``, a new folder in it is written."""
LISTED = 4
"""New pictures that are listed by name."""


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "sample",
        "continue a prompt of texts and images",
        """\
Continue a prompt of texts and images. Segments are joined in order into one prompt; keep
them together, before or after the options. An existing image file, or anything with an
image suffix, is an image; everything else is text. Without segments the model starts a new
document. Put a text that begins with a dash after `--`.

Writes OUT/index.html to look at, the images as PNG, and sample.json with prompt and
continuation: {"segments": [{"type": "text", "text": ...}, {"type": "image", "file": ...}]};
with several samples, "samples" lists them all. A single sample is printed as it is
generated. Ctrl+C keeps what was generated so far.""",
        """\
  earlyfusion sample "A red apple:"
  earlyfusion sample --then text word.png
  earlyfusion sample --prompts prompts.txt --n 2 --best-of 4 --out runs/prompts
  earlyfusion sample --model runs/mine/model --out runs/cats --n 4 --seed 7 cat.png "This is\"""",
        run,
    )
    parser.add_argument("segments", metavar="SEGMENT", nargs="*", help="a text or an image file")
    parser.add_argument(
        "--prompts", metavar="FILE", help="file with a prompt in each line: a text, or the path of an image"
    )
    add_out(parser, default=f"a new folder in {SAMPLES}")
    parser.add_argument(
        "--preview",
        action=argparse.BooleanOptionalAction,
        help="draw the pictures in the terminal (default: if the output is a terminal)",
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        default=str(PRETRAINED),
        help="model folder, or a name on the Hugging Face Hub (default: the packaged model)",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="auto",
        help="weight precision; fewer bits run faster, auto is lossless (default: %(default)s)",
    )
    parser.add_argument(
        "--answer",
        action="store_true",
        help="answer the prompt as a turn of a conversation, for models fine-tuned on `messages`",
    )
    parser.add_argument(
        "--then",
        choices=(*MODALITIES, "any"),
        default="any",
        help="modality to generate next; any lets the model decide (default: %(default)s)",
    )
    parser.add_argument(
        "--n",
        metavar="N",
        type=positive_integer,
        default=1,
        help="number of samples of each prompt, generated in one batch (default: 1)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=integer,
        default=0,
        help="random seed of the first sample; later samples use N+1, N+2, ... (default: 0)",
    )
    add_best_of(parser, "sample")
    parser.add_argument(
        "--infill",
        metavar="BOX",
        type=box,
        help="redraw the box LEFT,TOP,RIGHT,BOTTOM of the prompt's last image, in fractions from 0 to 1 "
        "(0.25,0.25,0.75,0.75); --best-of sets the number of candidates per sample",
    )
    parser.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=positive_integer,
        help="maximum number of new tokens (default: fill the context)",
    )
    add_sampling(parser)
    parser.add_argument(
        "--guidance",
        metavar="S",
        type=real,
        default=1.0,
        help="classifier-free guidance of images by the prompt; 1 = off, try 1.5 to 2; doubles the time "
        "(default: 1)",
    )
    parser.add_argument(
        "--image-guidance",
        metavar="S",
        type=real,
        help="separate guidance by the prompt's images; --guidance then covers its texts alone; triples the "
        "time (default: off)",
    )
    parser.add_argument("--negative", metavar="TEXT", help="negative prompt for images; needs --guidance")


def run(args: Namespace) -> None:
    """Continue the prompts and write the folder.

    Ctrl+C writes what was generated so far, which is nothing with --best-of and --infill.
    """
    if args.out is not None:
        _sample(args)
        return
    with numbered(Path(SAMPLES)) as folder:
        args.out = str(folder)
        _sample(args)


@writes(inputs=("model", "segments", "prompts"), holds=("sample.json", "index.html", "*image-*.png"))
def _sample(args: Namespace) -> None:
    from ..eval.report.page.html import Part
    from ..eval.report.samples import Sample, stop_in_words, write_samples
    from ..fusion_lm.folder import load_model
    from ..fusion_lm.guidance import Guidance
    from ..fusion_lm.sampling import Sampling
    from ..storage.files import check_folder
    from ..storage.hub import local_folder
    from ..tokenizers.documents import END_OF_TURN

    asked = {name: sampling_of(args, name) for name in MODALITIES}
    sampling = {name: Sampling(**fields) for name, fields in asked.items()}
    guidance = Guidance(args.guidance, args.image_guidance)
    _check(args, guided=guidance.branches > 1)
    check_folder(args.out)
    prompts: list[list[Any]] = (
        [[*read_segments(args.segments)]] if args.prompts is None else read_prompts(args.prompts)
    )
    show = viewer(args.preview)
    folder = local_folder(args.model)
    model = load_model(folder, best_device(), args.weights)
    tokenizer = model.tokenizer
    if args.answer:
        if not all(prompts):
            raise ValueError("--answer needs a prompt to answer: give a text or an image")
        if tokenizer.vocab.sep is None:
            raise ValueError(
                f"--answer needs an end-of-turn token, which the vocabulary of {folder} lacks: prepare the "
                "data of such a model with separator: true"
            )
        prompts = [[*prompt, END_OF_TURN] for prompt in prompts]
    sampling = {n: one for n, one in sampling.items() if n in tokenizer.vocab.names or asked[n]}
    options: dict[str, Any] = {
        "max_new_tokens": args.max_new_tokens
        or model.lm.config.context_length,  # the context may end it first
        "sampling": sampling,
        "then": args.then,
        "seed": args.seed,
        "guidance": guidance,
        "negative": None if args.negative is None else tokenizer.encode([args.negative], eos=False).tokens,
    }
    encoded = [tokenizer.encode(prompt, eos=False) for prompt in prompts]
    seen = [prompt_as_seen(p, one.tokens, tokenizer) for p, one in zip(prompts, encoded)]
    encoded = [one for one in encoded for _ in range(args.n)]
    seen = [parts for parts in seen for _ in range(args.n)]
    if args.prompts is None and are_joined(args.segments):
        tell("the texts are joined into one prompt; --prompts FILE takes several, one in each line")
    if args.infill is not None:
        written = _redrawn(args, model, prompts[0], options)
        seen = [parts[:-1] for parts in seen]  # their last image is redrawn
    else:
        written = _written(args, model, encoded, seen, options, show)
    args.unfinished = any(stop == "interrupted" for _, stop in written)
    samples = [Sample([*parts, *map(Part, new)], stop) for parts, (new, stop) in zip(seen, written)]
    write_samples(args.out, samples, _settings(args, folder, sampling, guidance))
    if len(samples) > 1 or args.best_of > 1 or args.infill is not None:  # else it was printed already
        for number, (one, parts) in enumerate(zip(samples, seen), start=1):
            lead = f"{number}: " if len(samples) > 1 else ""
            told = (in_words(p) if i < len(parts) else said(p, show) for i, p in enumerate(one.parts))
            print(lead + "".join(told).rstrip("\n"))
    else:
        print()
    for number, one in enumerate(samples, start=1):
        if one.stop == "not finite":
            lead = f"{number}: " if len(samples) > 1 else ""
            print(f"{lead}{stop_in_words(one.stop)}", file=sys.stderr)
    _tell_files(Path(args.out))


def _check(args: Namespace, guided: bool) -> None:
    """Refuse options that contradict each other."""
    if args.negative is not None and not guided:
        raise ValueError("--negative needs guidance: give --guidance too, such as 2")
    if args.prompts is not None and (args.segments or args.infill is not None):
        raise ValueError(
            f"--prompts takes the prompts from {args.prompts}: leave out "
            + (f"the segment {args.segments[0]!r}" if args.segments else "--infill")
        )
    if args.best_by != BEST_BY[0] and args.infill is not None:
        raise ValueError(f"--best-by {args.best_by} does not work with --infill: leave one of them out")
    if args.best_by != BEST_BY[0] and args.best_of == 1:
        raise ValueError(f"--best-by {args.best_by} needs several candidates: give --best-of, such as 8")


def _redrawn(args: Namespace, model: "Model", prompt: list[Any], options: dict[str, Any]) -> "list[Written]":
    """The prompt's last image with another region, for each sample."""
    from ..fusion_lm.infill import infill

    asked = {name: options[name] for name in ("sampling", "seed", "guidance", "negative")}
    drawn = infill(model, prompt, args.infill, candidates=args.n * args.best_of, **asked)
    return [([one.image], "image") for one in drawn[: args.n]]


def _written(
    args: Namespace,
    model: "Model",
    prompts: "list[Encoded]",
    seen: "Sequence[Sequence[Part]]",
    options: dict[str, Any],
    show: Show | None,
) -> "list[Written]":
    """The continuation of each prompt; a single one is printed live, after what was ``seen``."""
    from ..fusion_lm.stream import Finished, best, gather, stream
    from ..tokenizers.progress import progress_bars, silent

    if args.best_of > 1:
        with progress_bars() as report:
            options["progress"] = partial(report, "tokens")
            return best(model, prompts, args.best_of, best_by=args.best_by, **options)
    n = len(prompts)
    written: list[list[str | Image]] = [[] for _ in range(n)]
    stops = ["interrupted"] * n
    printed = "".join(map(in_words, seen[0]))
    # A single document is its own progress; below bars, each piece of it would begin a new line.
    with progress_bars() if n > 1 else nullcontext(silent) as report:
        try:
            for event in stream(model, prompts, previews=False, **options):
                if n == 1:
                    print(printed + news(event, show), end="", flush=True)
                    printed = ""
                gather(written[event.row], event)
                if isinstance(event, Finished):
                    stops[event.row] = event.stop
                    report("documents", n - stops.count("interrupted"), n)
        except KeyboardInterrupt:
            if not any(written):
                raise
    return list(zip(written, stops, strict=True))


def _tell_files(folder: Path) -> None:
    """Say where the new pictures and the page are."""
    from ..storage.files import read_json

    result = read_json(folder / "sample.json", "samples")
    documents = result.get("samples", [result])
    new = [one["file"] for d in documents for one in d["segments"] if "file" in one and not one["prompt"]]
    names = [*new[:LISTED], *([f"and {len(new) - LISTED} more pictures"] if len(new) > LISTED else [])]
    print(f"written to {folder}: {', '.join([*names, 'sample.json', 'index.html'])}")
    print(f"open {(folder / 'index.html').resolve().as_uri()}")


def _settings(args: Namespace, folder: Path, sampling: dict[str, Any], guidance: Any) -> dict[str, Any]:
    """The settings that sample.json records."""
    names = ("prompts", "answer", "then", "seed", "n", "best_of", "best_by", "infill", "weights")
    guided = {**vars(guidance), "negative": args.negative} if guidance.branches > 1 else None
    return {
        "model": str(folder),
        **{name: getattr(args, name) for name in (*names, "max_new_tokens")},
        **recorded(sampling),
        "guidance": guided,
    }
