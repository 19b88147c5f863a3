"""What a model's folder says about showing it: what it knows, good settings, examples (``showcase.json``).

Every field is optional, and so is the file. ``showcase.webp``, if it is there, has a thumbnail of each thing,
in their order, from left to right and from top to bottom.
"""

import base64
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from ..eval.report.showcase import FILE, THUMBNAILS
from ..storage.fields import LONGEST, check_value
from ..storage.files import read_json

PICTURES = Path(__file__).parent / "examples"
"""The pictures that examples may name."""
Settings = dict[str, Any]
"""Arguments of ``settings.ask_of``."""
LARGEST = 2**22
"""Bytes of each of the two files; the page holds both."""
BOUNDS = {
    "guidance": (1, 100),
    "most_guidance": (1, 100),
    "views": (1, 8),
    "words": (1, 512),
    "drawings": (1, 512),
}
EXAMPLES, SEGMENTS = 16, 16
"""Most examples, and segments in the prompt of one."""
WAYS = 16
"""Most ways to fit a word, and a drawing; the model reads each."""
FITS = {"words": 4, "drawings": 2}
"""Numbers of a way, see ``fit.fits``."""
Segments = list[dict[str, str]]

NOTHING = [{"label": "start from nothing", "prompt": [], "settings": {}}]
PRESETS = {
    "likeliest": {"temperature": 0, "image_temperature": 0},
    "balanced": {"temperature": 0.7, "image_temperature": 0.7},
    "bold": {"temperature": 1, "image_temperature": 1},
}
_LEAD = re.compile(r"(an?|the|some|my)\s+", re.IGNORECASE)
NAME = 40
"""Maximum length of a prompt that is taken for a name."""


class Example(NamedTuple):
    """A prompt with settings that suit it."""

    label: str
    prompt: Segments
    settings: Settings


class Hint(NamedTuple):
    """A word about a prompt, and known things to try instead."""

    text: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Showcase:
    """The fields of ``showcase.json``."""

    about: str = ""
    """A sentence on what the model is and knows."""
    good_at: str = ""
    """Pictures that it can read."""
    things: Mapping[str, str] = field(default_factory=dict)
    """Names of what it can draw -> prompts."""
    never_seen: tuple[str, ...] = ()
    """Names that were kept from it."""
    draw: Settings = field(default_factory=dict)
    """Settings that suit the prompts of ``things``."""
    presets: Mapping[str, Settings] = field(default_factory=lambda: PRESETS)
    preset: str = "balanced"
    """The preset that the page begins with."""
    guidance: float = 1.0
    """What suits it."""
    most_guidance: float = 3.0
    views: int = 1
    """Views in which it reads a picture (see ``eval.tasks.reading``)."""
    fits: Mapping[str, Any] = field(default_factory=dict)
    """Where it is used to ink, see ``fit.fits``."""
    both: bool = False
    """It was trained on documents in both orders, so that tries can be ranked both ways."""
    turns: bool | None = None
    """It was trained on conversations; None: if its vocabulary can."""
    examples: tuple[Example, ...] = tuple(Example(**one) for one in NOTHING)
    thumbnails: str = ""
    """The address of ``showcase.webp``."""

    def hint(self, text: str) -> Hint | None:
        """Help with a prompt that looks like the name of one thing."""
        text = text.strip()
        name = _LEAD.sub("", text, count=1).rstrip(":. ").lower()
        if not self.things or not 0 < len(name) <= NAME:
            return None
        known = {thing.lower(): thing for thing in self.things}
        asked = text.endswith(":") or _LEAD.match(text) is not None
        if name in known:
            prompt = self.things[known[name]]
            if asked:
                return None
            return Hint(f"“{prompt}” draws it; a bare word is written in type.", (known[name],))
        if not asked and name not in self.never_seen:
            return None
        if all(_LEAD.sub("", part, count=1) in known for part in name.split(" and ")):
            return None  # several things, all known
        why = (
            "was kept out of its training"
            if name in self.never_seen
            else f"is not one of its {len(known)} names"
        )
        return Hint(f"“{name}” {why}. Nearest:", tuple(known[near] for near in _nearest(name, known)))


