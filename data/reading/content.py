"""What a column looks like, by its name and its values. Imports nothing heavy."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any

PICTURES = tuple("jpg jpeg jpe jfif png webp gif bmp tif tiff avif heic jp2 ppm".split())
SOUNDS = tuple("wav mp3 flac ogg opus m4a aac".split())
VIDEOS = tuple("mp4 avi mov mkv webm".split())
"""Endings of files, which webdataset makes names of columns."""

CONTENT: dict[str, str] = {
    "conversations": "message messages conversation conversations chosen rejected dialog dialogue chat",
    "text": "text texts txt caption captions prompt prompts completion completions question questions answer "
    "answers instruction instructions input inputs output outputs response responses content contents body "
    "html markdown title description descriptions alt system summary abstract transcript transcription "
    "history sentence sentences paragraph paragraphs passage context",
    "images": f"image images img imgs picture pictures photo photos {' '.join(PICTURES)}",
    "audio": f"audio audios sound sounds speech {' '.join(SOUNDS)}",
    "video": f"video videos {' '.join(VIDEOS)}",
}
WORDS = {word: kind for kind, words in CONTENT.items() for word in words.split()}
"""Word in the name of a column -> what such a column holds."""
NO_CONTENT = frozenset(
    "id ids idx index key url urls uri hash sha md5 phash width height size sizes shape status score scores "
    "similarity punsafe pwatermark exif error lang language languages license licence date time timestamp "
    "objects bbox bboxes boxes count counts num n length len tokens offset type format embedding embeddings "
    "has is".split()
)
"""Words in a name that say that it is not content."""


def kind_of(name: str, values: Sequence[Any]) -> str | None:
    """What a column, or a field, looks like by its name and some of its values: a key of ``CONTENT``."""
    words = words_of(name)
    if words & NO_CONTENT:
        return None
    for word in sorted(words):
        if word in WORDS:
            return WORDS[word]
    if any(_is_conversation(value) for value in values):
        return "conversations"
    texts = leaves = 0
    for leaf in islice((leaf for value in values for leaf in _leaves(value)), 2000):
        if kind := media(leaf):
            return kind
        if isinstance(leaf, str) and leaf:
            leaves += 1
            texts += _is_prose(leaf)
    return "text" if 2 * texts > leaves else None


def media(value: str | bytes) -> str | None:
    """Whether a value is, or names, images, audio or video."""
    if isinstance(value, bytes):
        return sniff(value)
    if value[:5].lower() == "data:":
        kind = value[5:].partition("/")[0]
        return "images" if kind == "image" else kind if kind in ("audio", "video") else None
    if len(value) < 300 and not value.lower().startswith(("http://", "https://")):
        ending = value.rpartition(".")[2].lower() if "." in value else ""
        for kind, endings in (("images", PICTURES), ("audio", SOUNDS), ("video", VIDEOS)):
            if ending in endings:
                return kind
    return sniff(base64_start(value))


def sniff(data: bytes) -> str | None:
    """Whether the first bytes of a file are those of images, audio or video."""
    if data[:4] == b"RIFF":
        return {b"WEBP": "images", b"WAVE": "audio", b"AVI ": "video"}.get(data[8:12])
    if data[4:8] == b"ftyp":
        brand = data[8:11]
        return "images" if brand in (b"avi", b"hei", b"mif") else "audio" if brand == b"M4A" else "video"
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\1\0")):
        return "images"
    if data.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")) or (
        data[:2] == b"BM" and not any(data[6:10])
    ):
        return "images" if len(data) > 10 else None
    return "audio" if data.startswith((b"ID3", b"fLaC", b"OggS")) else None


def base64_start(value: str) -> bytes:
    """The first bytes of what may be base64; none if it is not."""
    try:
        start = value[:64].replace("-", "+").replace("_", "/")
        return base64.b64decode(start, validate=True) if len(value) >= 64 else b""
    except (binascii.Error, ValueError):
        return b""


def words_of(name: str) -> set[str]:
    """The words in the name of a column, in lower case, and without digits at their ends."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return {form for word in words if word for form in (word, word.rstrip("0123456789"))}


def _leaves(value: Any) -> Iterator[str | bytes]:
    if isinstance(value, str | bytes):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        if value and isinstance(value[0], int | float | Decimal):
            if all(type(number) is int and 0 <= number < 256 for number in value[:16]):
                yield bytes(value[:16])
        else:
            for part in value:
                yield from _leaves(part)


def _is_conversation(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    keys = set(first) if isinstance(first, Mapping) else set()
    return keys >= {"role", "content"} or keys >= {"from", "value"}


def _is_prose(text: str) -> bool:
    """Whether a text has at least four words, or as much in a script without spaces."""
    words = sum(any(letter.isalpha() for letter in word) for word in text[:1000].split())
    return words >= 4 or len(re.findall(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]", text[:1000])) >= 8
