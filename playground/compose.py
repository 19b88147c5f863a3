"""A prompt of text and pictures, and what the model makes of it, several samples in one batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..fusion_lm.folder import Model
from ..fusion_lm.guidance import Guidance
from ..fusion_lm.sampling import Sampling
from ..fusion_lm.stream import Finished, SegmentBegin, SegmentDone, SegmentProgress, gather, stream
from ..tokenizers.documents import END_OF_TURN, Mark
from ..tokenizers.pixels import to_pil
from .limits import Refused

SAMPLES = 4
"""Side by side, at most."""
PICTURE_SHARE = 4
"""A picture of the prompt takes at most such a part of the context, if nothing else is asked."""


@dataclass(frozen=True)
class Ask:
    """How to go on."""

    then: str = "any"
    answer: bool = False
    """The prompt is a turn of a conversation, and the model, trained on `messages`, answers it."""
    samples: int = 1
    text: Sampling = Sampling(temperature=0.7)
    image: Sampling = Sampling(temperature=0.7)
    guidance: Guidance = Guidance()
    max_new_tokens: int = 0
    """0: as many as the context holds."""
    max_positions: int = 0
    """Positions (rows times columns of codes) that a picture of the prompt may have: larger ones are scaled
    down; 0: a quarter of the context."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= SAMPLES:
            raise Refused(f"samples is {self.samples}, expected 1 to {SAMPLES}")
        for name in ("max_new_tokens", "max_positions"):
            if getattr(self, name) < 0:
                raise Refused(f"{name} is {getattr(self, name)}, expected 0 or more")


@dataclass
class Written:
    """A sample while it is written."""

    prompt: list[str | Image.Image]
    """As the model sees it."""
    segments: list[str | Image.Image] = field(default_factory=list)
    drawing: Image.Image | None = None
    """The picture that is not finished yet, or never was."""
    stop: str | None = None
    """Why it ended."""
    tokens: Tensor | None = None
    """(T,) int64, the prompt's and its own, when it has ended."""
    prompt_length: int = 0
    turn: bool = False
    """The prompt was a turn of a conversation."""


def compose(
    model: Model,
    segments: Sequence[str | Image.Image],
    ask: Ask,
    stopped: Callable[[], bool] | None = None,
) -> Iterator[list[Written]]:
    """Continue ``segments`` ``ask.samples`` times; after every piece of news, how far all samples are.

    The same objects are yielded each time; once ``stopped`` says True they end as they are.

    :raises Refused: the prompt is too long for the model, or what is asked cannot follow it.
    """
    lm, tokenizer = model
    context = lm.config.context_length
    if ask.answer and tokenizer.vocab.sep is None:
        raise Refused("this model knows no conversations: its vocabulary has no token that ends a turn")
    try:
        prompt = fitted(model, segments, ask)
        whole: list[str | Image.Image | Mark] = [*prompt, *([END_OF_TURN] if ask.answer else [])]
        encoded = tokenizer.encode(whole, eos=False)
    except ValueError as error:
        raise Refused(str(error)) from None
    tokens = encoded.tokens
    if len(tokens) >= context:
        raise Refused(
            f"the prompt has {len(tokens)} tokens, and the model's context holds {context}: leave something "
            "out, or let pictures have fewer positions"
        )
    rows = [Written(list(prompt), prompt_length=len(tokens), turn=ask.answer) for _ in range(ask.samples)]
    options: dict[str, Any] = {
        "max_new_tokens": min(ask.max_new_tokens or context, context),
        "then": ask.then,
        "sampling": {"text": ask.text, "image": ask.image},
        "guidance": ask.guidance,
        "seed": ask.seed,
    }
    try:
        for event in stream(model, [encoded] * ask.samples, stopped=stopped, **options):
            row = rows[event.row]
            if isinstance(event, SegmentBegin):
                height, width = (side * tokenizer.image.factor for side in event.shape)
                row.drawing = Image.new("RGB", (width, height), (128, 128, 128))
            elif isinstance(event, SegmentProgress):
                row.drawing = event.preview
            elif isinstance(event, Finished):
                row.stop = event.stop
                row.tokens = torch.cat([tokens, torch.tensor(event.tokens)])
            else:
                gather(row.segments, event)
                if isinstance(event, SegmentDone):
                    row.drawing = None
            yield rows
    except ValueError as error:
        raise Refused(str(error)) from None


def fitted(model: Model, segments: Sequence[str | Image.Image], ask: Ask) -> list[str | Image.Image]:
    """``segments`` with their pictures in the sizes at which the model sees them.

    Raises ValueError for a picture that cannot be read.
    """
    tokenizer, context = model.tokenizer, model.lm.config.context_length
    images = tokenizer.vocab["image"]
    positions = ask.max_positions or max(1, context // PICTURE_SHARE // images.slots)
    if images.layout is not None and images.layout.shape is not None:
        positions = 0  # each picture takes as much as any other
    return [
        s
        if isinstance(s, str)
        else to_pil(tokenizer.prepare("image", s, whole=ask.answer, max_positions=positions or None))
        for s in segments
    ]
