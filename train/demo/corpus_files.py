"""The demo's corpus on disk, in formats that users have too.

Image sets have the columns ``image`` and ``text``. Documents have OBELICS' parallel lists ``images`` and
``texts``, with None in the list that does not hold the segment. Held-out images are imagefolders with
``metadata.jsonl``, which the commands of ``earlyfusion eval`` read.
"""

import io
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from ...data.render.fonts import held_out_fonts, train_fonts
from ...data.render.openmoji import render_drawing
from ...data.render.split import demo_concepts, demo_words
from ...data.render.text_images import OBJECTS
from ...eval.items import METADATA, Item
from ...eval.suites import word_suite
from ...storage.files import atomic_folder, write_bytes, write_text
from ...tokenizers.progress import Progress
from .corpus import LARGE_HEIGHTS, Corpus, CorpusConfig, Document, png

TRAIN, VALIDATION = "train", "validation"
IMAGES, DOCUMENTS = "images", "documents"
WORDS, NEW_FONTS, LARGE, PICTURES = "words", "words-new-fonts", "type-sizes", "pictures"
"""Folders of held-out images: words in training fonts, the same in held-out fonts, larger type, pictures."""
NEW_TYPE = "new-type"
"""Folder to measure reconstructions on: some words in held-out fonts, and all of the larger type."""


def write_corpus(
    folder: str | Path, config: CorpusConfig, seed: int, factor: int = 8, progress: Progress | None = None
) -> dict[str, int]:
    """Write ``folder`` completely or not at all.

    ``images/{train,validation}`` and ``documents/{train,validation}`` are data sets of ``save_to_disk``,
    ``held_out/*`` imagefolders.

    Args:
        folder: Folder to write.
        config: How much data.
        seed: Random seed.
        factor: Widths of word images are multiples of it.
        progress: Called with the name of the work, how much is done, and the total.

    Returns:
        The number of images and documents of each kind.

    Raises:
        ImportError: The extra ``demo`` is missing.
    """
    held_out = held_out_items(config, seed)
    corpus = Corpus(
        config, seed, factor, frozenset(i.text for items in held_out.values() for i in items if i.text)
    )
    allowed = list(demo_words().train)
    random.Random(f"validation words {seed}").shuffle(allowed)
    parts = {
        TRAIN: (allowed[config.validation :], config.words, 1.0),
        VALIDATION: (allowed[: config.validation], min(config.validation, config.words), 0.05),
    }
    counts: dict[str, int] = {}
    with atomic_folder(folder) as new:
        for part, (vocabulary, count, share) in parts.items():
            words = corpus.words(vocabulary, count)
            types = []
            for i, word in enumerate(words):
                types.append(corpus.type(word))
                if progress is not None and (i % 200 == 0 or i + 1 == count):
                    progress(f"{part}: words in type", i + 1, count)
            images = corpus.images(words, types, share)
            documents = corpus.documents(words, types, share)
            image_set(images).save_to_disk(str(new / IMAGES / part))
            document_set(documents).save_to_disk(str(new / DOCUMENTS / part))
            counts |= {f"{part} images": len(images), f"{part} documents": len(documents)}
        for name, items in held_out.items():
            write_imagefolder(new / "held_out" / name, items)
            counts[f"held-out {name}"] = len(items)
        new_type = [*held_out[NEW_FONTS][: config.reconstructions], *held_out[LARGE]]
        write_imagefolder(new / "held_out" / NEW_TYPE, new_type)
    return counts


def image_set(images: Iterable[tuple[bytes, str | None]]) -> Dataset:
    """Images (PNG) and their texts -> a data set with the columns ``image``, ``text`` and ``objects``, with
    one box around the whole image if it has text."""
    rows = list(images)
    return _dataset(
        Features({"image": Image(), "text": Value("string"), "objects": OBJECTS}),
        image=[_stored(data) for data, _ in rows],
        text=[text for _, text in rows],
        objects=[_whole(data, text) for data, text in rows],
    )


def document_set(documents: Iterable[Document]) -> Dataset:
    """Documents -> a data set with OBELICS' columns ``images`` and ``texts``: lists of the same length."""
    rows = list(documents)
    features = Features({"images": List(Image()), "texts": List(Value("string"))})
    return _dataset(
        features,
        images=[[_stored(part) if isinstance(part, bytes) else None for part in row] for row in rows],
        texts=[[part if isinstance(part, str) else None for part in row] for row in rows],
    )


def held_out_items(config: CorpusConfig, seed: int = 0) -> dict[str, list[Item]]:
    """The images to measure on: the same words in training fonts and in held-out fonts, larger type in
    held-out fonts, and pictures of the held-out concepts; ``seed`` selects fonts, sizes and random strings.
    """
    words = random.Random(f"test words {seed}").sample(demo_words().held_out, config.test_words)
    large = words[: -(-config.test_large * 2 // 3)]
    pictures = [
        Item(render_drawing(stem, config.picture_size), kind="picture", name=concept.name)
        for concept in demo_concepts().held_out
        for stem in dict.fromkeys(concept.drawings)
    ]
    return {
        WORDS: word_suite(
            seed, held_out=words, fonts=train_fonts(), heights=config.heights, random_share=1 / 3
        ),
        NEW_FONTS: word_suite(
            seed, held_out=words, fonts=held_out_fonts(), heights=config.heights, random_share=1 / 3
        ),
        LARGE: word_suite(
            seed, held_out=large, fonts=held_out_fonts(), heights=LARGE_HEIGHTS, random_share=1 / 3
        ),
        PICTURES: pictures,
    }


def write_imagefolder(folder: Path, items: Sequence[Item]) -> None:
    """PNG files and ``metadata.jsonl`` with file_name, text, size, kind and name."""
    lines = []
    for number, item in enumerate(items):
        file = f"{number:04}.png"
        write_bytes(folder / file, png(item.image))
        row: dict[str, Any] = {"file_name": file, "text": item.text, "size": item.size, "kind": item.kind}
        row["name"] = item.name
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}) + "\n")
    write_text(folder / METADATA, "".join(lines))


def _whole(data: bytes, text: str | None) -> dict[str, list]:
    if text is None:
        return {"bbox": [], "text": []}
    width, height = PILImage.open(io.BytesIO(data)).size
    return {"bbox": [[0.0, 0.0, width, height]], "text": [text]}


def _stored(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": None}  # as `datasets` stores an image


def _dataset(features: Features, **columns: list) -> Dataset:
    # An Arrow table, since Dataset.from_dict would decode and re-encode every image.
    return Dataset(pa.table(columns, schema=features.arrow_schema))
