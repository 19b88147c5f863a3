"""Types and bounds of the fields of a config, which may come from a stranger's file. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Bounds = Mapping[str, tuple[float, float]]
"""Field -> its least and its largest value; of a tuple, those of its items."""
LONGEST = 4096
"""Most items of a tuple, and most characters of a string."""


def check_fields(config: Any, bounds: Bounds) -> None:
    """Check each field of a dataclass against its annotation and its bounds.

    Numbers are finite, true and false are not numbers, and an integer is a valid float.

    Args:
        config: The dataclass.
        bounds: Of every field with numbers.

    Raises:
        ValueError: A value has another type or is out of bounds; the message has the field's name, the value
            and what is allowed.
    """
    for name, kind in _hints(type(config)).items():
        check_value(name, getattr(config, name), kind, bounds)


def check_value(name: str, value: Any, kind: Any, bounds: Bounds) -> None:
    """Check one value of the annotation ``kind``; ``check_fields`` says how."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and type(None) in inside:
            return
        kind = next(one for one in inside if one is not type(None))
        return check_value(name, value, kind, bounds)
    if origin is Literal:
        if not isinstance(value, str) or value not in inside:
            raise ValueError(f"{name} is {_short(value)}, expected one of {', '.join(inside)}")
    elif origin is tuple:
        if not isinstance(value, tuple) or len(value) > LONGEST:
            raise ValueError(f"{name} is {_short(value)}, expected a list")
        for item in value:
            check_value(name, item, inside[0], bounds)
    elif kind in (int, float):
        low, high = bounds[name]
        right = type(value) is int or (kind is float and type(value) is float and math.isfinite(value))
        if not right or not low <= value <= high:
            what = "an integer" if kind is int else "a number"
            raise ValueError(f"{name} is {_short(value)}, expected {what} from {low:,} to {high:,}")
    elif kind is bool:
        if type(value) is not bool:
            raise ValueError(f"{name} is {_short(value)}, expected true or false")
    elif kind is str:
        if not isinstance(value, str) or len(value) > LONGEST:
            raise ValueError(f"{name} is {_short(value)}, expected a text of at most {LONGEST} characters")


def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
