"""A row of a data set -> the segments of a document, in the shapes that the field stores documents in."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..tokenizers.documents import Mark
from .conversations import conversation
from .prepare_config import Order
from .shapes import IMAGES, MESSAGES, SHAPES
from .sources import RawImage, Unusable, raw_images

Stored = str | RawImage | Mark
"""A segment as a row holds it."""


def documents_of(
    row: Mapping[str, Any], shape: str, order: Order, rng: np.random.Generator, folder: Path | None
) -> list[list[Stored]]:
    """The documents of a row: one, none if it is empty, or two if both orders are kept.

    Args:
        order: What comes first if images belong to a text, in ``pairs`` and ``placed``.
        folder: What relative file names are relative to, and cannot leave.

    Raises:
        Unusable: The row cannot be used; says why.
    """
    if shape == "conversations":
        return [conversation(row[MESSAGES], row.get(IMAGES), folder)]
    if shape == "placed":
        return _ordered(_placed(row["text_list"], row["image_info"], folder), order, rng)
    if shape == "pairs":
        images = [image for image in raw_images(row["image"], folder) if image is not None]
        return _ordered([(images, _strings(row["text"]))], order, rng)
    if shape == "parallel":
        images, texts = (value if isinstance(value, list) else [] for value in (row["images"], row["texts"]))
        if images and texts and len(images) != len(texts):
            raise Unusable("images and texts are not parallel")
        pairs = zip_longest(raw_images(images, folder), texts)
        return _kept([segment for pair in pairs for segment in pair])
    [column] = SHAPES[shape]
    value = row[column]
    return _kept(raw_images(value, folder) if column.startswith("image") else _strings(value))


def _strings(value: Any) -> list[str]:
    """A text, or a list of them."""
    values = value if isinstance(value, list) else [value]
    if wrong := [v for v in values if not isinstance(v, str) and v is not None]:
        raise Unusable("not a string", repr(wrong[0]))
    return [v for v in values if v]


def _kept(segments: Sequence[Any]) -> list[list[Stored]]:
    kept = [segment for segment in segments if segment is not None and segment != ""]
    _strings([segment for segment in kept if not isinstance(segment, RawImage)])
    return [kept] if kept else []


Pair = tuple[list[RawImage], list[str]]
"""Images and the text that they belong to."""


def _placed(texts: Any, places: Any, folder: Path | None) -> list[Pair]:
    """MMC4 (arXiv:2304.06939): each image belongs to the sentence of its ``matched_text_index``."""
    if not isinstance(texts, list) or not isinstance(places, list | None):
        raise Unusable("text_list or image_info is not a list")
    spaced = [f" {text}" if number and isinstance(text, str) else text for number, text in enumerate(texts)]
    found: list[Pair] = [([], _strings(text)) for text in spaced]
    for place in places or []:
        number = place.get("matched_text_index") if isinstance(place, dict) else None
        if type(number) is not int or not 0 <= number < len(texts):
            raise Unusable("invalid matched_text_index in image_info")
        value = place.get("image") or place.get("image_name")
        found[number][0].extend(image for image in raw_images(value, folder) if image is not None)
    return found


def _ordered(pairs: Sequence[Pair], order: Order, rng: np.random.Generator) -> list[list[Stored]]:
    """The pairs one after the other, in the requested order or orders."""
    if order == "coin":
        order = "image_first" if rng.random() < 0.5 else "text_first"
    forwards: list[Stored] = [s for images, texts in pairs for s in (*images, *texts)]
    backwards: list[Stored] = [s for images, texts in pairs for s in (*texts, *images)]
    if order == "both" and forwards != backwards:
        return [forwards, backwards]
    return [document for document in [backwards if order == "text_first" else forwards] if document]
