"""A modality: a name, ranges of tokens, the layout of its blocks in the stream, and a codec.

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
"""The name of all framing tokens: begin and end of documents and blocks, sizes, padding, separators."""
TEXT = "text"
"""The modality without blocks: its tokens are written to the stream directly."""


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
    """"text", "image", ...: the key of all settings and figures by modality."""
    ranges: tuple[Range, ...]
    """Tokens <-> ids, both ascending; a range may hold several slots, or a part of one."""
    layout: Layout | None = None
    """How a block of codes is written in the stream; None for text."""

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
    """The modality of every token, in the form that the loss takes."""

    names: tuple[str, ...]
    """G names; "structure" is the first."""
    of_token: "Tensor"
    """(V,) int64: the index in ``names`` of each token's modality."""


class Codec(Protocol):
    """Converts segments of one modality to codes and back, such as ``image.ImageTokenizer``.

    Inputs of one shape are encoded in one batch, and codes of one shape decoded in one batch.
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
            segment: A segment that ``takes`` accepts.
            layout: The layout of the modality, which limits the shape of the codes.
            whole: Crop nothing, as in a question about an image.

        Raises:
            ValueError: The segment cannot be read.
        """
        ...

    def encode(self, inputs: "Tensor", /) -> "Tensor":
        """Inputs (B, ...) -> codes (B, *shape), or (B, *shape, n) with n > 1 slots; int64."""
        ...

    def decode(self, codes: "Tensor", /) -> "Tensor":
        """Codes (B, *shape), or (B, *shape, n) -> an approximation of the inputs (B, ...)."""
        ...

    def show(self, decoded: "Tensor", /) -> Any:
        """One decoded segment, without the batch, as users get it: a PIL image, a waveform, ..."""
        ...

    def save(self, folder: str | Path, /) -> None:
        """Write the codec's folder."""
        ...


def _image(folder: Path) -> Codec:
    from .image import ImageTokenizer  # its libraries take seconds to load

    return ImageTokenizer.load(folder)


CODECS: dict[str, Callable[[Path], Codec]] = {"image": _image}
"""Modality -> function that loads its codec from the folder ``tokenizer/MODALITY`` of a model."""
