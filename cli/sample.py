"""``earlyfusion sample``: continue a prompt of texts and images."""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..fusion_lm.choices import BEST_BY, WEIGHTS
from ..tokenizers.hub import PRETRAINED
from .prompts import in_words, inline_image, prompt_as_seen, read_segments
from .results import add_out, writes
from .sampling import MODALITIES, add_best_of, add_sampling, recorded, sampling_of
from .terminal import add_command, best_device, box, integer, positive_integer, real

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..eval.report.page.html import Part
    from ..fusion_lm.folder import Model
    from ..fusion_lm.stream import Event
    from ..tokenizers.documents import Encoded


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
with --n above 1, "samples" lists them all. A single sample is printed as it is generated.
Ctrl+C keeps what was generated so far.""",
        """\
  earlyfusion sample --out runs/apple --then image "A red apple:"
  earlyfusion sample --out runs/read --then text word.png
  earlyfusion sample --model runs/mine/model --out runs/cats --n 4 --seed 7 cat.png "This is\"""",
        run,
    )
    parser.add_argument("segments", metavar="SEGMENT", nargs="*", help="a text or an image file")
    add_out(parser)
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
        help="number of samples, generated in one batch (default: 1)",
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


@writes(inputs=("model", "segments"), holds=("sample.json", "index.html", "*image-*.png"))
def run(args: Namespace) -> None:
    """Continue the prompt and write the folder.

    Ctrl+C writes what was generated so far, which is nothing with --best-of and --infill.
    """
    from ..eval.report.page.html import Part
    from ..eval.report.samples import Sample, stop_in_words, write_samples
    from ..fusion_lm.folder import load_model
    from ..fusion_lm.guidance import Guidance
    from ..fusion_lm.sampling import Sampling
    from ..tokenizers.documents import END_OF_TURN
    from ..tokenizers.files import check_folder
    from ..tokenizers.hub import local_folder

    asked = {name: sampling_of(args, name) for name in MODALITIES}
    sampling = {name: Sampling(**fields) for name, fields in asked.items()}
    guidance = Guidance(args.guidance, args.image_guidance)
    if args.negative is not None and guidance.branches == 1:
        raise ValueError("--negative needs guidance: give --guidance too, such as 2")
    if args.best_by != BEST_BY[0] and args.infill is not None:
        raise ValueError(f"--best-by {args.best_by} does not work with --infill: leave one of them out")
    if args.best_by != BEST_BY[0] and args.best_of == 1:
        raise ValueError(f"--best-by {args.best_by} needs several candidates: give --best-of, such as 8")
    check_folder(args.out)
    prompt: list[Any] = [*read_segments(args.segments)]
    folder = local_folder(args.model)
    if not folder.exists():
        raise FileNotFoundError(
            f"model folder {folder} not found: give a folder (`earlyfusion demo` trains one) or a name on "
            "the Hugging Face Hub, or leave out --model"
        )
    model = load_model(folder, best_device(), args.weights)
    tokenizer = model.tokenizer
    if args.answer:
        if not prompt:
            raise ValueError("--answer needs a prompt to answer: give a text or an image")
        if tokenizer.vocab.sep is None:
            raise ValueError(
                f"--answer needs an end-of-turn token, which the vocabulary of {folder} lacks: prepare the "
                "data of such a model with separator: true"
            )
        prompt.append(END_OF_TURN)
    sampling = {n: one for n, one in sampling.items() if n in tokenizer.vocab.names or asked[n]}
    encoded = tokenizer.encode(prompt, eos=False)
    shown = prompt_as_seen(prompt, encoded.tokens, tokenizer)
    options: dict[str, Any] = {
        "max_new_tokens": args.max_new_tokens
        or model.lm.config.context_length,  # the context may end it first
        "sampling": sampling,
        "then": args.then,
        "seed": args.seed,
        "guidance": guidance,
        "negative": None if args.negative is None else tokenizer.encode([args.negative], eos=False).tokens,
    }
    written = _written(args, model, prompt, encoded, shown, options)
    args.unfinished = any(stop == "interrupted" for _, stop in written)
    kept = shown if args.infill is None else shown[:-1]  # its last image is redrawn
    samples = [Sample([*kept, *map(Part, segments)], stop) for segments, stop in written]
    write_samples(args.out, samples, _settings(args, folder, sampling, guidance))
    at_once = args.best_of > 1 or args.infill is not None
    for number, one in enumerate(samples, start=1):
        lead = f"{number}: " if args.n > 1 else ""
        print(lead + "".join(map(in_words, one.parts)) if args.n > 1 or at_once else "")
        if one.stop == "not finite":
            print(f"{lead}{stop_in_words(one.stop)}", file=sys.stderr)
    print(f"written to {Path(args.out) / 'index.html'}")


def _written(
    args: Namespace,
    model: "Model",
    prompt: list[Any],
    encoded: "Encoded",
    shown: "Sequence[Part]",
    options: dict[str, Any],
) -> "list[tuple[list[str | Image], str]]":
    """The new segments of each sample, and why it ended."""
    from ..fusion_lm.infill import infill
    from ..fusion_lm.stream import best, stream
    from ..tokenizers.progress import progress_bars

    if args.infill is not None:
        asked = {name: options[name] for name in ("sampling", "seed", "guidance", "negative")}
        drawn = infill(model, prompt, args.infill, candidates=args.n * args.best_of, **asked)
        return [([one.image], "image") for one in drawn[: args.n]]
    prompts = [encoded] * args.n
    if args.best_of == 1:
        return _streamed(args.n, stream(model, prompts, previews=False, **options), shown)
    with progress_bars() as report:
        options["progress"] = partial(report, "tokens")
        return best(model, prompts, args.best_of, best_by=args.best_by, **options)


def _streamed(
    n: int, events: "Iterator[Event]", shown: "Sequence[Part]"
) -> "list[tuple[list[str | Image], str]]":
    """The new segments of ``n`` rows, and why each ended; a single row is printed live, after ``shown``."""
    from ..fusion_lm.stream import Finished, gather
    from ..tokenizers.progress import progress_bars

    written: list[list[str | Image]] = [[] for _ in range(n)]
    stops = ["interrupted"] * n
    printed = "".join(map(in_words, shown))
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


def _news(event: "Event") -> str:
    """What to print on a terminal for an event."""
    from PIL.Image import Image

    from ..eval.report.page.html import Part
    from ..fusion_lm.stream import SegmentDone, TextDelta

    if isinstance(event, TextDelta):
        return in_words(Part(event.text))
    if not isinstance(event, SegmentDone):
        return ""
    picture = inline_image(event.value) if isinstance(event.value, Image) else ""
    return in_words(Part(event.value)) + picture


def _settings(args: Namespace, folder: Path, sampling: dict[str, Any], guidance: Any) -> dict[str, Any]:
    """The settings that sample.json records."""
    names = ("answer", "then", "seed", "n", "best_of", "best_by", "infill", "weights", "max_new_tokens")
    guided = {**vars(guidance), "negative": args.negative} if guidance.branches > 1 else None
    return {
        "model": str(folder),
        **{name: getattr(args, name) for name in names},
        **recorded(sampling),
        "guidance": guided,
    }
