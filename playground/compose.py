"""A prompt of text and pictures, and how the model continues it: several samples in one batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..fusion_lm.folder import Model
from ..fusion_lm.guidance import Guidance
from ..fusion_lm.sampling import Sampling
from ..fusion_lm.stream import Event, Finished, SegmentBegin, SegmentDone, SegmentProgress, gather, stream
from ..tokenizers.documents import END_OF_TURN, Mark
from ..tokenizers.pixels import to_pil
from .limits import Refused

SAMPLES = 4
"""Maximum number of samples side by side."""
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
    max_new_tokens: int = 0
    """0: fill the context."""
    max_positions: int = 0
    """Maximum positions (rows times columns of codes) of a picture in the prompt; larger pictures are scaled
    down. 0: a quarter of the context."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= SAMPLES:
            raise Refused(f"samples is {self.samples}, expected 1 to {SAMPLES}")
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
            self.tokens = torch.cat([prompt, torch.tensor(event.tokens)])
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

    The same objects are yielded each time. Once ``stopped`` returns True, unfinished samples end there.

    Raises:
        Refused: The prompt is too long for the model, or ``ask`` does not fit it.
    """
    lm, tokenizer = model
    context = lm.config.context_length
    if ask.answer and tokenizer.vocab.sep is None:
        raise Refused("this model does not support conversations: its vocabulary has no token to end a turn")
    try:
        prompt = fitted(model, segments, ask)
        whole: list[str | Image.Image | Mark] = [*prompt, *([END_OF_TURN] if ask.answer else [])]
        encoded = tokenizer.encode(whole, eos=False)
    except ValueError as error:
        raise Refused(str(error)) from None
    tokens = encoded.tokens
    if len(tokens) >= context:
        raise Refused(
            f"the prompt has {len(tokens)} tokens, but the model's context holds {context}: shorten it, or "
            "allow fewer codes per picture"
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
            rows[event.row].take(event, tokens, tokenizer.image.factor)
            yield rows
    except ValueError as error:
        raise Refused(str(error)) from None


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
