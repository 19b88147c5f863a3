"""Sheets of rollouts: what the model drew or wrote for the same prompt, with the reward of each."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from PIL import Image
from torch import Tensor

from ...eval.report.alignment import ROLLOUTS
from ...eval.report.page.canvas import (
    FRAME,
    INK,
    RIGHT,
    SOFT,
    WRONG,
    column,
    enlarged,
    framed,
    line,
    padded,
    page,
    row,
    wrapped,
)
from ...storage.files import write_text
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.pixels import to_pil
from ..callbacks.pictures import Drawing, save_sheet, step_file
from .samples import Sample

PROMPT_WIDTH, SAMPLES_WIDTH = 160, 780
"""Pixels of the column of prompts, and at most of a line of samples: together, the width of a page."""
LETTERS, LINES = 22, 4
"""Letters in a line of the column of prompts, and most lines."""
GAP, MARGIN, ENLARGE = 6, 10, 2


class Group(NamedTuple):
    """The samples after one prompt."""

    samples: Sequence[Sample]
    rewards: Sequence[float]

    @property
    def best(self) -> float | None:
        """The highest reward; None if all are the same, from which nothing is learned."""
        return max(self.rewards) if len(set(self.rewards)) > 1 else None


class RolloutSheet(Drawing):
    """Writes RUN/rollouts/step-N.png and .jsonl: the newest samples of a few prompts, the best ones framed.

    A row shows a prompt and all samples after it, pictures or texts, each above its reward.
    """

    def __init__(self, every: int = 50, prompts: int = 8) -> None:
        """
        Args:
            every: Steps between two sheets; 0 writes only one at the end.
            prompts: Most prompts on a sheet.
        """
        super().__init__(every)
        if prompts < 1:
            raise ValueError(f"rollouts.prompts is {prompts}, expected at least 1")
        self.prompts = prompts

    def draw(self, trainer: L.Trainer, training: Any) -> None:
        if not trainer.is_global_zero:
            return
        groups = grouped(training.last_samples, training.last_rewards, training.settings.samples)[
            : self.prompts
        ]
        if not groups:
            return
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            rows = [sheet_row(group, training.tokenizer) for group in groups]
        save_sheet(trainer, ROLLOUTS, page(column(rows, 2 * GAP), MARGIN))
        lines = [json.dumps(facts(group), ensure_ascii=False) + "\n" for group in groups]
        write_text(step_file(trainer, ROLLOUTS, ".jsonl"), "".join(lines))


def grouped(samples: Sequence[Sample], rewards: Sequence[float], size: int) -> list[Group]:
    """The samples of each prompt, ``size`` of which are adjacent.

    Raises:
        ValueError: Samples and rewards differ in number.
    """
    if len(samples) != len(rewards):
        raise ValueError(f"{len(samples)} samples have {len(rewards)} rewards, expected one for each")
    starts = range(0, len(samples), size)
    return [Group(samples[start : start + size], rewards[start : start + size]) for start in starts]


def facts(group: Group) -> dict[str, Any]:
    """A row of the sheet as a JSON object."""
    prompt = group.samples[0].prompt
    samples = [
        {
            "reward": reward,
            "text": sample.text,
            "size": list(sample.picture.size) if sample.picture else None,
            "stop": sample.stop,
        }
        for sample, reward in zip(group.samples, group.rewards, strict=True)
    ]
    return {"kind": prompt.kind, "answer": prompt.answer, "samples": samples}


def sheet_row(group: Group, tokenizer: DocumentTokenizer) -> Image.Image:
    """The prompt, and beside it the samples in lines of at most ``SAMPLES_WIDTH`` pixels."""
    cells = [
        _cell(sample, reward, reward == group.best)
        for sample, reward in zip(group.samples, group.rewards, strict=True)
    ]
    prompt = padded(_prompt(group.samples[0], tokenizer), PROMPT_WIDTH)
    return row([prompt, wrapped(cells, SAMPLES_WIDTH, GAP)], GAP)


def _prompt(sample: Sample, tokenizer: DocumentTokenizer) -> Image.Image:
    """The texts and pictures of a prompt below each other; below those to read, the answer."""
    prompt, shown = sample.prompt, []
    for segment in tokenizer.decode(prompt.tokens.cpu(), partial="drop"):
        if isinstance(segment, Tensor):
            shown.append(_fitted(to_pil(segment), PROMPT_WIDTH))
        else:
            shown += [line([(text, INK)]) for text in textwrap.wrap(_printable(segment), LETTERS)[:LINES]]
    if prompt.kind == "read":
        shown.append(line([(f"shows {_printable(prompt.answer)[:LETTERS]}", SOFT)]))
    return column(shown, 2)


def _cell(sample: Sample, reward: float, best: bool) -> Image.Image:
    """A sample in its frame, above its reward."""
    if sample.prompt.kind == "write":
        picture = sample.picture
        shown = line([("no picture", SOFT)]) if picture is None else _fitted(picture, SAMPLES_WIDTH // 2)
    else:
        color = RIGHT if sample.text == sample.prompt.answer else WRONG
        shown = line([(_printable(sample.text)[:LETTERS] or "nothing", color if sample.text else SOFT)], 14)
    return column(
        [framed(shown, RIGHT if best else FRAME, 2), line([(f"{reward:.2f}", RIGHT if best else SOFT)])]
    )


def _fitted(picture: Image.Image, width: int) -> Image.Image:
    """A picture enlarged by a whole number, or scaled down to a width."""
    if picture.width > width:
        return picture.resize((width, max(1, round(picture.height * width / picture.width))))
    return enlarged(picture, min(ENLARGE, max(1, width // picture.width)))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
