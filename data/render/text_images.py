"""``earlyfusion text-images``: rendered images of text, with texts and boxes, for training.

They use only words, random strings and faces for training (see ``lexicon``), so that models trained on them
can be evaluated on the built-in suites.
"""

import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Image, List, Value, disable_progress_bars

from ...storage.files import atomic_folder, write_json
from ...tokenizers.progress import Progress
from .fonts import Font, train_faces
from .lexicon import Lexicon, split_lexicon, train_lexicon
from .typeset import KINDS, Page, typeset

disable_progress_bars()  # the command shows its own

TRAIN, VALIDATION = "train", "validation"
OBJECTS = {"bbox": List(List(Value("float32"), length=4)), "text": List(Value("string"))}
"""As in Hugging Face's imagefolder: boxes [x, y, width, height] in pixels (COCO), and their texts."""
FEATURES = Features({"image": Image(), "text": Value("string"), "objects": OBJECTS, "kind": Value("string")})


@dataclass(frozen=True)
class TextImagesConfig:
    """Settings of the images."""

    kinds: tuple[str, ...] = ("word", "random", "line")
    """Kinds of images, used in turn."""
    count: int = 20_000
    """Number of training images."""
    size: tuple[int, int] | None = (32, 128)
    """(height, width) in pixels; None fits the text."""
    type_sizes: tuple[int, int] = (12, 28)
    """Minimum and maximum type size, px per em."""
    multiple: int = 16
    """Sides are multiples of this number of pixels."""
    validation: int = 500
    """Number of validation images, with words that do not occur in training images; 0 disables them."""
    validation_words: int = 300
    """Number of words reserved for validation images."""
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.kinds or ("",):
            if kind not in KINDS:
                raise ValueError(f"kinds has {kind!r}, expected some of {', '.join(KINDS)}")
        if self.count < 1:
            raise ValueError(f"count is {self.count}, expected at least 1")
        if self.validation < 0:
            raise ValueError(f"validation is {self.validation}, expected at least 0")


def write_text_images(
    out: str | Path, config: TextImagesConfig, progress: Progress | None = None
) -> dict[str, int]:
    """Write the data sets ``out/train`` and ``out/validation``, both or none; returns their numbers of rows.

    Columns: ``image`` (PNG, grayscale unless the kind is colour), ``text`` (all texts in reading order),
    ``objects`` (boxes, see ``FEATURES``) and ``kind``. ``out`` itself loads as the training set.

    Raises:
        ImportError: The extra ``demo`` is missing.
        ValueError: The smallest type does not fit into the image size.
    """
    lexicon, fonts = train_lexicon(), train_faces()
    parts = {TRAIN: (lexicon, config.count)}
    if config.validation:
        lexicon, other = split_lexicon(lexicon, config.validation_words)
        parts = {TRAIN: (lexicon, config.count), VALIDATION: (other, config.validation)}
    with atomic_folder(out) as new:
        for part, (lexicon, count) in parts.items():
            rows = _rows(part, lexicon, fonts, config, count, progress)
            # Made as an Arrow table: Dataset.from_dict would decode and encode every image again.
            Dataset(pa.table(rows, schema=FEATURES.arrow_schema)).save_to_disk(str(new / part))
        write_json(new / "dataset_dict.json", {"splits": list(parts)})  # what DatasetDict.save_to_disk writes
    return {part: count for part, (_, count) in parts.items()}


def _rows(
    part: str,
    lexicon: Lexicon,
    fonts: list[Font],
    config: TextImagesConfig,
    count: int,
    progress: Progress | None,
) -> dict[str, list[Any]]:
    """The columns of ``FEATURES``."""
    rng = random.Random(f"text images {part} {config.seed}")
    rows: dict[str, list[Any]] = {name: [] for name in FEATURES}
    for i in range(count):
        kind = config.kinds[i % len(config.kinds)]
        page = typeset(
            kind,
            rng,
            fonts=fonts,
            lexicon=lexicon,
            size=config.size,
            type_sizes=config.type_sizes,
            multiple=config.multiple,
        )
        rows["image"].append({"bytes": _png(page, kind), "path": None})
        rows["text"].append(page.text)
        rows["objects"].append(
            {
                "bbox": [[b.left, b.top, b.right - b.left, b.bottom - b.top] for b in page.boxes],
                "text": [b.text for b in page.boxes],
            }
        )
        rows["kind"].append(kind)
        if progress is not None and (i % 100 == 99 or i + 1 == count):
            progress(f"{part} images", i + 1, count)
    return rows


def _png(page: Page, kind: str) -> bytes:
    image = page.image if kind == "colour" else page.image.convert("L")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
