"""Which columns of a data set are read, and as what. Imports nothing heavy: help is quick.

Columns with the names of ``ALIASES`` are read, in the first shape of ``_VARIANTS`` that they fill; the option
``columns`` says what the names do not. Whatever else looks like content must be named or ignored.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from .content import PICTURES, WORDS, kind_of, words_of

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
        """The cells of a row that are read, under our names; None if absent."""
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
        family = [column for column in columns if column.lower() in PICTURES]
        if family and theirs.lower() in PICTURES:
            return family[0]
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


def _unread(
    names: Sequence[str],
    fields: Sequence[str],
    columns: Mapping[str, Theirs],
    examples: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    """What those columns look like that are not read, but for those that say nothing new."""
    read = {name for theirs in columns.values() for name in _several(theirs)}
    cells = [{text.strip() for name in read if isinstance(text := _cell(row, name), str)} for row in examples]
    pictured = any(name in columns for name in ("image", "images", "image_info"))
    found = {}
    for name in names:
        values = [_cell(row, name) for row in examples]
        words = words_of(_bare(name))
        if name in read or (pictured and words <= _FILE and (words & _FILE_ONLY or name in fields)):
            continue  # _FILE: the name of the picture's own file
        if name in fields and all(v is None or str(v).strip() in seen for v, seen in zip(values, cells)):
            continue  # img2dataset writes the caption twice
        kind = kind_of(_bare(name), [value for value in values if value is not None])
        if not pictured and words & {"url", "urls"} and any(WORDS.get(word) == "images" for word in words):
            kind = "images"  # an address in place of the picture
        if kind:
            found[name] = kind
    return found


def _nothing(columns: Sequence[str], named: Mapping[str, str], content: Mapping[str, str]) -> str:
    """Says that no shape fits."""
    if named:
        shapes = _list([" + ".join(needed) for _, needed, _ in _VARIANTS])
        what = f"no shape has {_list(list(named))} (the shapes: {shapes})"
    else:
        what = f"it has no columns of images or texts, only {', '.join(columns)}"
    known = {_NAMED_AS[kind]: name for name, kind in list(content.items())[::-1] if kind in _NAMED_AS}
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
