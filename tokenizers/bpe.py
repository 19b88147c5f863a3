"""Text <-> ids by a BPE of Hugging Face's ``tokenizers`` (a ``tokenizer.json``), such as Chameleon's.

It stands behind the interface of :class:`..text.TextTokenizer`, and text is data here too: what reads like a
special token (``<s>``, ``<image>``) is spelled in letters. Needs the extra ``chameleon``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from .files import read_json, write_text
from .text import SPACE, TextTokenizer, check_unicode

FILE = "tokenizer.json"
MISSING = "a tokenizer.json is read by the package `tokenizers`: pip install 'earlyfusion[chameleon]'"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
NOT_TEXT = ("IMGIMG", "<reserved")
"""How the names of Chameleon's image codes and spare tokens begin; they stand in its BPE's vocabulary."""


class BpeTokenizer:
    """A trained BPE; ``vocab_size`` and ``structural_ids`` as in :class:`..text.TextTokenizer`."""

    def __init__(self, value: dict[str, Any]) -> None:
        """``value`` is the content of a tokenizer.json.

        :raises ValueError: it is no BPE, or a damaged one.  :raises ImportError: ``tokenizers`` is missing.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(MISSING) from error
        self.value = value
        try:
            vocab: dict[str, int] = value["model"]["vocab"]
            if value["model"].get("type", "BPE") != "BPE":
                raise ValueError(f"it is a {value['model']['type']}, expected a BPE")
            added = {token["content"]: int(token["id"]) for token in value.get("added_tokens") or ()}
            # Without added tokens nothing but letters is recognised; a post-processor would add bos.
            plain = {**value, "added_tokens": [], "post_processor": None, "padding": None, "truncation": None}
            self._model: Tokenizer = Tokenizer.from_str(json.dumps(plain))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no tokenizer.json of a BPE: {error!r}") from None
        except Exception as error:  # `tokenizers` raises bare Exceptions
            raise ValueError(f"no tokenizer.json of a BPE: {error}") from None
        names = {**vocab, **added}
        self.ids = names
        """Every name, special tokens too -> its id."""
        self.vocab_size = max(names.values()) + 1
        text = {i for name, i in vocab.items() if name not in added and not name.startswith(NOT_TEXT)} - {
            vocab.get(value["model"].get("unk_token"), -1)
        }
        self.structural_ids = tuple(i for i in range(self.vocab_size) if i not in text)
        self._structural = frozenset(self.structural_ids)
        self._names = {i: name for name, i in names.items()}
        self._byte_level = _has_byte_level(value.get("decoder"))

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``.

        :raises ValueError: a lone surrogate, or a character that the BPE does not know.
        """
        check_unicode(text)
        encoded = self._model.encode(text, add_special_tokens=False)
        for i, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            if i in self._structural:
                raise ValueError(f"{text[start:end]!r} at position {start} has no place in this BPE")
        return encoded.ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD.

        :raises ValueError: an id out of range, or a structural one.
        """
        for i in ids:
            if i in self._structural or not 0 <= i < self.vocab_size:
                kind = "structural" if i in self._structural else f"outside 0..{self.vocab_size - 1}"
                raise ValueError(f"text id {int(i)} is {kind}: it stands for no text")
        return self._model.decode(list(ids), skip_special_tokens=False)

    def id_to_piece(self, i: int) -> str:
        """The piece of id ``i`` as the tokenizer.json spells it."""
        if i not in self._names:
            raise ValueError(f"text id {i} has no piece")
        return self._names[i]

    def piece_bytes(self, i: int) -> bytes:
        """What id ``i`` adds to the text, as UTF-8."""
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

        :raises FileNotFoundError: it is missing.  :raises ValueError: it is damaged; the file is named.
        """
        path = Path(folder) / FILE
        value = read_json(path, "a tokenizer.json")
        try:
            return cls(value)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def load_text(folder: str | Path) -> TextTokenizer | BpeTokenizer:
    """The text tokenizer in a folder, of either kind.

    :raises FileNotFoundError: there is none.  :raises ValueError: it is damaged.
    """
    return (BpeTokenizer if (Path(folder) / FILE).is_file() else TextTokenizer).load(folder)


def _has_byte_level(decoder: Any) -> bool:
    if not isinstance(decoder, dict):
        return False
    return decoder.get("type") == "ByteLevel" or any(map(_has_byte_level, decoder.get("decoders") or ()))


def _byte_letters() -> dict[str, int]:
    """The letter that a byte-level BPE writes for each byte: itself where it can be seen (GPT-2's table)."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {chr(byte): byte for byte in seen}
    others = (byte for byte in range(256) if byte not in seen)
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_letters()


def bpe_of(text: TextTokenizer, token_of: Mapping[int, int]) -> dict[str, Any]:
    """A sentencepiece BPE as the content of a tokenizer.json that gives the same pieces.

    Spaces stand as themselves in its pieces, so that nothing has to be put for them, and a typed U+2581 is
    spelled in bytes, as ``TextTokenizer`` does. A merge is worth what its result is worth in sentencepiece.

    :param token_of: text id -> the id that it is to have.
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
