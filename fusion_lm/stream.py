"""Continue documents of strings, images, ...: get the result as a whole, or as a stream of events.

    model = load_model()
    [document] = sample(model, [["A red apple:"]], then="image")
    document[0].save("apple.png")

``stream`` yields events, so that text can be shown while it is written and images while they are drawn;
``sample`` gathers them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor

from ..tokenizers.documents import DocumentTokenizer, Encoded, split
from ..tokenizers.layout import Cursor, Shape
from .choices import BestBy
from .folder import Model
from .generate import LOOK, NOT_FINITE, RUNNING, Step, generate, generate_steps, stop_name


@dataclass(frozen=True)
class TextDelta:
    """New text of a row, in whole characters."""

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
    """A line of codes of a block is complete: a row, or a column if the vocabulary scans by columns."""

    row: int
    modality: str
    preview: Any
    """The codec's preview of the codes so far; for images a PIL image of full size, gray where codes are
    missing."""
    share: float
    """Fraction of the block's codes that are written, up to 1."""


@dataclass(frozen=True)
class SegmentDone:
    """A block is complete."""

    row: int
    modality: str
    value: Any
    """The decoded block: a PIL image, ..."""


@dataclass(frozen=True)
class Finished:
    """A row ended, and why."""

    row: int
    stop: str
    """As ``Generated.stop``, or "stopped" by ``stream``'s argument ``stopped``."""
    tokens: tuple[int, ...] = ()
    """All its new tokens, including the end of the document or turn."""
    log_likelihood: float = -inf
    """As ``Generated.log_likelihood``; -inf if it has no new token."""


Event = TextDelta | SegmentBegin | SegmentProgress | SegmentDone | Finished


def sample(
    model: Model,
    prompts: Sequence[Any],
    *,
    best_of: int = 1,
    best_by: BestBy = "forward",
    **options: Any,
) -> list[list[Any]]:
    """Continue each of ``prompts``, and return the new segments.

    Args:
        model: The transformer and its tokenizers.
        prompts: Lists of segments (strings, PIL images, ...), or documents that are already ``Encoded``.
        best_of: See ``generate``.
        best_by: See ``generate``.
        options: Fields of ``prompts.Options``; by default ``max_new_tokens`` fills the context.

    Returns:
        For each prompt a list of new segments: strings, PIL images, ...

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
    """Encode prompts without ``eos``; the tokens of ``Encoded`` prompts and tensors (T,) do not change."""
    lists = [prompt for prompt in prompts if not isinstance(prompt, Encoded | Tensor)]
    fresh = iter(tokenizer.encode_many(lists, eos=False))
    return [
        p if isinstance(p, Encoded) else tokenizer.positioned(p) if isinstance(p, Tensor) else next(fresh)
        for p in prompts
    ]


def decoded(tokenizer: DocumentTokenizer, tokens: Tensor) -> list[Any]:
    """Decode tokens (T,) to strings, PIL images, ...; a block that is cut short is left out."""
    parts = tokenizer.decode_parts(split(tokens, tokenizer.vocab, partial="drop"))
    return [value if isinstance(value, str) else tokenizer.codecs[name].show(value) for name, value in parts]


def gather(segments: list[Any], event: Event) -> None:
    """Append the text or block of an event to the segments of its row."""
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
    """Continue each of ``prompts`` in one batch, and yield events while it is written.

    The text deltas between two blocks add up to exactly the text of ``generate``. On a GPU, events come in
    bursts of ``LOOK`` steps, since reading a token waits for the device.

    Args:
        model: The transformer and its tokenizers.
        prompts: Lists of segments (strings, PIL images, ...), or documents that are already ``Encoded``.
        previews: Also decode a block after each line of its codes (``SegmentProgress``).
        stopped: Called after each step; once it returns True, all rows end as "stopped".
        options: Fields of ``prompts.Options``; by default ``max_new_tokens`` fills the context.

    Yields:
        Events, in order for each row.

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
    unread: list[Step] = []

    def read() -> Iterator[Event]:
        """Move the unread steps to the CPU, and yield their events."""
        if not unread:
            return
        tokens = torch.stack([step.tokens for step in unread]).tolist()
        stops = torch.stack([step.stop for step in unread]).tolist()
        log_p = torch.stack([step.log_p for step in unread]).tolist()
        for of_step in zip(tokens, stops, log_p, strict=True):
            for row, token, stop, log in zip(rows, *of_step, strict=True):
                yield from row.take(token, stop, log)
        unread.clear()

    for step in generate_steps(lm, tokenizer.vocab, encoded, **options):
        if not rows:  # the first step: generate_steps has checked the prompts
            rows += [_row(number, tokenizer, previews, e.tokens, options) for number, e in enumerate(encoded)]
        unread.append(step)
        if len(unread) == every:
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
    if cursor.inside is not None:  # the prompt ends inside a block and has its first codes
        row.codes = prompt[cursor.start + cursor.layout.head :].tolist()
    return row


@dataclass
class Row:
    """Turns the tokens of one row into events."""

    number: int
    tokenizer: DocumentTokenizer
    previews: bool
    stop_after: str | None
    cursor: Cursor
    """The row's position in its document."""
    ended: bool = False
    ids: list[int] = field(default_factory=list)
    """Text ids since the last block."""
    sent: int = 0
    """Characters of this text that were already in events."""
    codes: list[int] = field(default_factory=list)
    """Code tokens of the current block."""
    written: list[int] = field(default_factory=list)
    """All new tokens."""
    log_p: float = 0.0
    """Their log p together."""

    def take(self, token: int, stop: int, log_p: float = 0.0) -> Iterator[Event]:
        """Yield the events of a new token; ``stop`` and ``log_p`` are as in its ``Step``."""
        if self.ended:
            return
        if stop == NOT_FINITE:  # its token is padding
            yield from self.end(stop_name(stop, self.stop_after))
            return
        vocab = self.tokenizer.vocab
        self.written.append(token)
        self.log_p += log_p
        mode, inside = self.cursor.take(token), self.cursor.inside
        if mode.kind == "free" and inside is not None:  # a block begins
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
        if stop != RUNNING:
            yield from self.end(stop_name(stop, self.stop_after))

    def end(self, stop: str) -> Iterator[Event]:
        """Yield the rest of the text and ``Finished``; nothing if the row has already ended."""
        if not self.ended:
            yield from self._text(whole=True)
            self.ended = True
            mean = self.log_p / len(self.written) if self.written else -inf
            yield Finished(self.number, stop, tuple(self.written), mean)

    def _text(self, whole: bool) -> Iterator[Event]:
        text = self.tokenizer.text.decode(self.ids) if self.ids else ""
        # A character may be spelled in several byte tokens: until all are written it decodes as U+FFFD, so
        # such an end is held back.
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
        """The codes so far, (*lines, ...), whole lines of a block of ``shape``."""
        vocab = self.tokenizer.vocab
        return vocab.to_codes(name, vocab.layout(name).from_order(torch.tensor(self.codes), shape))
