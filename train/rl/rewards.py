"""Rewards: scores of samples, named in a config with their weights, and how they add up.

A reward takes the samples of a step, the network and the tokenizer, and returns a score for each sample. The
judges of the results (OCR engines, held-out words and fonts) are not among them.
"""

import importlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ...eval.metrics.text import cer
from ...eval.tasks.naming import thing_of
from ...fusion_lm.model import FusionLM
from ...fusion_lm.scores import both_ways_many
from ...storage.nearest import did_you_mean
from ...tokenizers.documents import DocumentTokenizer, split
from .readings import read_pictures
from .samples import Kind, Sample

Reward = Callable[[Sequence[Sample], FusionLM, DocumentTokenizer], Sequence[float | None]]
"""Scores of samples, usually 0 to 1; None where the reward does not apply (then it adds nothing)."""


def writing(samples: Sequence[Sample], net: FusionLM, tokenizer: DocumentTokenizer) -> list[float | None]:
    """1 if the packaged recognizer reads exactly the answer in the picture, else 0; only of written words."""
    texts = read_pictures(samples, net.embedding.weight.device)
    return _of_kind("write", samples, [float(t == s.prompt.answer) for s, t in zip(samples, texts)])


def writing_letters(
    samples: Sequence[Sample], net: FusionLM, tokenizer: DocumentTokenizer
) -> list[float | None]:
    """1 - CER, at least 0, of what the packaged recognizer reads in the picture; only of written words."""
    texts = read_pictures(samples, net.embedding.weight.device)
    return _of_kind("write", samples, [_letters(s.prompt.answer, t) for s, t in zip(samples, texts)])


def reading(samples: Sequence[Sample], net: FusionLM, tokenizer: DocumentTokenizer) -> list[float | None]:
    """1 if the text is exactly the answer, else 0; only of pictures that were read."""
    return _of_kind("read", samples, [float(s.text == s.prompt.answer) for s in samples])


def reading_letters(
    samples: Sequence[Sample], net: FusionLM, tokenizer: DocumentTokenizer
) -> list[float | None]:
    """1 - CER, at least 0, of the text; only of pictures that were read."""
    return _of_kind("read", samples, [_letters(s.prompt.answer, s.text) for s in samples])


def naming(samples: Sequence[Sample], net: FusionLM, tokenizer: DocumentTokenizer) -> list[float | None]:
    """1 if the text names the same thing as the answer (see ``eval/tasks/naming.py``), else 0."""
    named = [float(thing_of(s.text) == thing_of(s.prompt.answer)) for s in samples]
    return _of_kind("read", samples, named)


def well_formed(samples: Sequence[Sample], net: FusionLM, tokenizer: DocumentTokenizer) -> list[float | None]:
    """1 if the sample ended by itself and its last block is complete, else 0."""
    ends = {"eos", "turn", *(modality.name for modality in tokenizer.vocab.framed)}
    return [float(s.stop in ends and _is_complete(s.tokens, tokenizer)) for s in samples]


def both_ways(samples: Sequence[Sample], net: FusionLM, tokenizer: DocumentTokenizer) -> list[float | None]:
    """``fusion_lm.scores.both_ways`` under the trained network, in nats per token.

    The least value is what a uniform guess scores, -2 log V: also that of a continuation that is empty or
    ends inside a block.
    """
    rows = [(s.tokens, len(s.prompt.tokens)) for s in samples]
    floor = -2 * math.log(tokenizer.vocab.size)
    return [max(floor, value) for value in both_ways_many(net, tokenizer.vocab, rows)]


REWARDS: dict[str, Reward] = {
    reward.__name__: reward
    for reward in (writing, writing_letters, reading, reading_letters, naming, well_formed, both_ways)
}
"""The rewards of this package by name."""


def named_rewards(weights: Mapping[str, float]) -> dict[str, tuple[float, Reward]]:
    """Find the rewards that a config names.

    Args:
        weights: Name -> weight. A name is a key of ``REWARDS``, or the import path of a function with the
            same arguments, ``"my_module:function"``. A reward of weight 0 is measured, but adds nothing.

    Raises:
        ValueError: There are no rewards, one is not found, or a weight is not a finite number; or all
            weights are 0.
    """
    if not weights:
        raise ValueError(f"rewards are empty: give at least one, such as writing: 1 ({', '.join(REWARDS)})")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ValueError(f"the weight of the reward {name!r} is {weight!r}, expected a finite number")
    if not any(weights.values()):
        raise ValueError(f"the weights of {', '.join(weights)} are all 0: give one another weight")
    return {name: (float(weight), _reward(name)) for name, weight in weights.items()}


