"""A prompt of text and pictures, and how the model continues it: samples, each the best of its tries."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..fusion_lm.choices import BEST_BY
from ..fusion_lm.folder import Model
from ..fusion_lm.guidance import Guidance
from ..fusion_lm.sampling import Sampling
from ..fusion_lm.scores import both_ways
from ..fusion_lm.stream import Event, Finished, SegmentBegin, SegmentDone, SegmentProgress, gather, stream
from ..tokenizers.documents import END_OF_TURN, Encoded, Mark
from ..tokenizers.pixels import to_pil
from .limits import Refused

SAMPLES, TRIES, ROWS = 8, 8, 32
"""Maximum number of samples side by side, of tries for each, and of tries together."""
WORK = 2**16
"""Maximum number of tokens of all tries together, counted once for each branch of guidance."""
PICTURE_SHARE = 4
"""By default, a picture in the prompt takes at most 1/4 of the context."""
GRAY = (128, 128, 128)


@dataclass(frozen=True)
class Ask:
    """How to continue."""

    then: str = "any"
    """The modality that comes next; "any" lets the model decide."""
    answer: bool = False
    """The prompt is a turn of a conversation, which the model (trained on ``messages``) answers."""
    samples: int = 1
    text: Sampling = Sampling(temperature=0.7)
    image: Sampling = Sampling(temperature=0.7)
    guidance: Guidance = Guidance()
    negative: str = ""
    """What guidance leads pictures away from."""
    best_of: int = 1
    """Tries for each sample, of which the best is shown."""
    best_by: str = "forward"
    """How the best is chosen, see ``generate``. "both" needs a prompt; without one it is "forward"."""
    max_new_tokens: int = 0
    """0: fill the context."""
    max_positions: int = 0
    """Maximum positions (rows times columns of codes) of a picture in the prompt; larger pictures are scaled
    down. 0: a quarter of the context."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= SAMPLES:
            raise Refused(f"samples is {self.samples}, expected 1 to {SAMPLES}")
        if not 1 <= self.best_of <= TRIES:
            raise Refused(f"best_of is {self.best_of}, expected 1 to {TRIES}")
        if (rows := self.samples * self.best_of) > ROWS:
            raise Refused(f"samples x best_of is {rows}, expected at most {ROWS}: take fewer of one")
        if self.best_by not in BEST_BY:
            raise Refused(f"best_by is {self.best_by!r}, expected one of {', '.join(BEST_BY)}")
        if self.negative and self.guidance.branches == 1:
            raise Refused("guidance is 1, but a negative prompt needs more: set it to 2, say")
        for name in ("max_new_tokens", "max_positions"):
            if getattr(self, name) < 0:
                raise Refused(f"{name} is {getattr(self, name)}, expected 0 or more")


@dataclass
class Written:
    """A sample while it is being written."""

    prompt: list[str | Image.Image]
    """The prompt as the model sees it."""
    segments: list[Any] = field(default_factory=list)
    """Strings, pictures and other values that the model wrote."""
    drawing: Image.Image | None = None
    """The unfinished picture, if any."""
    stop: str | None = None
    """Why it ended."""
    tokens: Tensor | None = None
    """(T,) int64, prompt and continuation; None until the sample has ended."""
    prompt_length: int = 0
    turn: bool = False
    """The prompt was a turn of a conversation."""
    seed: int = 0
    score: float = -inf
    """Nats per token; the higher, the better."""
    others: list["Written"] = field(default_factory=list)
    """The other tries, best first."""

    def take(self, event: Event, prompt: Tensor, factor: int) -> None:
        """Apply an event of this sample's row.

        Args:
            event: Any event of ``fusion_lm.stream``.
            prompt: Tokens of the prompt.
            factor: Pixels per code.
        """
        if isinstance(event, SegmentBegin):
            if event.modality == "image":
                height, width = (side * factor for side in event.shape)
                self.drawing = Image.new("RGB", (width, height), GRAY)
        elif isinstance(event, SegmentProgress):
            if event.modality == "image":
                self.drawing = event.preview
        elif isinstance(event, Finished):
            self.stop = event.stop
            self.tokens = torch.cat([prompt, torch.tensor(event.tokens, dtype=torch.int64)])
            self.score = event.log_likelihood
        else:
            gather(self.segments, event)
            if isinstance(event, SegmentDone):
                self.drawing = None


