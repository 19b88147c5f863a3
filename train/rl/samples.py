"""What alignment works with: prompts, and the samples that the model draws after them."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image
from torch import Tensor

Kind = Literal["write", "read"]
"""write: the prompt ends with a text, the model draws a picture; read: it ends with a picture, the model
writes a text."""


@dataclass(frozen=True)
class Prompt:
    """The beginning of a document, and what its continuation should show or say."""

    tokens: Tensor
    """(T,) int64, begins with bos."""
    kind: Kind
    answer: str
    """The text that the picture should show, or that should be written."""


@dataclass(frozen=True)
class Sample:
    """A prompt and one continuation of it."""

    prompt: Prompt
    tokens: Tensor
    """(T,) int64, the prompt and its continuation."""
    stop: str
    """Why the continuation ended, see ``Generated.stop``."""
    text: str
    """The text of the continuation, without white space at both ends."""
    picture: Image.Image | None
    """The first complete picture of the continuation; None if there is none."""
