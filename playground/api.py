"""The page's actions as functions of plain values; Gradio also serves them to programs.

    from gradio_client import Client
    page = Client("http://127.0.0.1:7860")
    page.predict([{"text": "A red apple:"}], {"then": "image"}, api_name="/compose")

Pictures are data URIs, in requests and in answers. Invalid requests raise a ValueError (often
``limits.Refused``) with a message for the visitor.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..eval.report.curves import METRICS, read_metrics
from ..eval.report.page.html import data_uri
from ..eval.report.tokens import Token, describe
from ..fusion_lm.folder import Model
from ..fusion_lm.guidance import Guidance
from ..fusion_lm.sampling import Sampling
from ..fusion_lm.scores import token_scores
from ..tokenizers.documents import split
from ..tokenizers.image import ImageTokenizer
from ..tokenizers.pixels import to_pil
from .compose import Ask, Written, compose
from .edits import Candidate, candidates, fork, read_it, redraw
from .fit import fit_all
from .limits import Refused, read_mask, read_picture, read_segments, read_text, read_tokens
from .showcase import Hint, Showcase

if TYPE_CHECKING:
    from ..eval.tasks.comparison import Comparison

RUNS = 200
"""Maximum number of runs listed."""
COMPARED_SIDE = 2048
"""Longest side in px; larger pictures are scaled down before they are reconstructed."""


def ask_of(
    then: str = "any",
    answer: bool = False,
    samples: float = 1,
    temperature: float = 0.7,
    top_k: float = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    image_temperature: float = 0.7,
    image_top_k: float = 0,
    image_top_p: float = 1.0,
    image_min_p: float = 0.0,
    guidance: float = 1.0,
    negative: str = "",
    best_of: float = 1,
    best_by: str = "forward",
    max_new_tokens: float = 0,
    max_positions: float = 0,
    seed: float = 0,
) -> Ask:
    """Settings from the page or from a program.

    Raises:
        Refused: A setting is out of range.
    """
    try:
        return Ask(
            str(then),
            bool(answer),
            int(samples),
            Sampling(temperature, int(top_k), top_p, min_p, repetition_penalty),
            Sampling(image_temperature, int(image_top_k), image_top_p, image_min_p),
            Guidance(guidance),
            read_text(negative),
            int(best_of),
            str(best_by),
            int(max_new_tokens),
            int(max_positions),
            int(seed),
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused(str(error)) from None


def known(settings: Any) -> dict[str, Any]:
    """Check that a program's settings are arguments of ``ask_of``.

    Raises:
        Refused: ``settings`` is not an object, or a name is unknown.
    """
    names = list(signature(ask_of).parameters)
    if not isinstance(settings, dict) or not set(settings) <= set(names):
        raise Refused(f"invalid settings {settings!r}, expected an object with any of: {', '.join(names)}")
    return settings


KINDS = ("compose", "read", "redraw", "fork")
"""What the page asks for."""


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
    """Do what the page asks for.

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
    kind, context = kind_of(request), model.lm.config.context_length
    if kind in ("compose", "read"):
        segments = read_segments(request.get("segments"))
        if fit:
            segments = fit_all(model, segments, show.fits)
        if kind == "compose":
            yield from compose(model, segments, ask, stopped)
        else:
            yield [read_it(model, segments, ask, show.views)]
        return
    tokens = read_tokens(request.get("tokens"), context)
    if kind == "redraw":
        yield redraw(model, tokens, _whole(request, "block"), read_mask(request.get("mask")), ask)
    else:
        yield from fork(model, tokens, _whole(request, "place"), _whole(request, "token"), ask, stopped)


def reading(ask: Ask) -> Ask:
    """The settings that read like ``acted`` does, in one view."""
    greedy = replace(ask.text, temperature=0.0)
    return replace(ask, then="text", samples=1, best_of=1, best_by="forward", text=greedy, negative="")


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
    if not isinstance(request, dict):
        raise Refused("invalid request, expected an object")
    tokens = read_tokens(request.get("tokens"), model.lm.config.context_length)
    return candidates(model, tokens, _whole(request, "place"))


def _whole(request: dict[str, Any], name: str) -> int:
    value = request.get(name)
    if type(value) is not int or not 0 <= value < 2**31:
        raise Refused(f"invalid {name}: expected a whole number")
    return value


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

    if unknown := [name for name in names if name not in tokenizers]:
        raise Refused(f"unknown tokenizer {unknown[0]!r}, expected any of: {', '.join(tokenizers)}")
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
    file = (root / name / METRICS).resolve()
    if not file.is_relative_to(root.resolve()) or not file.is_file():
        raise Refused(f"run {name!r} not found in {root}")
    return read_metrics(file.parent)


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
