"""A row of a data set -> the segments of its documents, in the shapes that the field stores documents in."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..prepare_config import Captions, IncompletePairs, Order
from .cells import RawImage, Unusable, raw_images, text_of
from .conversations import PLACEHOLDER, Note, Stored, conversation, marked, mismatch


def documents_of(
    row: Mapping[str, Any],
    shape: str,
    rng: np.random.Generator,
    folder: Path | None,
    *,
    order: Order = "coin",
    captions: Captions = "each",
    incomplete_pairs: IncompletePairs = "drop",
    note: Note = lambda _: None,
) -> list[list[Stored]]:
    """The documents of a row: one, or none if it is empty; several of several captions, or of both orders.

    Args:
        row: What ``Plan.row`` returns.
        shape: One of ``SHAPES``.
        folder: What relative file names are relative to, and cannot leave.
        order: Order if images belong to a text, in ``pairs`` and ``placed``.
        captions: Whether each of several texts of an image makes a document, or one that is drawn.
        incomplete_pairs: What becomes of an image without text, or a text without image.
        note: Called with what is left out of the row by design, once for each thing.

    Raises:
        Unusable: The row cannot be used; says why.
    """
    if shape == "conversations":
        return (
            [conversation(row, folder, note)]
            if any(value not in (None, "", []) for value in row.values())
            else []
        )
    if shape == "placed":
        return _ordered(_placed(row["text_list"], row["image_info"], folder), order, rng)
    if shape == "parallel":
        return _kept(_parallel(row["images"], row["texts"], folder))
    images, texts = _images(row.get("image"), folder), _texts(row.get("text"))
    if shape != "pairs":
        return _kept([*images, *texts])
    if bool(images) != bool(texts):
        missing = "pair without a text" if images else "pair without an image"
        if incomplete_pairs == "drop":
            raise Unusable(missing)
        note(missing)
        return _kept([*images, *texts])
    if captions == "draw" and len(texts) > 1:
        for _ in texts[1:]:
            note("caption that was not drawn")
        texts = [texts[int(rng.integers(len(texts)))]]
    if len(images) > 1 and len(texts) > 1:
        raise Unusable("several images with several texts", "parallel lists are read from images and texts")
    return [document for text in texts for document in _pair(images, text, order, rng)]


def _images(value: Any, folder: Path | None) -> list[RawImage]:
    return [image for image in raw_images(value, folder) if image is not None]


def _texts(value: Any) -> list[str]:
    """A text, or a list of them."""
    return [text for one in (value if isinstance(value, list) else [value]) if (text := text_of(one))]


def _kept(segments: Sequence[Stored]) -> list[list[Stored]]:
    return [list(segments)] if segments else []


Pair = tuple[list[RawImage], list[str]]
"""Images and the text that they belong to."""


def _pair(images: list[RawImage], text: str, order: Order, rng: np.random.Generator) -> list[list[Stored]]:
    """Images and a text, which may say where they belong."""
    if PLACEHOLDER in text:
        return [_in_places([text], images)]
    return _ordered([(images, [text])], order, rng)


def _in_places(texts: Sequence[str], images: Sequence[RawImage]) -> list[Stored]:
    """The texts with images in place of placeholders."""
    pieces = [piece for text in texts for piece in marked(text)]
    if pieces.count(None) != len(images):
        raise mismatch(pieces.count(None), len(images))
    waiting = iter(images)
    return [next(waiting) if piece is None else piece for piece in pieces]


def _parallel(images: Any, texts: Any, folder: Path | None) -> list[Stored]:
    """OBELICS (arXiv:2306.16527): lists of images and texts, None where the other one has its turn."""
    images, texts = (
        value if isinstance(value, list) else [] if value is None else [value] for value in (images, texts)
    )
    if images and texts and len(images) != len(texts):
        raise Unusable("images and texts are not parallel", f"{len(images)} images, {len(texts)} texts")
    pairs = [(_images(image, folder), _texts(text)) for image, text in zip_longest(images, texts)]
    if all(image and text for image, text in pairs) and any(
        PLACEHOLDER in t for _, text in pairs for t in text
    ):
        return _in_places([t for _, text in pairs for t in text], [i for image, _ in pairs for i in image])
    return [segment for image, text in pairs for segment in (*image, *text)]


def _placed(texts: Any, places: Any, folder: Path | None) -> list[Pair]:
    """MMC4 (arXiv:2304.06939): each image belongs to the sentence of its ``matched_text_index``."""
    if not isinstance(texts, list) or not isinstance(places, list | None):
        raise Unusable("text_list or image_info is not a list")
    found: list[Pair] = [([], _texts(text)) for text in texts]
    for _, text in found[1:]:
        text[:] = [f" {one}" for one in text]
    for place in places or []:
        number = place.get("matched_text_index") if isinstance(place, dict) else None
        if type(number) is not int or not 0 <= number < len(texts):
            raise Unusable("invalid matched_text_index in image_info")
        images = _images(place.get("image") or place.get("image_name"), folder)
        if not images:
            raise Unusable("image_info without an image", f"it has {', '.join(place)}")
        found[number][0].extend(images)
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
