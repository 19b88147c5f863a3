"""What a modality is: a name, ranges of tokens, how its blocks lie in the stream, and a codec.

A new modality is a codec (``Codec``) and an entry in ``CODECS``; the vocabulary gets its tokens from
``SharedVocab.extended``. Nothing else changes: documents, grammar, losses and sampling follow the names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

STRUCTURE = "structure"
"""The name of everything that frames: begin and end of documents and blocks, sizes, padding, separators."""
TEXT = "text"
"""The modality without a frame: its tokens are in the stream as they are."""


class Range(NamedTuple):
    """Tokens token..token+count-1 are, in order, the ids id..id+count-1 of a modality."""

    token: int
    id: int
    count: int


@dataclass(frozen=True)
class Modality:
    """One modality of a vocabulary.

    Ids are text ids (sentencepiece), or codes: code c of slot g is id g * K + c.
    """

    name: str
    """"text", "image", ...: the key of everything that is set or measured for each modality."""
    ranges: tuple[Range, ...]
    """Tokens <-> ids, both ascending; a range may hold several slots, or a part of one."""
    layout: Layout | None = None
    """How a block of codes lies in the stream; None for text."""

    @property
    def n_ids(self) -> int:
        """One more than the highest id that has a token."""
        return self.ranges[-1].id + self.ranges[-1].count

    @property
    def slots(self) -> int:
        """n, codes per position."""
        return 1 if self.layout is None else self.layout.slots

    @property
    def codebook_size(self) -> int:
        """K, the codes of each slot."""
        return self.n_ids // self.slots


class ModalityTable(NamedTuple):
    """The modality of every token, as the loss needs it."""

    names: tuple[str, ...]
    """G names; "structure" is the first."""
    of_token: "Tensor"
    """(V,) int64: the place in ``names`` of each token's modality."""


class Codec(Protocol):
    """What turns segments of one modality into codes and back.

    ``image.ImageTokenizer`` is one. Inputs of one shape are encoded together, and codes of one shape decoded.
    """

    @property
    def codebook_size(self) -> int:
        """K, the codes of each slot."""
        ...

    @property
    def codes_per_position(self) -> int:
        """n, the slots."""
        ...

    def takes(self, segment: Any, /) -> bool:
        """Whether ``segment`` of a document is of this modality."""
        ...

    def prepare(self, segment: Any, layout: Layout, /, *, whole: bool = False) -> "Tensor":
        """A segment -> an input of ``encode``, without the batch, whose codes fit ``layout``.

        A codec may have more options, such as ``max_side`` of images (``DocumentTokenizer.encode``).

        Args:
            segment: What ``takes`` says yes to.
            layout: Its shape or its largest sizes are the limits.
            whole: Nothing may be cut off, as in a question about an image.

        Raises:
            ValueError: The segment cannot be read.
        """
        ...

    def encode(self, inputs: "Tensor", /) -> "Tensor":
        """Inputs (B, ...) -> codes (B, *shape), or (B, *shape, n) with n > 1 slots; int64."""
        ...

    def decode(self, codes: "Tensor", /) -> "Tensor":
        """The inverse of ``encode``, as well as the codec can."""
        ...

    def show(self, decoded: "Tensor", /) -> Any:
        """One decoded segment, without the batch, as people use it: an image, a waveform, ..."""
        ...

    def save(self, folder: str | Path, /) -> None:
        """Write the codec's folder."""
        ...


def _image(folder: Path) -> Codec:
    from .image import ImageTokenizer  # its libraries take seconds to load

    return ImageTokenizer.load(folder)


CODECS: dict[str, Callable[[Path], Codec]] = {"image": _image}
"""Modality -> what reads its codec's folder, TOKENIZER/MODALITY."""
