"""An answer's settings as a command and as Python, to make it again elsewhere."""

import shlex
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..fusion_lm.sampling import Sampling
from .compose import Ask

NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def as_command(prompt: Sequence[str | Image.Image], ask: Ask, model: str = "") -> str:
    """The prompt and settings as ``earlyfusion sample``; ``model`` "" is the packaged one."""
    words = ["earlyfusion", "sample"]
    words += ["--model", model] if model else []
    words += ["--answer"] if ask.answer else []
    words += ["--then", ask.then, "--n", str(ask.samples), "--seed", str(ask.seed)]
    words += ["--best-of", str(ask.best_of), "--best-by", ask.best_by] if ask.best_of > 1 else []
    words += ["--max-new-tokens", str(ask.max_new_tokens)] if ask.max_new_tokens else []
    for prefix, sampling in (("", ask.text), ("image-", ask.image)):
        for name, value in _changed(sampling):
            words += [f"--{prefix}{name.replace('_', '-')}", f"{value:g}"]
    if ask.guidance.branches > 1:
        words += ["--guidance", f"{ask.guidance.text:g}"]
        words += [f"--negative={ask.negative}"] if ask.negative else []
    words.append("--")
    words += [s if isinstance(s, str) else f"picture-{n}.png" for n, s in _numbered(prompt)]
    return " ".join(map(shlex.quote, words))


def as_python(prompt: Sequence[str | Image.Image], ask: Ask, model: str = "") -> str:
    """The same as Python."""
    shown = [
        repr(s) if isinstance(s, str) else f'Image.open("picture-{n}.png")' for n, s in _numbered(prompt)
    ]
    shown += ["END_OF_TURN"] if ask.answer else []
    lines = ["from PIL import Image"] if any(isinstance(s, Image.Image) for s in prompt) else []
    lines += ["from earlyfusion import Guidance, Sampling, load_model, sample"]
    lines += ["from earlyfusion.tokenizers.documents import END_OF_TURN"] if ask.answer else []
    lines += ["", f"model = load_model({repr(model) if model else ''})", "documents = sample("]
    lines += ["    model,", f"    [[{', '.join(shown)}]] * {ask.samples},", f"    then={ask.then!r},"]
    lines += [f"    seed={ask.seed},"]
    lines += [f"    best_of={ask.best_of},", f"    best_by={ask.best_by!r},"] if ask.best_of > 1 else []
    lines += [f"    max_new_tokens={ask.max_new_tokens},"] if ask.max_new_tokens else []
    settings = ", ".join(
        f'"{name}": {_call(one)}' for name, one in (("text", ask.text), ("image", ask.image))
    )
    lines += [f"    sampling={{{settings}}},"]
    if ask.guidance.branches > 1:
        lines += [f"    guidance=Guidance({ask.guidance.text:g}),"]
        if ask.negative:
            lines += [f"    negative=model.tokenizer.encode([{ask.negative!r}], eos=False).tokens,"]
    return "\n".join([*lines, ")"])


def _changed(sampling: Sampling) -> list[tuple[str, Any]]:
    """The fields that differ from the defaults."""
    pairs = ((name, getattr(sampling, name)) for name in NAMES)
    return [(name, value) for name, value in pairs if value != getattr(Sampling(), name)]


def _call(sampling: Sampling) -> str:
    return f"Sampling({', '.join(f'{name}={value:g}' for name, value in _changed(sampling))})"


def _numbered(prompt: Sequence[str | Image.Image]) -> list[tuple[int, str | Image.Image]]:
    """Each segment with the number of its picture."""
    found, number = [], 0
    for segment in prompt:
        number += not isinstance(segment, str)
        found.append((number, segment))
    return found
