"""Text <-> ids: a BPE of Hugging Face's ``tokenizers`` (a ``tokenizer.json``), such as Chameleon's.

The interface is that of ``text.TextTokenizer``. Text is data here, too: a typed ``<s>`` or ``<image>`` is
spelled in letters, not read as a special token. Needs the extra ``chameleon``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ..storage.files import read_json, write_text
from .text import SPACE, TextTokenizer, check_unicode

FILE = "tokenizer.json"
LARGEST = 2**26
"""Most bytes of the file; those of 262,144 pieces have 33 MB."""
MISSING = "reading a tokenizer.json needs the package `tokenizers`: pip install 'earlyfusion[chameleon]'"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
NOT_TEXT = ("IMGIMG", "<reserved")
"""How the names of Chameleon's image codes and spare tokens begin; its BPE's vocabulary contains them."""


class BpeTokenizer:
    """A trained BPE; ``vocab_size`` and ``structural_ids`` as in ``text.TextTokenizer``."""

    def __init__(self, value: dict[str, Any]) -> None:
        """
        Args:
            value: The content of a tokenizer.json.

        Raises:
            ValueError: It is not a BPE, or it is damaged.
            ImportError: ``tokenizers`` is not installed.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(MISSING) from error
        self.value = value
        try:
            vocab: dict[str, int] = value["model"]["vocab"]
            if value["model"].get("type", "BPE") != "BPE":
                raise ValueError(f"the type is {value['model']['type']}, expected BPE")
            added = {token["content"]: int(token["id"]) for token in value.get("added_tokens") or ()}
            # Added tokens would be recognized inside text; a post-processor would add bos.
            plain = {**value, "added_tokens": [], "post_processor": None, "padding": None, "truncation": None}
            self._model: Tokenizer = Tokenizer.from_str(json.dumps(plain))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the tokenizer.json of a BPE: {error!r}") from None
        except Exception as error:  # `tokenizers` raises bare Exceptions
            raise ValueError(f"not the tokenizer.json of a BPE: {error}") from None
        names = {**vocab, **added}
        self.ids = names
        """Name -> id, special tokens included."""
        self.vocab_size = max(names.values()) + 1
        text = {i for name, i in vocab.items() if name not in added and not name.startswith(NOT_TEXT)} - {
            vocab.get(value["model"].get("unk_token"), -1)
        }
        self.structural_ids = tuple(i for i in range(self.vocab_size) if i not in text)
        self._structural = frozenset(self.structural_ids)
        self._names = {i: name for name, i in names.items()}
        self._byte_level = _has_byte_level(value.get("decoder"))

    def encode(self, text: str) -> list[int]:
        """Text -> ids.

        Raises:
            ValueError: The text contains a lone surrogate, or a character that the BPE does not know.
        """
        check_unicode(text)
        encoded = self._model.encode(text, add_special_tokens=False)
        for i, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            if i in self._structural:
                raise ValueError(
                    f"{text[start:end]!r} at position {start} is unknown to this BPE: remove or replace it"
                )
        return encoded.ids

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: An id is out of range or structural.
        """
        for i in ids:
            if i in self._structural or not 0 <= i < self.vocab_size:
                kind = "structural" if i in self._structural else f"outside 0..{self.vocab_size - 1}"
                raise ValueError(f"text id {int(i)} is {kind}: it has no text")
        return self._model.decode(list(ids), skip_special_tokens=False)

    def id_to_piece(self, i: int) -> str:
        """The piece of id ``i`` as the tokenizer.json spells it.

        Raises:
            ValueError: The tokenizer.json does not have that id.
        """
        if i not in self._names:
            raise ValueError(f"text id {i} has no piece: it is unused or outside 0..{self.vocab_size - 1}")
        return self._names[i]

    def piece_bytes(self, i: int) -> bytes:
        """The text of id ``i`` in UTF-8."""
        piece = self.id_to_piece(i)
        if self._byte_level:
            return bytes(_BYTES[character] for character in piece)
        return bytes([int(piece[1:-1], 16)]) if _BYTE.fullmatch(piece) else piece.replace(SPACE, " ").encode()

    def save(self, folder: str | Path) -> None:
        """Write ``folder``/tokenizer.json."""
        write_text(Path(folder) / FILE, json.dumps(self.value, ensure_ascii=False))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read ``folder``/tokenizer.json.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: The file is damaged; the message names it.
        """
        path = Path(folder) / FILE
        value = read_json(path, "a tokenizer.json", LARGEST)
        try:
            return cls(value)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def load_text(folder: str | Path) -> TextTokenizer | BpeTokenizer:
    """Load the text tokenizer in ``folder``, of either kind.

    Raises:
        FileNotFoundError: The folder has neither tokenizer.json nor text.model.
        ValueError: The file is damaged.
    """
    return (BpeTokenizer if (Path(folder) / FILE).is_file() else TextTokenizer).load(folder)


def _has_byte_level(decoder: Any) -> bool:
    if not isinstance(decoder, dict):
        return False
    return decoder.get("type") == "ByteLevel" or any(map(_has_byte_level, decoder.get("decoders") or ()))


def _byte_letters() -> dict[str, int]:
    """The letter that a byte-level BPE writes -> its byte (GPT-2's table)."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {chr(byte): byte for byte in seen}
    others = (byte for byte in range(256) if byte not in seen)
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_letters()


def bpe_of(text: TextTokenizer, token_of: Mapping[int, int]) -> dict[str, Any]:
    """Convert a sentencepiece BPE to the content of a tokenizer.json with the same pieces.

    The pieces contain literal spaces, so no normalizer is needed, and a typed U+2581 is spelled in bytes, as
    in ``TextTokenizer``. Merges are ordered by the sentencepiece score of their result.

    Args:
        text: The tokenizer to convert.
        token_of: Text id -> its id in the tokenizer.json.
    """
    pieces: dict[str, int] = {}
    ranked: list[tuple[float, str]] = []
    for i, token in token_of.items():
        piece = text.id_to_piece(i)
        if _BYTE.fullmatch(piece):
            pieces[piece] = token
            continue
        piece = piece.replace(SPACE, " ")
        pieces[piece] = token
        ranked.append((text.score(i), piece))
    merges = [
        [piece[:cut], piece[cut:]]
        for _, piece in sorted(ranked, key=lambda pair: -pair[0])
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": pieces,
        "merges": merges,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": model,
    }
