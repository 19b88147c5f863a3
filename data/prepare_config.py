"""The settings of ``prepare``, and how a YAML file becomes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..tokenizers.pixels import Policy
from .conversations import IMAGES
from .rows import ORDERS, SHAPES, Order


@dataclass(frozen=True)
class PrepareConfig:
    """What ``prepare`` reads and writes."""

    documents: str
    """Data set of documents: a folder of save_to_disk, an imagefolder, parquet, arrow, jsonl or webdataset
    files, or hf://datasets/owner/name. Columns: `image` and `text`; `images` and `texts` (parallel lists,
    None where the other one speaks, as OBELICS has them); `text_list` and `image_info` (MMC4); one of them
    alone; or `messages`, conversations whose answers are learned, and their `images`."""
    out: str
    """Folder to write: tokenizer/, train/, validation/, prepare.json."""
    text_tokenizer: str | None = None
    """Folder with text.model."""
    image_tokenizer: str | None = None
    """Folder of the image tokenizer (config.json, model.safetensors)."""
    model: str | None = None
    """Model folder to fine-tune, whose tokenizers and vocabulary are taken instead of those two."""
    context_length: int = 1024
    """Tokens of a window."""
    validation: str | None = None
    """Data set of validation documents; without it, a part of the documents is held out."""
    validation_share: float = 0.01
    """Part of the documents that is held out when there is no validation set; 0: none."""
    order: Order = "coin"
    """For images that belong to a text (`image` and `text`, MMC4): which comes first. both: two documents;
    coin: drawn for each row."""
    policy: Policy = "resize"
    """How images get sides that are multiples of the image tokenizer's factor: resize or pad (with white)."""
    max_side: int | None = 256
    """Larger images are scaled down until their longer side has so many pixels."""
    max_positions: int | None = None
    """Larger images are scaled down, in their proportions, until they have so many positions (rows times
    columns)."""
    large_images: Literal["scale", "tile"] = "scale"
    """Whether images larger than max_side are scaled down, or cut into tiles, which follow each other row by
    row as images of their own; for pages of small type."""
    max_grid: int = 64
    """Largest number of rows or columns of positions that the vocabulary can say."""
    fixed_grid: tuple[int, int] | None = None
    """Rows and columns that all images have; they are then not written into the documents. Images are scaled
    and cut to them, those of a conversation's prompts padded."""
    scan: Literal["rows", "columns"] = "rows"
    """Order of an image's positions in the stream: rows (raster), or columns, which suits lines of type."""
    separator: bool = False
    """Whether the vocabulary has a token that ends the turns of conversations (`messages`)."""
    long_documents: Literal["split", "drop"] = "split"
    """Documents longer than a window: split between segments (and inside texts that are too long by
    themselves), or drop. An image that is too large for a window is dropped either way."""
    balance_answers: bool = False
    """Repeat conversations so that answers of text, of images and of both come equally often."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The data set's names of those columns where they are others: {image: jpg, text: caption}."""
    id_column: str | None = None
    """A column that names the rows: of several rows with one name the first counts."""
    streaming: bool = False
    """Read the files as it goes, without converting them first; for data that are larger than the disk."""
    bad_input: Literal["skip", "fail"] = "skip"
    """What happens to rows and files that cannot be used: skip (counted, and listed in rejected.jsonl), or
    fail."""
    shard_rows: int = 2_000
    """Rows that are shuffled and packed together, into one file; what a stopped run loses at most."""
    seed: int = 0
    """Of shuffling, coins and the held-out part."""

    def __post_init__(self) -> None:
        if self.context_length < 8:
            raise ValueError(f"context_length must be at least 8, got {self.context_length}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share must lie in [0, 1), got {self.validation_share}")
        if self.shard_rows < 1:
            raise ValueError(f"shard_rows must be positive, got {self.shard_rows}")
        if self.max_positions is not None and self.max_positions < 1:
            raise ValueError(f"max_positions must be positive, got {self.max_positions}")
        if self.streaming and (self.id_column or self.balance_answers):
            raise ValueError("id_column and balance_answers look at all rows first: leave streaming out")
        known = dict.fromkeys(name for names in (*SHAPES.values(), (IMAGES,)) for name in names)
        if unknown := [name for name in self.columns if name not in known]:
            raise ValueError(f"columns names {unknown[0]!r}, expected some of {', '.join(known)}")
        for name, allowed in (
            ("order", ORDERS),
            ("policy", ("resize", "pad")),
            ("scan", ("rows", "columns")),
            ("long_documents", ("split", "drop")),
            ("large_images", ("scale", "tile")),
            ("bad_input", ("skip", "fail")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if self.fixed_grid is not None:
            object.__setattr__(self, "fixed_grid", tuple(self.fixed_grid))
        tokenizers = [self.text_tokenizer, self.image_tokenizer]
        if (None in tokenizers) if self.model is None else (tokenizers != [None, None]):
            raise ValueError(
                "give text_tokenizer and image_tokenizer, or the model that they are to come from"
            )
        if self.model is not None:
            own = ("max_grid", "fixed_grid", "scan", "separator")
            if told := [name for name in own if getattr(self, name) != getattr(type(self), name)]:
                raise ValueError(f"{told[0]} is the model's own: leave it out")


def read_config(path: str | Path) -> PrepareConfig:
    """A YAML file with the fields of ``PrepareConfig``.

    :raises FileNotFoundError: no such file.
    :raises ValueError: no YAML, or an unknown, missing or bad field.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found: a YAML file with the settings of prepare is expected there"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} is expected to hold settings (name: value), it holds {type(values).__name__}"
        )
    names = [f.name for f in fields(PrepareConfig)]
    if unknown := [name for name in values if name not in names]:
        raise ValueError(f"{path}: unknown setting {unknown[0]!r}; known are {', '.join(names)}")
    for name, value in values.items():
        hint = get_type_hints(PrepareConfig)[name]
        if get_origin(hint) is not Literal and not _fits(value, hint):
            raise ValueError(f"{path}: {name} is {value!r}, expected {_described(hint)}")
    try:
        return PrepareConfig(**values)
    except (TypeError, ValueError) as error:
        message = str(error).replace("PrepareConfig.__init__()", "it is")
        raise ValueError(f"{path}: {message}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML is what a field of ``PrepareConfig`` holds."""
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Mapping:
        return isinstance(value, dict) and all(isinstance(v, str) for pair in value.items() for v in pair)
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        fits = isinstance(value, list) and len(value) == len(parts)
        return fits and all(_fits(item, part) for item, part in zip(value, parts))
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _described(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(map(_described, get_args(hint)))
    if get_origin(hint) is Mapping:
        return "names and names (image: jpg)"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "null"}
    return names.get(hint, "two whole numbers")
