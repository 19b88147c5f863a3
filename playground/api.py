"""The page's actions as functions of plain values; Gradio also serves them to programs.

    from gradio_client import Client
    page = Client("http://127.0.0.1:7860")
    page.predict([{"text": "A red apple:"}], {"then": "image"}, api_name="/compose")

Pictures are data URIs, in requests and in answers. Invalid requests raise a ValueError (often
``limits.Refused``) with a message for the visitor.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..eval.report.curves import METRICS, read_metrics
from ..eval.report.page.html import data_uri
from ..eval.report.tokens import Token, describe
from ..fusion_lm.folder import Model
from ..fusion_lm.scores import token_scores
from ..tokenizers.documents import split
from ..tokenizers.image import ImageTokenizer
from ..tokenizers.pixels import load_image, to_pil
from .compose import Ask, Written, compose
from .edits import Candidate, candidates, fork, read_it, redraw
from .fit import fit_all
from .limits import Refused, read_mask, read_picture, read_segments
from .settings import NAME, whole
from .showcase import Hint, Showcase

if TYPE_CHECKING:
    from ..eval.tasks.comparison import Comparison

RUNS = 200
"""Maximum number of runs listed."""
QUOTES = "'\" "
CONFIG, CONFIG_BYTES = "config.yaml", 2**16
"""Settings of a run, and the most bytes of one that is shown."""
SHEETS, SHEET_BYTES = ("samples", "reconstructions", "rollouts"), 2**23
"""Folders of a run with pictures, and the most bytes of one that is shown."""
SHEET = re.compile(r"step-[0-9]{1,18}\.png").fullmatch
"""Names of these pictures."""
COMPARED_SIDE = 2048
"""Longest side in px; larger pictures are scaled down before they are reconstructed."""


KINDS = ("compose", "read", "redraw", "fork")
"""Kinds of requests of the page."""


def kind_of(request: Any) -> str:
    """The kind of a request of the page, one of ``KINDS``.

    Raises:
        Refused: It is something else.
    """
    kind = request.get("do", "compose") if isinstance(request, dict) else None
    if kind not in KINDS:
        raise Refused(f"invalid request, expected an object whose do is one of {', '.join(KINDS)}")
    return kind


def acted(
    model: Model,
    request: dict[str, Any],
    ask: Ask,
    show: Showcase,
    fit: bool = False,
    stopped: Callable[[], bool] | None = None,
) -> Iterator[list[Written]]:
    """Do what a request of the page says.

    Args:
        model: The model.
        request: {"do": one of ``KINDS``, and "segments" for compose and read, "tokens", "block" and "mask"
            for redraw, "tokens", "place" and "token" for fork}.
        ask: The settings.
        show: What the model's folder says.
        fit: Fit the pictures of a prompt to what the model knows.
        stopped: As for ``compose``.

    Raises:
        Refused: The request is invalid.
        ValueError: Its tokens are not a document in the model's vocabulary.
    """
    kind = kind_of(request)
    if kind in ("compose", "read"):
        segments = read_segments(request.get("segments"))
        if fit:
            segments = fit_all(model, segments, show.fits)
        if kind == "compose":
            yield from compose(model, segments, ask, stopped)
        else:
            yield [read_it(model, segments, ask, show.views)]
        return
    tokens = read_tokens(model, request.get("tokens"))
    if kind == "redraw":
        yield redraw(model, tokens, whole("block", request.get("block")), read_mask(request.get("mask")), ask)
    else:
        yield from fork(
            model,
            tokens,
            whole("place", request.get("place")),
            whole("token", request.get("token")),
            ask,
            stopped,
        )


def hint_of(request: dict[str, Any], show: Showcase) -> Hint | None:
    """Help with a prompt that is only a name, see ``Showcase.hint``."""
    segments = request.get("segments")
    if not isinstance(segments, list) or len(segments) != 1 or not isinstance(segments[0], dict):
        return None
    text = segments[0].get("text")
    return show.hint(text) if isinstance(text, str) else None


def rivals(model: Model, request: Any) -> list[Candidate]:
    """The likeliest tokens at {"tokens": a document, "place": a place in it}.

    Raises:
        Refused: The request is invalid.
        ValueError: The tokens are not a document in the model's vocabulary.
    """
    tokens, _ = document_of(model, {"given": 0, **request} if isinstance(request, dict) else request)
    return candidates(model, tokens, whole("place", request.get("place")))


def read_tokens(model: Model, value: Any) -> torch.Tensor:
    """The tokens (T,) of a document that a program sends.

    Raises:
        Refused: It is not a list of tokens of the vocabulary, or longer than the context.
    """
    context, size = model.lm.config.context_length, model.tokenizer.vocab.size
    if not isinstance(value, list) or not 1 <= len(value) <= context:
        raise Refused(f"invalid tokens: expected a list of 1 to {context} whole numbers")
    for token in value:
        if type(token) is not int or not 0 <= token < size:
            raise Refused(f"invalid token {short(token)}: expected a whole number in 0..{size - 1}")
    return torch.tensor(value, dtype=torch.int64)


def document_of(model: Model, request: Any) -> tuple[torch.Tensor, int]:
    """The tokens (T,) of {"tokens", "given"}, and how many of them were given.

    Raises:
        Refused: The request is invalid.
    """
    if not isinstance(request, dict):
        raise Refused("invalid request, expected an object")
    tokens = read_tokens(model, request.get("tokens"))
    return tokens, whole("given", request.get("given"), 0, len(tokens))


def inspect(model: Model, tokens: torch.Tensor) -> tuple[list[Token], list[Image.Image]]:
    """The tokens (T,) of a document with their scores, and its finished pictures, decoded from their codes.

    Pictures are left out if the image tokenizer has no decoder.

    Raises:
        ValueError: The tokens are not a document in the model's vocabulary.
    """
    tokenizer = model.tokenizer
    parts = split(tokens, tokenizer.vocab, partial="drop")  # refuses unknown tokens before a device sees them
    described = describe(tokenizer, tokens, token_scores(model.lm, tokens))
    if not tokenizer.image.config.decoder:
        return described, []
    decoded = tokenizer.decode_parts([part for part in parts if part.kind == "image"])
    return described, [to_pil(picture) for _, picture in decoded if not isinstance(picture, str)]


def reconstruct(
    tokenizers: dict[str, ImageTokenizer], names: Sequence[str], picture: Any
) -> "list[Comparison]":
    """Reconstruct a picture (a data URI) with each named tokenizer.

    Raises:
        Refused: A name is unknown, or the picture cannot be read.
    """
    from ..eval.tasks.comparison import compare, page_reader  # its metrics take seconds to import, OCR more

    if not isinstance(names, list | tuple) or len(names) > NAME:
        raise Refused(f"invalid tokenizers {short(names)}, expected a list of: {', '.join(tokenizers)}")
    if unknown := [name for name in names if not isinstance(name, str) or name not in tokenizers]:
        raise Refused(f"unknown tokenizer {short(unknown[0])}, expected any of: {', '.join(tokenizers)}")
    if not names:
        raise Refused("choose at least one image tokenizer")
    chosen = {name: tokenizers[name] for name in names}
    return compare(read_picture(picture), chosen, page_reader(), max_side=COMPARED_SIDE)


def runs(root: Path) -> list[str]:
    """Folders at or below ``root`` with the curves of a training, newest first."""
    found = [path for path in root.glob(f"**/{METRICS}") if path.is_file()]
    newest = sorted(found, key=lambda path: -path.stat().st_mtime)[:RUNS]
    return [path.parent.relative_to(root).as_posix() for path in newest]


def curves(root: Path, name: str) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run, a folder in ``root``.

    Raises:
        Refused: The run does not exist.
    """
    try:
        return read_metrics(_run(root, name))
    except OSError:
        raise _missing(name) from None


