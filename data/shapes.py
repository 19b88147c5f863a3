"""Which columns of a data set are read, and as what. Imports nothing heavy: help is quick.

Columns with the names of ``ALIASES`` are read, in the first shape of ``_VARIANTS`` that they fill; the option
``columns`` says what the names do not. Whatever else looks like content must be named or ignored.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

PICTURES = tuple("jpg jpeg jpe jfif png webp gif bmp tif tiff avif heic jp2 ppm".split())
SOUNDS = tuple("wav mp3 flac ogg opus m4a aac".split())
VIDEOS = tuple("mp4 avi mov mkv webm".split())
"""Endings of files, which webdataset makes names of columns."""

ALIASES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt", "question", "instruction"),
    "completion": ("completion", "answer", "output", "response"),
    "system": ("system",),
    "input": ("input",),
    "text_list": ("text_list",),
    "image_info": ("image_info",),
    "images": ("images",),
    "texts": ("texts", "captions"),
    "image": ("image", "img", *PICTURES),
    "text": ("text", "caption", "txt"),
}
"""Our name of a column -> names that data sets give it. Those of ``PICTURES`` together are one column."""

COLUMNS = tuple(ALIASES)
"""All columns that are read, by our names."""

_VARIANTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("conversations", ("messages",), ("system", "image")),
    ("conversations", ("prompt", "completion"), ("system", "input", "image")),
    ("placed", ("text_list", "image_info"), ()),
    ("parallel", ("images", "texts"), ()),
    ("pairs", ("image", "text"), ()),
    ("texts", ("text",), ()),
    ("images", ("image",), ()),
)
"""Shape, the columns that it needs, and those that it may have. The first whose columns are there is taken.
But for ``parallel``, images serves as image and texts as text."""

SHAPES = tuple(dict.fromkeys(shape for shape, _, _ in _VARIANTS))
"""``conversations`` are learned by their answers, ``placed`` is MMC4's, ``parallel`` OBELICS'."""

SIDECAR = "json"
"""The column whose fields count as columns, as json.caption: the .json file beside a picture."""

_CONTENT: dict[str, str] = {
    "conversations": "message messages conversation conversations chosen rejected dialog dialogue chat",
    "text": "text texts txt caption captions prompt prompts completion completions question questions answer "
    "answers instruction instructions input inputs output outputs response responses content contents body "
    "html markdown title description descriptions alt system summary abstract transcript transcription "
    "history sentence sentences paragraph paragraphs passage context",
    "images": f"image images img imgs picture pictures photo photos {' '.join(PICTURES)}",
    "audio": f"audio audios sound sounds speech {' '.join(SOUNDS)}",
    "video": f"video videos {' '.join(VIDEOS)}",
}
_WORDS = {word: kind for kind, words in _CONTENT.items() for word in words.split()}
"""Word in the name of a column -> what such a column holds."""
_NO_CONTENT = frozenset(
    "id ids idx index key url urls uri hash sha md5 phash width height size sizes shape status score scores "
    "similarity punsafe pwatermark exif error lang language languages license licence date time timestamp "
    "objects bbox bboxes boxes count counts num n length len tokens offset type format embedding embeddings "
    "has is".split()
)
"""Words in a name that say that it is not content."""
_FILE_ONLY = frozenset({"file", "name", "filename", "path", "filepath"})
_FILE = _FILE_ONLY | {"image", "img"}
_NAMED_AS = {"conversations": "messages", "text": "text", "images": "image"}

Theirs = str | tuple[str, ...]
"""A column of the data set; a field of one, as json.caption; or several, of which each row fills some."""


class Plan(NamedTuple):
    """What is read of a data set."""

    shape: str
    """One of ``SHAPES``."""
    columns: dict[str, Theirs]
    """Our name -> the data set's, of all columns that are read."""

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The cells of a row that are read, under our names; None where there is none."""
        return {ours: _cell(row, theirs) for ours, theirs in self.columns.items()}

    @property
    def read(self) -> tuple[str, ...]:
        """The data set's columns that are read, and fields of columns."""
        return tuple(name for theirs in self.columns.values() for name in _several(theirs))


