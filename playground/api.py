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
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..eval.report.curves import METRICS, read_metrics
from ..eval.report.page.html import data_uri
from ..eval.report.tokens import Token, describe
from ..fusion_lm.choices import BEST_BY
from ..fusion_lm.folder import Model
from ..fusion_lm.guidance import Guidance
from ..fusion_lm.sampling import WHOLE, Sampling, check_number
from ..fusion_lm.scores import token_scores
from ..tokenizers.documents import split
from ..tokenizers.image import ImageTokenizer
from ..tokenizers.pixels import to_pil
from .compose import SAMPLES, TRIES, Ask, Written, compose
from .edits import Candidate, candidates, fork, read_it, redraw
from .fit import fit_all
from .limits import Refused, read_mask, read_picture, read_segments, read_text
from .showcase import Hint, Showcase

if TYPE_CHECKING:
    from ..eval.tasks.comparison import Comparison

RUNS = 200
"""Maximum number of runs listed."""
NAME = 200
"""Maximum characters of a name that a visitor sends."""
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
    if not isinstance(then, str) or len(then) > NAME:
        raise Refused(f"then is {short(then)}, expected the name of a modality, or any")
    if not isinstance(answer, bool):
        raise Refused(f"answer is {short(answer)}, expected true or false")
    if best_by not in BEST_BY:
        raise Refused(f"best_by is {short(best_by)}, expected one of {', '.join(BEST_BY)}")
    if not isinstance(negative, str):
        raise Refused(f"negative is {short(negative)}, expected a text")
    read_text(negative)
    try:
        text = Sampling(temperature, _whole("top_k", top_k), top_p, min_p, repetition_penalty)
        limits = (_whole("max_new_tokens", max_new_tokens), _whole("max_positions", max_positions))
        count, seed = _whole("samples", samples, 1, SAMPLES), _whole("seed", seed, -(2**63), 2**64 - 1)
        tries, guided = _whole("best_of", best_of, 1, TRIES), Guidance(guidance)
    except ValueError as error:
        raise Refused(str(error)) from None
    try:
        image = Sampling(image_temperature, _whole("top_k", image_top_k), image_top_p, image_min_p)
    except ValueError as error:
        raise Refused(f"image_{error}") from None
    return Ask(then, answer, count, text, image, guided, negative, tries, best_by, *limits, seed)


def _whole(name: str, value: Any, low: int = 0, high: int = WHOLE) -> int:
    """A whole number, which the page sends as 3 or 3.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    check_number(name, value, low, high, whole=True)
    return int(value)


def known(settings: Any) -> dict[str, Any]:
    """Check that a program's settings are arguments of ``ask_of``.

    Raises:
        Refused: ``settings`` is not an object, or a name is unknown.
    """
    names = list(signature(ask_of).parameters)
    if not isinstance(settings, dict) or not set(settings) <= set(names):
        expected = f"expected an object with any of: {', '.join(names)}"
        raise Refused(f"invalid settings {short(settings)}, {expected}")
    return settings


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
        yield redraw(
            model, tokens, _whole("block", request.get("block")), read_mask(request.get("mask")), ask
        )
    else:
        yield from fork(
            model,
            tokens,
            _whole("place", request.get("place")),
            _whole("token", request.get("token")),
            ask,
            stopped,
        )


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
    tokens, _ = document_of(model, {"given": 0, **request} if isinstance(request, dict) else request)
    return candidates(model, tokens, _whole("place", request.get("place")))


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
    return tokens, _whole("given", request.get("given"), 0, len(tokens))


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
    missing = Refused(f"run {short(name)} not found")  # without the place: it is the server's
    if not isinstance(name, str) or len(name) > NAME or not name.isprintable():
        raise missing
    try:
        file = (root / name / METRICS).resolve()
        if not file.is_relative_to(root.resolve()) or not file.is_file():
            raise missing
        return read_metrics(file.parent)
    except OSError:
        raise missing from None


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