def sheets(root: Path, name: str) -> list[tuple[str, Image.Image]]:
    """The last sheet of each kind that a run drew (see ``train.callbacks.pictures``), with its title.

    Raises:
        Refused: The run does not exist.
    """
    found, folder = [], _run(root, name)
    for kind in SHEETS:
        drawn = {int(path.stem[5:]): path for path in folder.glob(f"{kind}/step-*.png") if SHEET(path.name)}
        if not drawn:
            continue
        step, path = max(drawn.items())
        try:
            if path.resolve().is_relative_to(root.resolve()) and path.stat().st_size <= SHEET_BYTES:
                found.append((f"{kind} after {step:,} steps", load_image(path)))
        except (OSError, ValueError):
            pass  # a damaged picture must not hide the curves
    return found


def config(root: Path, name: str) -> str:
    """The settings of a run, without folders; "" without any.

    Raises:
        Refused: The run does not exist.
    """
    path = _run(root, name) / CONFIG
    try:
        if not path.resolve().is_relative_to(root.resolve()) or path.stat().st_size > CONFIG_BYTES:
            return ""
        return "\n".join(map(_without_folders, path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError):
        return ""


def _without_folders(line: str) -> str:
    """A line of YAML; of a value with a path in it, what is after the last folder, which is the server's."""
    key = re.match(r"\s*(- )*([\w.]+:( |$))?", line)
    start = key.end() if key else 0
    *folders, name = re.split(r"[/\\]", line[start:])
    return f"{line[:start]}…/{name.rstrip(QUOTES)}" if folders else line


def _run(root: Path, name: str) -> Path:
    """The folder of a run."""
    if not isinstance(name, str) or len(name) > NAME or not name.isprintable():
        raise _missing(name)
    try:
        file = (root / name / METRICS).resolve()
        if file.is_relative_to(root.resolve()) and file.is_file():
            return file.parent
    except OSError:
        pass
    raise _missing(name)


def _missing(name: Any) -> Refused:
    return Refused(f"run {short(name)} not found")  # without the place: it is the server's


def as_document(sample: Written) -> dict[str, Any]:
    """A finished sample as plain values."""
    return {
        "segments": [_as_segment(segment) for segment in sample.segments],
        "stop": sample.stop,
        "tokens": [] if sample.tokens is None else sample.tokens.tolist(),
        "prompt_length": sample.prompt_length,
        "seed": sample.seed,
    }


def _as_segment(segment: Any) -> dict[str, str]:
    if isinstance(segment, str):
        return {"text": segment}
    return {"image": data_uri(segment)} if isinstance(segment, Image.Image) else {}


def as_comparison(one: "Comparison") -> dict[str, Any]:
    """A comparison as plain values."""
    return {
        "tokenizer": one.name,
        **one.figures,
        "original": data_uri(one.result.original),
        "reconstruction": data_uri(one.result.reconstruction),
        "lines": [list(next(iter(read.values()))) for _, read in one.result.readings if read],
    }
