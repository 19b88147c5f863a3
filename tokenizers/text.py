"""Text <-> ids: a sentencepiece BPE that gives back every Unicode string exactly.

Byte-pair encoding: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; sentencepiece with byte fallback:
Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226. This module imports no torch.
"""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import sentencepiece

from .files import write_bytes

SPACE = "\u2581"  # how sentencepiece spells a space inside its pieces
FILE = "text.model"

# Training drops a whole text that holds U+2585 (sentencepiece's mark for an unknown character), and would
# take U+2581 for a space. Both are boundaries instead: encoding spells them in bytes.
_BOUNDARY = re.compile("[\u2581\u2585]")
# It also drops texts of more than 4,192 bytes. 1,000 characters are at most 4,000 bytes; the cut is before a
# space where there is one.
_CHUNK = re.compile(r".{1,1000}(?=[ ]|\Z)|.{1,1000}", re.DOTALL)
# What a sentencepiece model could lose: unknown characters, runs of spaces, spaces at either end, and what a
# Unicode normalisation would change.
_PROBE = " \0 a\t\n\r\n  \u0301e\u0301\ufb01\uff21\u00bd\u3000\u00a0\U0001f600\U0010ffff  "


class TextTokenizer:
    """A trained sentencepiece model.

    `vocab_size`: number of ids. `structural_ids`: those among them that never stand for text
    (sentencepiece's own unknown, control and unused ids): `encode` never gives one, `decode` refuses them.
    """

    def __init__(self, model_proto: bytes) -> None:
        """`model_proto` is the content of a sentencepiece model file.

        Raises ValueError when it is none, or when the model cannot give back every string (no byte fallback,
        a normalisation, added or removed spaces).
        """
        try:
            if not model_proto:  # sentencepiece takes this for a model without pieces
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
                "the sentencepiece model does not keep every text: train it with identity normalisation, "
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
        """Learn the pieces from `texts`.

        `vocab_size` is an upper limit: data too small for it give fewer pieces. `character_coverage` is the
        part of the running characters that get a piece of their own; the rest is spelled in bytes.
        `max_piece_length` 1 makes every character its own piece. The pieces do not depend on `threads`.

        Raises ValueError when an argument is out of range, `vocab_size` is too small for the 256 bytes and
        the characters, there is no text, or a text holds a lone surrogate.
        """
        if not 0.98 <= character_coverage <= 1:
            raise ValueError(f"character_coverage is {character_coverage}, expected 0.98 to 1")
        if not 1 <= max_piece_length <= 512:
            raise ValueError(f"max_piece_length is {max_piece_length}, expected 1 to 512")
        if vocab_size < 1:
            raise ValueError(f"vocab_size is {vocab_size}, expected a positive number")
        sentences = list(_sentences(texts))  # a list: sentencepiece garbles errors raised while it iterates
        if not sentences:
            raise ValueError("there is no text to train the text tokenizer on")
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
                required_chars=SPACE,  # were spaces rare enough to be spelled in bytes, they would be U+2581
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
                    f"vocab_size is {vocab_size}, but the bytes and the characters of these texts alone need "
                    f"{needed[1]}: raise vocab_size or lower character_coverage ({character_coverage})"
                ) from None
            raise ValueError(f"sentencepiece could not train on these texts: {error}") from error
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. Every string has some; `decode` gives it back exactly.

        Raises ValueError for a lone surrogate, which is no Unicode text (it cannot be written as UTF-8).
        """
        check_unicode(text)
        first, *rest = text.split(SPACE)
        ids = self._model.encode(first)
        for part in rest:  # sentencepiece would give a typed U+2581 back as a space
            ids += self._space_ids
            ids += self._model.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`: the exact inverse of `encode`.

        Any sequence of text ids is a text: bytes that are not UTF-8 become U+FFFD. Raises ValueError for an
        id out of range and for a structural id.
        """
        pieces = []
        for i in ids:
            piece = self._pieces[i] if 0 <= i < self.vocab_size else None
            if piece is None:
                kind = "structural" if i in self.structural_ids else f"outside 0..{self.vocab_size - 1}"
                raise ValueError(f"text id {int(i)} is {kind}: it stands for no text")
            pieces.append(piece)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def id_to_piece(self, i: int) -> str:
        """The piece of id `i` as sentencepiece writes it: U+2581 for a space, `<0x0A>` for a byte."""
        if not 0 <= i < self.vocab_size:
            raise ValueError(f"text id {i} is outside 0..{self.vocab_size - 1}")
        return self._model.id_to_piece(i)

    def score(self, i: int) -> float:
        """What the piece of id `i` is worth: of the merges that a text allows, the highest comes first."""
        return self._model.get_score(i)

    def piece_bytes(self, i: int) -> bytes:
        """What id `i` adds to the text, as UTF-8; b"" for a structural id."""
        return self._pieces[i] or b""

    def save(self, folder: str | Path) -> None:
        """Write `folder`/text.model, an ordinary sentencepiece model."""
        write_bytes(Path(folder) / FILE, self.model_proto)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read `folder`/text.model. Raises FileNotFoundError or ValueError, naming the file."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: a text tokenizer's model belongs there")
        try:
            return cls(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _piece_bytes(self, i: int) -> bytes | None:
        """What id `i` adds to the text, as UTF-8; None for a structural id."""
        if i in self.structural_ids:
            return None
        piece = self._model.id_to_piece(i)
        if self._model.is_byte(i):
            return bytes([int(piece[1:-1], 16)])  # <0x0A>
        return piece.replace(SPACE, " ").encode()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """`texts` in pieces that sentencepiece's training does not skip."""
    for number, text in enumerate(texts):
        try:
            check_unicode(text)
        except ValueError as error:
            raise ValueError(f"training text {number}: {error}") from None
        for part in _BOUNDARY.split(text):
            yield from _CHUNK.findall(part)


def check_unicode(text: str) -> None:
    """Raises ValueError for a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"lone surrogate U+{ord(text[error.start]):04X} at position {error.start}: not Unicode text"
        ) from None