def plan_of(
    columns: Sequence[str],
    examples: Sequence[Mapping[str, Any]],
    source: str,
    *,
    named: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    used: Sequence[str] = (),
) -> Plan:
    """Choose the columns to read.

    Args:
        columns: All columns of the data set.
        examples: Some of its rows.
        source: What messages call the data set.
        named: The option ``columns``: our name -> the data set's.
        ignore: Columns that are not to be read.
        used: Columns that serve another purpose, such as the id.

    Raises:
        ValueError: A named column is missing, there is nothing to read, or a column that looks like content
            is neither read nor ignored.
    """
    fields = [f"{SIDECAR}.{field}" for field in _fields(SIDECAR, examples)] if SIDECAR in columns else []
    fields = [name for name in fields if name not in columns]
    known = [name for name in columns if name != SIDECAR or not fields] + fields
    found: dict[str, Theirs] = {
        ours: _named(ours, theirs, columns, examples, source) for ours, theirs in (named or {}).items()
    }
    taken = {*ignore, *used, *found.values()}
    free = [name for name in known if name not in taken and not (SIDECAR in ignore and name in fields)]
    for ours, aliases in ALIASES.items():
        names = [name for name in free if _bare(name) in aliases and name not in found.values()]
        if ours not in found and names:
            found[ours] = min(names, key=lambda name: (name in fields, aliases.index(_bare(name))))
    if str(found.get("image")).lower() in PICTURES:
        found["image"] = tuple(
            name for name in columns if name.lower() in PICTURES and name not in {*ignore, *used}
        )
    have = {one: found[many] for one, many in (("image", "images"), ("text", "texts")) if many in found}
    have |= found
    for shape, needed, also in _VARIANTS:
        chosen = {ours: have[ours] for ours in (*needed, *also) if ours in have}
        if set(needed) <= set(chosen) and all(found[ours] in chosen.values() for ours in named or {}):
            plan = Plan(shape, chosen)
            break
    else:
        raise ValueError(f"{source}: {_nothing(columns, named or {}, _unread(free, fields, {}, examples))}")
    if rest := _unread(free, fields, plan.columns, examples):
        raise ValueError(f"{source}: {_remedy(rest, plan)}")
    return plan


def unused(columns: Sequence[str], plan: Plan, ignore: Sequence[str] = ()) -> list[str]:
    """The columns that are neither read nor ignored."""
    read = {*plan.read, *(name.partition(".")[0] for name in plan.read if name not in columns)}
    return [name for name in columns if name not in read and name not in ignore]


def kind_of(name: str, values: Sequence[Any]) -> str | None:
    """What a column, or a field, looks like by its name and some of its values: a key of ``_CONTENT``."""
    words = _words(name)
    if words & _NO_CONTENT:
        return None
    for word in sorted(words):
        if word in _WORDS:
            return _WORDS[word]
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


def parsed(value: str | bytes) -> Any:
    """JSON with the numbers as they are written. Raises ValueError if it is not JSON."""
    try:
        return json.loads(value, parse_float=Decimal)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _named(
    ours: str, theirs: str, columns: Sequence[str], examples: Sequence[Mapping[str, Any]], source: str
) -> str:
    """The column that the user named."""
    name, _, _ = theirs.partition(".")
    if theirs not in columns:
        same = [
            column for column in columns if column.lower() == theirs.lower() and theirs.lower() in PICTURES
        ]
        family = [column for column in columns if column.lower() in PICTURES and theirs.lower() in PICTURES]
        if same or family:
            return (same or family)[0]
        if name not in columns or "." not in theirs:
            raise ValueError(f"{source} has no column {theirs!r} (for {ours}), only {', '.join(columns)}")
    elif ours in ("text", "prompt", "completion", "messages") and (fields := _fields(theirs, examples)):
        inner = [field for field in fields if field.lower() in ALIASES[ours]]
        if len(inner) == 1:
            return f"{theirs}.{inner[0]}"
        if theirs == SIDECAR or ours != "messages":
            raise ValueError(
                f"{source}: the column {theirs} holds objects: name one of its fields, as "
                f"columns: {{{ours}: {theirs}.{(inner or fields)[0]}}} (it has {', '.join(fields)})"
            )
    return theirs