@torch.no_grad()
def score(
    samples: Sequence[Sample],
    rewards: Mapping[str, tuple[float, Reward]],
    net: FusionLM,
    tokenizer: DocumentTokenizer,
) -> tuple[list[float], dict[str, list[float | None]]]:
    """Score samples.

    Args:
        samples: The samples.
        rewards: The result of ``named_rewards``.
        net: The network that drew the samples.
        tokenizer: Its tokenizer.

    Returns:
        The weighted sum of each sample's rewards, and each reward's values by name.

    Raises:
        ValueError: A reward failed, or did not give one finite number or None for each sample.
    """
    values = {name: _values(name, reward, samples, net, tokenizer) for name, (_, reward) in rewards.items()}
    totals = [
        sum(weight * (values[name][i] or 0.0) for name, (weight, _) in rewards.items())
        for i in range(len(samples))
    ]
    return totals, values


def _of_kind(kind: Kind, samples: Sequence[Sample], values: Sequence[float]) -> list[float | None]:
    """The values of the samples of one kind; None for the others."""
    return [value if s.prompt.kind == kind else None for s, value in zip(samples, values, strict=True)]


def _letters(answer: str, text: str) -> float:
    rate = cer([answer], [text])
    return float(text == answer) if rate is None else max(0.0, 1 - rate)


def _is_complete(tokens: Tensor, tokenizer: DocumentTokenizer) -> bool:
    try:
        split(tokens, tokenizer.vocab)
    except ValueError:
        return False
    return True


# a user's rewards


def _reward(name: str) -> Reward:
    """A reward of this package, or the function of an import path."""
    if name in REWARDS:
        return REWARDS[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(
            f"unknown reward {name!r}: {did_you_mean(name, REWARDS)}expected one of {', '.join(REWARDS)}, or "
            "the import path of a function, such as my_module:function"
        )
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise ValueError(f"the reward {name!r} is not an import path such as my_module:function")
    module = _module(name, module_name)
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ValueError(
            f"the reward {name!r} is not found: {did_you_mean(attribute, known)}{module_name} has no "
            f"{attribute!r}"
        )
    found = getattr(module, attribute)
    if not callable(found):
        raise ValueError(f"the reward {name!r} is a {type(found).__name__}, expected a function")
    return cast(Reward, found)


def _module(reward: str, name: str) -> Any:
    """Import a user's module, from the installed ones or from the current folder."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # `python -m` does that too, the command `earlyfusion` does not
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"the reward {reward!r} is not found: there is no module {error.name!r} in {here} or among "
                "the installed ones"
            ) from None
        raise ValueError(f"the reward {reward!r} cannot be imported: {_line(error)}") from None
    except Exception as error:
        raise ValueError(f"the reward {reward!r} cannot be imported: {_line(error)}") from None


def _values(
    name: str, reward: Reward, samples: Sequence[Sample], net: FusionLM, tokenizer: DocumentTokenizer
) -> list[float | None]:
    """The values of one reward, checked."""
    try:
        given: Any = reward(samples, net, tokenizer)
        found = list(given) if hasattr(given, "__iter__") and not isinstance(given, str | Mapping) else None
    except Exception as error:
        where = _failing(reward, samples, net, tokenizer)
        raise ValueError(f"the reward {name!r} failed{where}: {_line(error)}") from None
    expected = f"expected {len(samples)} numbers, one for each sample"
    if found is None:
        raise ValueError(f"the reward {name!r} returned a {type(given).__name__}, {expected}")
    if len(found) != len(samples):
        raise ValueError(f"the reward {name!r} returned {len(found)} values, {expected}")
    return [_number(name, i, value, samples[i]) for i, value in enumerate(found)]


def _number(name: str, index: int, value: Any, sample: Sample) -> float | None:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except Exception:  # arrays, tensors and other objects raise errors of many kinds
        number = math.nan
    if not math.isfinite(number):
        shown = repr(value).splitlines()[0][:60]
        raise ValueError(
            f"the reward {name!r} returned {shown} for {_place(index, sample)}, expected a finite number or "
            "None"
        )
    return number


def _failing(reward: Reward, samples: Sequence[Sample], net: FusionLM, tokenizer: DocumentTokenizer) -> str:
    """The first sample for which the reward also fails alone, for the message; empty if there is none."""
    for i, sample in enumerate(samples):
        try:
            list(reward([sample], net, tokenizer))
        except Exception:
            return f" for {_place(i, sample)}"
    return ""


def _place(index: int, sample: Sample) -> str:
    return f"sample {index} ({sample.prompt.kind} {sample.prompt.answer!r})"


def _line(error: Exception) -> str:
    """An exception in one line, with the line of code that raised it."""
    first = (str(error).strip() or "no message").splitlines()[0]
    if isinstance(error, SyntaxError):  # its message has file and line
        return f"{type(error).__name__}: {first}"
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    users = [frame for frame in users if not frame.filename.startswith("<frozen")]
    where = f" ({users[0].filename}, line {users[0].lineno})" if users else ""
    return f"{type(error).__name__}: {first}{where}"
