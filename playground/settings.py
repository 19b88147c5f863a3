"""The settings of an answer, as the page and programs send them."""

from dataclasses import replace
from inspect import signature
from reprlib import repr as short
from typing import Any

from ..fusion_lm.choices import BEST_BY
from ..fusion_lm.guidance import Guidance
from ..fusion_lm.sampling import WHOLE, Sampling, check_number
from .compose import SAMPLES, TRIES, Ask
from .limits import Refused, read_text

NAME = 200
"""Maximum characters of a name that a visitor sends."""


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
        text = Sampling(temperature, whole("top_k", top_k), top_p, min_p, repetition_penalty)
        limits = (whole("max_new_tokens", max_new_tokens), whole("max_positions", max_positions))
        count, seed = whole("samples", samples, 1, SAMPLES), whole("seed", seed, -(2**63), 2**64 - 1)
        tries, guided = whole("best_of", best_of, 1, TRIES), Guidance(guidance)
    except ValueError as error:
        raise Refused(str(error)) from None
    try:
        image = Sampling(image_temperature, whole("top_k", image_top_k), image_top_p, image_min_p)
    except ValueError as error:
        raise Refused(f"image_{error}") from None
    return Ask(then, answer, count, text, image, guided, negative, tries, best_by, *limits, seed)


def whole(name: str, value: Any, low: int = 0, high: int = WHOLE) -> int:
    """A whole number, which the page sends as 3 or 3.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    check_number(name, value, low, high, whole=True)
    return int(value)


def defaults() -> dict[str, Any]:
    """The settings of ``ask_of`` that are used if nothing is said."""
    return {name: one.default for name, one in signature(ask_of).parameters.items()}


def known(settings: Any) -> dict[str, Any]:
    """Check that a program's settings are arguments of ``ask_of``.

    Raises:
        Refused: ``settings`` is not an object, or a name is unknown.
    """
    names = list(defaults())
    if not isinstance(settings, dict) or not set(settings) <= set(names):
        expected = f"expected an object with any of: {', '.join(names)}"
        raise Refused(f"invalid settings {short(settings)}, {expected}")
    return settings


def reading(ask: Ask) -> Ask:
    """The settings that read like ``api.acted`` does, in one view."""
    greedy = replace(ask.text, temperature=0.0)
    return replace(ask, then="text", samples=1, best_of=1, best_by="forward", text=greedy, negative="")