def compose(
    model: Model,
    segments: Sequence[str | Image.Image],
    ask: Ask,
    stopped: Callable[[], bool] | None = None,
) -> Iterator[list[Written]]:
    """Continue ``segments`` ``ask.samples`` times; yields all samples after every event.

    Until the end, these are the first tries of each sample, and the same objects each time. Once ``stopped``
    returns True, unfinished samples end there.

    Raises:
        Refused: The prompt is too long for the model, or ``ask`` does not fit it.
    """
    tokenizer = model.tokenizer
    if ask.answer and tokenizer.vocab.sep is None:
        raise Refused("this model does not support conversations: its vocabulary has no token to end a turn")
    try:
        prompt = fitted(model, segments, ask)
        whole: list[str | Image.Image | Mark] = [*prompt, *([END_OF_TURN] if ask.answer else [])]
        encoded = tokenizer.encode(whole, eos=False)
    except ValueError as error:
        raise Refused(str(error)) from None
    yield from resume(model, prompt, encoded, ask, stopped)


def resume(
    model: Model,
    prompt: list[str | Image.Image],
    encoded: Encoded,
    ask: Ask,
    stopped: Callable[[], bool] | None = None,
) -> Iterator[list[Written]]:
    """As ``compose``, from tokens that may end inside a picture; ``prompt`` is what they show."""
    lm, tokenizer = model
    tokens, context = encoded.tokens, lm.config.context_length
    if len(tokens) >= context:
        raise Refused(
            f"the prompt has {len(tokens)} tokens, but the model's context holds {context}: shorten it, or "
            "allow fewer codes per picture"
        )
    count = ask.samples * ask.best_of
    new = min(ask.max_new_tokens or context, context - len(tokens))
    if ask.best_of > 1 and (work := count * ask.guidance.branches * new) > WORK:
        raise Refused(
            f"{count} tries of up to {new:,} tokens are {work:,} in all, more than {WORK:,}: take fewer "
            "tries, samples or new tokens"
        )
    rows = [
        Written(list(prompt), prompt_length=len(tokens), turn=ask.answer, seed=ask.seed + row)
        for row in range(count)
    ]
    options: dict[str, Any] = {
        "max_new_tokens": min(ask.max_new_tokens or context, context),
        "then": ask.then,
        "sampling": {"text": ask.text, "image": ask.image},
        "guidance": ask.guidance,
        "seed": ask.seed,
    }
    try:
        if ask.negative:
            options["negative"] = tokenizer.encode([ask.negative], eos=False).tokens
            if len(options["negative"]) >= context:
                raise Refused(f"the negative prompt has more tokens than the context, {context}: shorten it")
        for event in stream(model, [encoded] * count, stopped=stopped, **options):
            rows[event.row].take(event, tokens, tokenizer.image.factor)
            yield rows[:: ask.best_of]
    except ValueError as error:
        raise Refused(str(error)) from None
    if ask.best_of > 1:
        yield [_best(model, rows[n : n + ask.best_of], ask) for n in range(0, count, ask.best_of)]


def _best(model: Model, tries: list[Written], ask: Ask) -> Written:
    """The best of several tries, which then knows the others."""
    both = ask.best_by == "both" and tries[0].prompt_length > 1  # more than bos
    if both and not ask.answer:
        for one in tries:
            assert one.tokens is not None
            try:
                one.score = both_ways(model.lm, model.tokenizer.vocab, one.tokens, one.prompt_length)
            except ValueError:  # the prompt ends inside a picture, so it cannot stand after anything
                break
    best, *others = sorted(tries, key=lambda one: -one.score)
    best.others = others
    return best


def fitted(model: Model, segments: Sequence[str | Image.Image], ask: Ask) -> list[str | Image.Image]:
    """``segments``, with pictures scaled to the sizes that the model sees.

    Raises:
        ValueError: A picture cannot be read.
    """
    tokenizer, context = model.tokenizer, model.lm.config.context_length
    images = tokenizer.vocab["image"]
    positions = ask.max_positions or max(1, context // PICTURE_SHARE // images.slots)
    if images.layout is not None and images.layout.shape is not None:
        positions = 0  # all pictures have one size
    return [
        s
        if isinstance(s, str)
        else to_pil(tokenizer.prepare("image", s, whole=ask.answer, max_positions=positions or None))
        for s in segments
    ]
