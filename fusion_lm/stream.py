"""Strings, images and more in; strings, images and more out: whole, or as they come.

    model = load_model()
    [document] = sample(model, [["A red apple:"]], then="image")
    document[0].save("apple.png")

``stream`` yields events, so that text can be shown while it is written and images while they are drawn;
``sample`` gathers them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..tokenizers.documents import DocumentTokenizer, Encoded, split
from ..tokenizers.layout import Cursor, Shape
from .choices import BestBy
from .folder import Model
from .generate import GOING, LOOK, Step, generate, generate_steps, stop_name


@dataclass(frozen=True)
class TextDelta:
    """More text of a row, whole characters."""

    row: int
    text: str


@dataclass(frozen=True)
class SegmentBegin:
    """A row began a block (an image, ...) and wrote its size."""

    row: int
    modality: str
    shape: tuple[int, ...]
    """Positions of codes along each axis."""


@dataclass(frozen=True)
class SegmentProgress:
    """One more line of codes of the block: a row, or a column if the vocabulary scans by columns."""

    row: int
    modality: str
    preview: Any
    """What its codec makes of the codes so far; of images in full size, gray where nothing is yet."""
    share: float
    """Of the codes that are written."""


@dataclass(frozen=True)
class SegmentDone:
    """A finished block."""

    row: int
    modality: str
    value: Any
    """As its codec shows it: a PIL image, ..."""


@dataclass(frozen=True)
class Finished:
    """A row ended, and why."""

    row: int
    stop: str
    """As ``Generated.stop``, or "stopped"."""
    tokens: tuple[int, ...] = ()
    """All that it wrote, its end too."""


Event = TextDelta | SegmentBegin | SegmentProgress | SegmentDone | Finished


def sample(
    model: Model,
    prompts: Sequence[Any],
    *,
    best_of: int = 1,
    best_by: BestBy = "forward",
    **options: Any,
) -> list[list[Any]]:
    """Continue each of ``prompts``; returns what was written, without the prompts.

    Args:
        model: The transformer and its tokenizers.
        prompts: Lists of segments (strings, PIL images, ...), or documents that are ``Encoded`` already.
        best_of: See ``generate``.
        best_by: See ``generate``.
        options: Fields of ``prompts.Options``; ``max_new_tokens`` may be left out.

    Returns:
        For each prompt a list of strings and of what codecs show, images as PIL images.

    Raises:
        ValueError: As ``generate``.
    """
    if best_of > 1 or best_by != "forward":
        return [segments for segments, _ in best(model, prompts, best_of, best_by=best_by, **options)]
    written: list[list[Any]] = [[] for _ in prompts]
    for event in stream(model, prompts, previews=False, **options):
        gather(written[event.row], event)
    return written


def best(model: Model, prompts: Sequence[Any], best_of: int, **options: Any) -> list[tuple[list[Any], str]]:
    """The best of ``best_of`` continuations of each of ``prompts``, and why it ended."""
    lm, tokenizer = model
    options = {"max_new_tokens": lm.config.context_length, **options}
    found = []
    for result in generate(lm, tokenizer.vocab, encode(tokenizer, prompts), best_of=best_of, **options):
        found.append((decoded(tokenizer, result.tokens[result.prompt_length :]), result.stop))
    return found


def encode(tokenizer: DocumentTokenizer, prompts: Sequence[Any]) -> list[Encoded]:
    """Prompts as the transformer continues them; ``Encoded`` ones and tokens (T,) stay as they are."""
    lists = [prompt for prompt in prompts if not isinstance(prompt, Encoded | Tensor)]
    fresh = iter(tokenizer.encode_many(lists, eos=False))
    return [
        p if isinstance(p, Encoded) else tokenizer.positioned(p) if isinstance(p, Tensor) else next(fresh)
        for p in prompts
    ]


def decoded(tokenizer: DocumentTokenizer, tokens: Tensor) -> list[Any]:
    """The segments of tokens (T,) as people use them; a block that is cut short is left out."""
    parts = tokenizer.decode_parts(split(tokens, tokenizer.vocab, partial="drop"))
    return [value if isinstance(value, str) else tokenizer.codecs[name].show(value) for name, value in parts]


def gather(segments: list[Any], event: Event) -> None:
    """Add what an event brought to the segments of its row."""
    if isinstance(event, SegmentDone):
        segments.append(event.value)
    elif isinstance(event, TextDelta):
        if segments and isinstance(last := segments[-1], str):
            segments[-1] = last + event.text
        else:
            segments.append(event.text)


def stream(
    model: Model,
    prompts: Sequence[Any],
    *,
    previews: bool = True,
    stopped: Callable[[], bool] | None = None,
    **options: Any,
) -> Iterator[Event]:
    """Continue each of ``prompts`` in one batch, and yield events as they come.

    Together the text deltas between two blocks are exactly the text that ``generate`` gives, decoded. On a
    GPU events come in bursts of some steps, since looking at a token means waiting for it.

    Args:
        model: The transformer and its tokenizers.
        prompts: Lists of segments (strings, PIL images, ...), or documents that are ``Encoded`` already.
        previews: Whether to decode a block after each line of its codes, too.
        stopped: Called after each step; once it returns True, unfinished rows finish as "stopped".
        options: Fields of ``prompts.Options``; ``max_new_tokens`` may be left out: the context ends a row.

    Raises:
        ValueError: As ``generate_steps``.
    """
    if not prompts:
        return
    lm, tokenizer = model
    options = {"max_new_tokens": lm.config.context_length, **options}
    encoded = encode(tokenizer, prompts)
    rows: list[Row] = []
    every = 1 if lm.embedding.weight.device.type == "cpu" else LOOK
    waiting: list[Step] = []

    def read() -> Iterator[Event]:
        if not waiting:
            return
        tokens, stops = (torch.stack([step[i] for step in waiting]).tolist() for i in (0, 2))
        for column in zip(tokens, stops):
            for row, token, stop in zip(rows, *column, strict=True):
                yield from row.take(token, stop)
        waiting.clear()

    for step in generate_steps(lm, tokenizer.vocab, encoded, **options):
        if not rows:  # prompts are checked by now
            rows += [_row(number, tokenizer, previews, e.tokens, options) for number, e in enumerate(encoded)]
        waiting.append(step)
        if len(waiting) == every:
            yield from read()
        if stopped is not None and stopped():
            yield from read()
            for row in rows:
                yield from row.end("stopped")
            return
    yield from read()


def _row(
    number: int, tokenizer: DocumentTokenizer, previews: bool, prompt: Tensor, options: dict[str, Any]
) -> "Row":
    cursor = Cursor(tokenizer.vocab).take_all(prompt)
    row = Row(number, tokenizer, previews, options.get("stop_after"), cursor)
    if cursor.inside is not None:  # the prompt ends inside a block: its codes are the block's first
        row.codes = prompt[cursor.start + cursor.layout.head :].tolist()
    return row


@dataclass
class Row:
    """One row of the batch, token by token."""

    number: int
    tokenizer: DocumentTokenizer
    previews: bool
    stop_after: str | None
    cursor: Cursor
    """Where its document is."""
    ended: bool = False
    ids: list[int] = field(default_factory=list)
    """Text ids of the stretch that is being written."""
    sent: int = 0
    """Characters of it that were in events."""
    codes: list[int] = field(default_factory=list)
    """Tokens of codes of the block that is being written."""
    written: list[int] = field(default_factory=list)
    """All tokens."""

    def take(self, token: int, stop: int) -> Iterator[Event]:
        """The events of one more token, and of the row's end if ``stop`` says so (``generate.STOPS``)."""
        if self.ended:
            return
        vocab = self.tokenizer.vocab
        self.written.append(token)
        mode, inside = self.cursor.take(token), self.cursor.inside
        if mode.kind == "free" and inside is not None:
            yield from self._text(whole=True)
            self.ids, self.sent, self.codes = [], 0, []
        elif mode.kind == "free" and token not in (vocab.eos, vocab.sep):
            self.ids += vocab.to_codes("text", torch.tensor([token])).tolist()
            yield from self._text(whole=False)
        if mode.kind in ("free", "size") and inside is not None and self.cursor.shape is not None:
            yield SegmentBegin(self.number, inside, self.cursor.shape)
        elif mode.kind == "code":
            self.codes.append(token)
            yield from self._progress(mode.name)
        elif mode.kind == "end":
            codes = self._codes(mode.name, self.cursor.spans[-1].shape)
            [value] = self.tokenizer.decode_codes(mode.name, [codes])
            yield SegmentDone(self.number, mode.name, self.tokenizer.codecs[mode.name].show(value))
        if stop != GOING:
            yield from self.end(stop_name(stop, self.stop_after))

    def end(self, stop: str) -> Iterator[Event]:
        """The rest of its text, and that it is finished; nothing if it was."""
        if not self.ended:
            yield from self._text(whole=True)
            self.ended = True
            yield Finished(self.number, stop, tuple(self.written))

    def _text(self, whole: bool) -> Iterator[Event]:
        text = self.tokenizer.text.decode(self.ids) if self.ids else ""
        # The bytes of a character may come as several tokens; what cannot be read yet may still become one.
        known = text if whole else text.rstrip("\ufffd")
        if len(known) > self.sent:
            yield TextDelta(self.number, known[self.sent :])
            self.sent = len(known)

    def _progress(self, name: str) -> Iterator[Event]:
        shape, layout, codec = self.cursor.shape, self.cursor.layout, self.tokenizer.codecs[name]
        assert shape is not None
        if self.previews and len(self.codes) % layout.line(shape) == 0 and hasattr(codec, "preview"):
            share = len(self.codes) / (len(self.codes) + self.cursor.remaining)
            yield SegmentProgress(self.number, name, codec.preview(self._codes(name, shape), shape), share)

    def _codes(self, name: str, shape: Shape) -> Tensor:
        """The codes so far, whole lines of a block of ``shape``."""
        vocab = self.tokenizer.vocab
        return vocab.to_codes(name, vocab.layout(name).from_order(torch.tensor(self.codes), shape))
