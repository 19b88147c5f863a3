"""Text <-> ids: a sentencepiece BPE that restores every Unicode string exactly.

Byte-pair encoding: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; sentencepiece with byte fallback:
Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226. This module imports no torch.
"""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import sentencepiece

from ..storage.files import write_bytes

SPACE = "\u2581"  # how sentencepiece spells a space inside its pieces
FILE = "text.model"

# Training drops a whole text that contains U+2585 (sentencepiece's mark of an unknown character), and reads
# U+2581 as a space. So texts are split at both; encoding spells them in bytes.
_BOUNDARY = re.compile("[\u2581\u2585]")
# It also drops texts of more than 4,192 bytes. 1,000 characters are at most 4,000 bytes; the cut is before a
# space if there is one.
_CHUNK = re.compile(r".{1,1000}(?=[ ]|\Z)|.{1,1000}", re.DOTALL)
# What a sentencepiece model may lose: unknown characters, runs of spaces, spaces at either end, and what
# Unicode normalization would change.
_PROBE = " \0 a\t\n\r\n  \u0301e\u0301\ufb01\uff21\u00bd\u3000\u00a0\U0001f600\U0010ffff  "


class TextTokenizer:
    """A trained sentencepiece model.

    Attributes:
        vocab_size: Number of ids.
        structural_ids: Ids that are never text (sentencepiece's unknown, control and unused ids): ``encode``
            does not produce them, ``decode`` rejects them.
    """

    def __init__(self, model_proto: bytes) -> None:
        """
        Args:
            model_proto: The content of a sentencepiece model file.

        Raises:
            ValueError: It is not one, or the model cannot restore every string (no byte fallback,
                normalization, added or removed spaces).
        """
        try:
            if not model_proto:  # sentencepiece accepts this as a model without pieces
                raise RuntimeError
            model = sentencepiece.SentencePieceProcessor(model_proto=model_proto)
        except RuntimeError:
            raise ValueError("not a sentencepiece model, or a damaged one: train or copy it again") from None
        self.model_proto = model_proto
        self._model = model
        self.vocab_size: int = model.vocab_size()
        structural = (model.is_unknown, model.is_control, model.is_unused)
        self.structural_ids = tuple(i for i in range(self.vocab_size) if any(test(i) for test in structural))
        self._pieces = [self._piece_bytes(i) for i in range(self.vocab_size)]
        byte_ids = [model.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        if not all(map(model.is_byte, byte_ids)):
            raise ValueError("the sentencepiece model has no byte pieces: train it with byte_fallback=True")
        self._space_ids = byte_ids
        if self.decode(self.encode(_PROBE)) != _PROBE:
            raise ValueError(
                "the sentencepiece model does not restore every text: train it with identity normalization, "
                "remove_extra_whitespaces=False and add_dummy_prefix=False"
            )

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        character_coverage: float = 0.9995,
        max_piece_length: int = 16,
        threads: int = 2,
    ) -> Self:
        """Learn the pieces from ``texts``.

        Args:
            texts: Training texts of any length.
            vocab_size: Upper limit of the number of pieces; small data give fewer.
            character_coverage: Fraction of the corpus' characters covered by pieces; the rest is spelled in
                bytes.
            max_piece_length: Characters per piece; 1 makes every character its own piece.
            threads: Does not change the pieces.

        Raises:
            ValueError: An argument is out of range, ``vocab_size`` is too small for the 256 bytes and the
                characters, there is no text, or a text contains a lone surrogate.
        """
        if not 0.98 <= character_coverage <= 1:
            raise ValueError(f"character_coverage is {character_coverage}, expected 0.98 to 1")
        if not 1 <= max_piece_length <= 512:
            raise ValueError(f"max_piece_length is {max_piece_length}, expected 1 to 512")
        if vocab_size < 1:
            raise ValueError(f"vocab_size is {vocab_size}, expected a positive number")
        sentences = list(_sentences(texts))  # sentencepiece garbles errors raised while it iterates
        if not sentences:
            raise ValueError("texts are empty: there is nothing to train the text tokenizer on")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                character_coverage=character_coverage,
                max_sentencepiece_length=max_piece_length,
                byte_fallback=True,
                required_chars=SPACE,  # a space spelled in bytes would decode as U+2581
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=threads,
                minloglevel=2,
            )
        except RuntimeError as error:
            if needed := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
                raise ValueError(
                    f"vocab_size is {vocab_size}, but the bytes and characters of these texts need "
                    f"{needed[1]}: raise vocab_size or lower character_coverage ({character_coverage})"
                ) from None
            raise ValueError(f"sentencepiece could not train on these texts: {error}") from error
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        """Text -> ids. Works for every Unicode string; ``decode`` restores it exactly.

        Raises:
            ValueError: The text contains a lone surrogate, which is not Unicode text.
        """
        check_unicode(text)
        first, *rest = text.split(SPACE)
        ids = self._model.encode(first)
        for part in rest:  # sentencepiece would decode a typed U+2581 as a space
            ids += self._space_ids
            ids += self._model.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text: the exact inverse of ``encode``.

        Any sequence of text ids is valid: bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: An id is out of range or structural.
        """
        pieces = []
        for i in ids:
            piece = self._pieces[i] if 0 <= i < self.vocab_size else None
            if piece is None:
                kind = "structural" if i in self.structural_ids else f"outside 0..{self.vocab_size - 1}"
                raise ValueError(f"text id {int(i)} is {kind}: it has no text")
            pieces.append(piece)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def id_to_piece(self, i: int) -> str:
        """The piece of id ``i`` as sentencepiece writes it: U+2581 for a space, ``<0x0A>`` for a byte."""
        if not 0 <= i < self.vocab_size:
            raise ValueError(f"text id {i} is outside 0..{self.vocab_size - 1}")
        return self._model.id_to_piece(i)

    def score(self, i: int) -> float:
        """The score of the piece of id ``i``; encoding applies possible merges in descending score."""
        return self._model.get_score(i)

    def piece_bytes(self, i: int) -> bytes:
        """The text of id ``i`` in UTF-8; b"" for a structural id."""
        return self._pieces[i] or b""

    def save(self, folder: str | Path) -> None:
        """Write ``folder``/text.model, a plain sentencepiece model."""
        write_bytes(Path(folder) / FILE, self.model_proto)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read ``folder``/text.model.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: The file is damaged; the message names it.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: expected the model of a text tokenizer")
        try:
            return cls(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _piece_bytes(self, i: int) -> bytes | None:
        """The text of id ``i`` in UTF-8; None for a structural id."""
        if i in self.structural_ids:
            return None
        piece = self._model.id_to_piece(i)
        if self._model.is_byte(i):
            return bytes([int(piece[1:-1], 16)])  # <0x0A>
        return piece.replace(SPACE, " ").encode()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """``texts`` in pieces that sentencepiece's training does not drop."""
    for number, text in enumerate(texts):
        try:
            check_unicode(text)
        except ValueError as error:
            raise ValueError(f"training text {number}: {error}") from None
        for part in _BOUNDARY.split(text):
            yield from _CHUNK.findall(part)


def check_unicode(text: str) -> None:
    """Reject text that cannot be written as UTF-8.

    Raises:
        ValueError: It contains a lone surrogate; the message says where.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"lone surrogate U+{ord(text[error.start]):04X} at position {error.start}: not Unicode text"
        ) from None