def _nearest(name: str, known: Mapping[str, str], most: int = 3) -> list[str]:
    """Known names that share a word with ``name``, then those spelled alike."""
    words = set(name.split())
    sharing = sorted((k for k in known if words & set(k.split())), key=lambda k: (len(k.split()), k))
    alike = difflib.get_close_matches(name, known, n=most, cutoff=0.0)
    return list(dict.fromkeys([*sharing, *alike]))[:most]


def showcase_of(folder: str | Path) -> Showcase:
    """What a model's folder says.

    Raises:
        ValueError: The file is damaged, or has an unknown field.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return Showcase()
    try:
        values = read_json(file, "what a model shows", LARGEST)
        known = {one.name for one in fields(Showcase)} - {"thumbnails"}
        if unknown := [name for name in values if name not in known]:
            raise ValueError(f"unknown field {unknown[0]!r}, expected any of: {', '.join(sorted(known))}")
        _check(values)
        if "examples" in values:
            values["examples"] = tuple(_examples(values["examples"]))
        if "never_seen" in values:
            values["never_seen"] = tuple(values["never_seen"])
        picture = file.with_name(THUMBNAILS)
        shown = picture.is_file() and picture.stat().st_size <= LARGEST
        return Showcase(**values, thumbnails=uri(picture) if shown else "")
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ValueError(f"{file}: {error}") from None


def _check(values: Mapping[str, Any]) -> None:
    """Check the types and the bounds of all fields: the file may be a stranger's."""
    kinds = {"about": str, "good_at": str, "preset": str, "both": bool, "turns": bool | None}
    kinds |= {"guidance": float, "most_guidance": float, "views": int}
    for name, kind in kinds.items():
        if name in values:
            check_value(name, values[name], kind, BOUNDS)
    _items("never_seen", values.get("never_seen", []))
    for name in ("things", "draw", "presets", "fits"):
        if not isinstance(values.get(name, {}), dict):
            raise ValueError(f"{name} is a {type(values[name]).__name__}, expected an object")
    for name in (*_items("things", list(values.get("things", {}).values())), *values.get("never_seen", [])):
        check_value("a name, or its prompt,", name, str, {})
    presets = values.get("presets", PRESETS)
    if values.get("preset", "balanced") not in presets:
        raise ValueError(
            f"preset is {values.get('preset', 'balanced')!r}, expected one of {', '.join(presets)}"
        )
    for kind, ways in values.get("fits", {}).items():
        if kind not in FITS:
            raise ValueError(f"fits has {kind!r}, expected {' and '.join(FITS)}")
        for way in _items(f"fits.{kind}", ways, WAYS):
            if len(_items(f"a way of fits.{kind}", way)) != FITS[kind]:
                raise ValueError(f"a way of fits.{kind} is {way}, expected {FITS[kind]} numbers")
            for number in way:
                check_value(kind, number, int, BOUNDS)


def _items(name: str, value: Any, most: int = LONGEST) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"{name} is not a list of at most {most:,} items")
    return value


def _examples(values: list[dict[str, Any]]) -> Iterator[Example]:
    for value in _items("examples", values, EXAMPLES):
        check_value("label", value["label"], str, {})
        prompt = []
        for segment in _items("prompt", value["prompt"], SEGMENTS):
            check_value("a segment", segment.get("picture") or segment.get("text"), str, {})
            if name := segment.get("picture"):
                prompt.append({"image": uri(PICTURES / Path(name).name)})
            else:
                prompt.append({"text": segment["text"]})
        yield Example(value["label"], prompt, value.get("settings", {}))


def scans() -> list[Example]:
    """Pictures to reconstruct."""
    names = {"typewriting": "page.png", "a drawing": "drawing.png", "small type": "line.png"}
    names |= {"a receipt": "receipt.png"}
    return [Example(label, [{"image": uri(PICTURES / name)}], {}) for label, name in names.items()]


def uri(file: Path) -> str:
    """A picture file as a data URI."""
    return f"data:image/{file.suffix[1:]};base64," + base64.b64encode(file.read_bytes()).decode()
