"""Strings and images in, strings and images out: whole, or as they come.

    model = load_model()
    [document] = sample(model, [["A red apple:"]], then="image")
    document[0].save("apple.png")

``stream`` yields events, so that text can be shown while it is written and images while they are drawn;
``sample`` gathers them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from ..tokenizers.documents import DocumentTokenizer, Segment
from ..tokenizers.pixels import to_pil
from .choices import BestBy
from .folder import Model
from .generate import LOOK, Stop, decode, generate, stop_of


@dataclass(frozen=True)
class TextDelta:
    """More text of a row, whole characters."""

    row: int
    text: str


@dataclass(frozen=True)
class ImageBegin:
    """A row began an image, of this size in pixels."""

    row: int
    width: int
    height: int


@dataclass(frozen=True)
class ImageProgress:
    """A line of codes more of the image: a row, or a column where the vocabulary scans by columns."""

    row: int
    preview: Image.Image
    """In full size, grey where nothing is yet."""
    share: float
    """Of the codes that are there."""


@dataclass(frozen=True)
class ImageDone:
    """A finished image."""

    row: int
    image: Image.Image


@dataclass(frozen=True)
class Finished:
    """A row ended, and why."""

    row: int
    stop: Stop | Literal["stopped"]
    tokens: tuple[int, ...] = ()
    """All that it wrote, its end too."""


Event = TextDelta | ImageBegin | ImageProgress | ImageDone | Finished


def sample(
    model: Model,
    prompts: Sequence[Sequence[Segment]],
    *,
    best_of: int = 1,
    best_by: BestBy = "forward",
    **options: Any,
) -> list[list[str | Image.Image]]:
    """Continue each of ``prompts``; returns what was written, without the prompts.

    :param best_of: and ``best_by``: as in :func:`earlyfusion.fusion_lm.generate.generate`.
    :param options: those of :func:`earlyfusion.fusion_lm.generate.decode`; ``max_new_tokens`` may be left
        out.
    :raises ValueError: as ``decode`` does.
    """
    if best_of > 1 or best_by != "forward":
        return [segments for segments, _ in best(model, prompts, best_of, best_by=best_by, **options)]
    written: list[list[str | Image.Image]] = [[] for _ in prompts]
    for event in stream(model, prompts, previews=False, **options):
        gather(written[event.row], event)
    return written


def best(
    model: Model, prompts: Sequence[Sequence[Segment]], best_of: int, **options: Any
) -> list[tuple[list[str | Image.Image], Stop]]:
    """The best of ``best_of`` continuations of each of ``prompts``, and why it ended."""
    lm, tokenizer = model
    options = {"max_new_tokens": lm.config.context_length, **options}
    encoded = [tokenizer.encode(prompt, eos=False) for prompt in prompts]
    found = []
    for result in generate(lm, tokenizer.vocab, encoded, best_of=best_of, **options):
        segments = tokenizer.decode(result.tokens[result.prompt_length :], partial="drop")
        found.append(([s if isinstance(s, str) else to_pil(s) for s in segments], result.stop))
    return found


def gather(segments: list[str | Image.Image], event: Event) -> None:
    """Add what an event brought to the segments of its row."""
    if isinstance(event, ImageDone):
        segments.append(event.image)
    elif isinstance(event, TextDelta):
        if segments and isinstance(last := segments[-1], str):
            segments[-1] = last + event.text
        else:
            segments.append(event.text)


def stream(
    model: Model,
    prompts: Sequence[Sequence[Segment]],
    *,
    previews: bool = True,
    stopped: Callable[[], bool] | None = None,
    **options: Any,
) -> Iterator[Event]:
    """Continue each of ``prompts`` in one batch, and tell what comes as it comes.

    Together the text deltas between two images are exactly the text that ``generate`` gives decoded. On a GPU
    events come in bursts of some steps, since looking at a token means to wait for it.

    :param previews: whether to decode an image after each line of its codes too.
    :param stopped: is asked after each step; once it says True, rows that go on finish as "stopped".
    :param options: those of :func:`earlyfusion.fusion_lm.generate.decode`; ``max_new_tokens`` may be left
        out: the context ends a row sooner or later.
    :raises ValueError: as ``decode`` does.
    """
    if not prompts:
        return
    lm, tokenizer = model
    once = {id(prompt): prompt for prompt in prompts}  # several rows may continue one prompt
    tokens = {key: tokenizer.encode(prompt, eos=False) for key, prompt in once.items()}
    encoded = [tokens[id(prompt)] for prompt in prompts]
    options = {"max_new_tokens": lm.config.context_length, **options}
    limit = options["max_new_tokens"]
    rows = []
    for number, prompt in enumerate(encoded):
        row = Row(
            number, tokenizer, previews, bool(options.get("stop_after_image")), lm.config.context_length
        )
        row.length, row.limit = len(prompt), min(len(prompt) + limit, lm.config.context_length)
        rows.append(row)
    every = 1 if lm.embedding.weight.device.type == "cpu" else LOOK
    waiting: list[Tensor] = []

    def read() -> Iterator[Event]:
        for column in torch.stack(waiting, dim=1).T.tolist() if waiting else []:
            for row, token in zip(rows, column, strict=True):
                yield from row.take(token)
        waiting.clear()

    for step in decode(lm, tokenizer.vocab, encoded, **options):
        waiting.append(step.tokens)
        if len(waiting) == every:
            yield from read()
        if stopped is not None and stopped():
            yield from read()
            for row in rows:
                yield from row.end("stopped")
            return
    yield from read()


@dataclass
class Row:
    """One row of the batch, token by token."""

    number: int
    tokenizer: DocumentTokenizer
    previews: bool
    stop_after_image: bool
    context: int
    length: int = 0
    """Tokens so far, the prompt's too."""
    limit: int = 0
    """Tokens that it may reach."""
    ended: bool = False
    ids: list[int] = field(default_factory=list)
    """Text ids of the stretch that is being written."""
    told: int = 0
    """Characters of it that were given out."""
    image: list[int] = field(default_factory=list)
    """Tokens of the image that is being drawn, from begin_image on."""
    written: list[int] = field(default_factory=list)
    """All tokens."""

    def take(self, token: int) -> Iterator[Event]:
        """The events of one more token."""
        vocab = self.tokenizer.vocab
        if self.ended:
            return
        self.length += 1
        self.written.append(token)
        ends = (vocab.eos, vocab.sep)
        if self.image or token == vocab.begin_image:
            if not self.image:
                yield from self._text(whole=True)
                self.ids, self.told = [], 0
            self.image.append(token)
            yield from self._image()
        elif token not in ends:
            self.ids += vocab.tokens_to_text(torch.tensor([token])).tolist()
            yield from self._text(whole=False)
        done = self.stop_after_image and token == vocab.end_image
        if token in ends or done or self.length == self.limit:
            yield from self.end(stop_of(token, self.length, vocab, self.context, self.stop_after_image))

    def end(self, stop: Stop | Literal["stopped"]) -> Iterator[Event]:
        """The rest of its text, and that it is finished; nothing where it was."""
        if not self.ended:
            yield from self._text(whole=True)
            self.ended = True
            yield Finished(self.number, stop, tuple(self.written))

    def _text(self, whole: bool) -> Iterator[Event]:
        text = self.tokenizer.text.decode(self.ids) if self.ids else ""
        # The bytes of a character may come as several tokens; what cannot be read yet may still become one.
        known = text if whole else text.rstrip("\ufffd")
        if len(known) > self.told:
            yield TextDelta(self.number, known[self.told :])
            self.told = len(known)

    def _image(self) -> Iterator[Event]:
        vocab, factor = self.tokenizer.vocab, self.tokenizer.image.factor
        head = 1 if vocab.fixed_grid else 3  # begin_image, rows, columns
        if len(self.image) < head:
            return
        if vocab.fixed_grid:
            rows, columns = vocab.fixed_grid
        else:
            assert vocab.grid is not None
            rows, columns = (token - vocab.grid.start + 1 for token in self.image[1:3])
        codes, n = self.image[head:], vocab.codes_per_position
        lines, along = (rows, columns) if vocab.scan == "rows" else (columns, rows)
        if not codes:
            yield ImageBegin(self.number, columns * factor, rows * factor)
        elif len(codes) > lines * along * n:
            yield ImageDone(self.number, self._picture(codes[:-1], lines, along))
            self.image = []
        elif self.previews and len(codes) % (along * n) == 0:
            part = self._picture(codes, len(codes) // (along * n), along)
            preview = Image.new("RGB", (columns * factor, rows * factor), (128, 128, 128))
            preview.paste(part)
            yield ImageProgress(self.number, preview, len(codes) / (lines * along * n))

    def _picture(self, codes: list[int], lines: int, along: int) -> Image.Image:
        vocab, image = self.tokenizer.vocab, self.tokenizer.image
        slots = [n] if (n := vocab.codes_per_position) > 1 else []
        grid = vocab.tokens_to_codes(torch.tensor(codes).view(lines, along, *slots))
        grid = grid if vocab.scan == "rows" else grid.transpose(0, 1)
        with torch.no_grad():
            return to_pil(image.decode(grid[None].to(next(image.parameters()).device))[0].cpu())