def _fields(name: str, examples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields of a column of objects."""
    return list(dict.fromkeys(str(field) for row in examples for field in _object(row.get(name))))


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str | bytes) and value.strip()[:1] in ("{", b"{"):
        try:
            value = parsed(value)
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}


def _several(theirs: Theirs) -> tuple[str, ...]:
    return (theirs,) if isinstance(theirs, str) else theirs


def _cell(row: Mapping[str, Any], theirs: Theirs) -> Any:
    if isinstance(theirs, tuple):
        values = [value for name in theirs if (value := _cell(row, name)) is not None]
        return values[0] if len(values) == 1 else values or None
    if theirs in row or "." not in theirs:
        return row.get(theirs)
    name, _, field = theirs.partition(".")
    return _object(row.get(name)).get(field)


def _bare(name: str) -> str:
    return name.lower().removeprefix(f"{SIDECAR}.")


def _words(name: str) -> set[str]:
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return {form for word in words if word for form in (word, word.rstrip("0123456789"))}


def _unread(
    names: Sequence[str],
    fields: Sequence[str],
    columns: Mapping[str, Theirs],
    examples: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    """What those columns look like that are not read, but for those that say nothing new."""
    read = {name for theirs in columns.values() for name in _several(theirs)}
    cells = [{str(_cell(row, name)) for name in read} for row in examples]
    pictured = any(name in columns for name in ("image", "images", "image_info"))
    found = {}
    for name in names:
        values = [_cell(row, name) for row in examples]
        words = _words(_bare(name))
        if name in read or (pictured and words <= _FILE and (words & _FILE_ONLY or name in fields)):
            continue  # _FILE: the name of the picture's own file
        if name in fields and all(value is None or str(value) in seen for value, seen in zip(values, cells)):
            continue  # img2dataset writes the caption twice
        kind = kind_of(_bare(name), [value for value in values if value is not None])
        if not pictured and words & {"url", "urls"} and any(_WORDS.get(word) == "images" for word in words):
            kind = "images"  # an address in place of the picture
        if kind:
            found[name] = kind
    return found


def _nothing(columns: Sequence[str], named: Mapping[str, str], content: Mapping[str, str]) -> str:
    """Says that no shape fits."""
    if named:
        what = (
            f"no shape has {_list(list(named))} (the shapes: {_list([' + '.join(v[1]) for v in _VARIANTS])})"
        )
    else:
        what = f"it has no columns of images or texts, only {', '.join(columns)}"
    known = {_NAMED_AS[kind]: name for name, kind in reversed(content.items()) if kind in _NAMED_AS}
    example = ", ".join(f"{ours}: {theirs}" for ours, theirs in known.items())
    return (
        f"{what}: name those to read with `columns`, which maps {', '.join(COLUMNS)} to the names in the "
        f"data set{f' (columns: {{{example}}})' if example else ''}"
    )


def _remedy(rest: Mapping[str, str], plan: Plan) -> str:
    """What to do with columns that look like content and are not read."""
    names, kinds = list(rest), list(dict.fromkeys(rest.values()))
    one = len(names) == 1
    message = (
        f"the column{'' if one else 's'} {_list(names)} look{'s' if one else ''} like {_list(kinds)} but "
        f"{'is' if one else 'are'} not used (read: {_list(plan.read)}): "
    )
    nameable = [(_NAMED_AS[kind], name) for name, kind in rest.items() if kind in _NAMED_AS]
    if nameable:
        ours, theirs = nameable[0]
        instead = plan.columns.get(ours) or plan.columns.get(f"{ours}s")
        also = f" with ignore: [{', '.join(_several(instead))}]" if instead else ""
        message += f"name {'it' if one else 'them'} in columns (columns: {{{ours}: {theirs}}}{also}), or "
    return f"{message}leave {'it' if one else 'them'} out (ignore: [{', '.join(names)}])"


def _list(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _leaves(value: Any) -> Iterator[str | bytes]:
    if isinstance(value, str | bytes):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        if value and all(type(number) is int and 0 <= number < 256 for number in value[:16]):
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
