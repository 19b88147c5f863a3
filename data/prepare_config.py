"""The settings of ``prepare``. Imports nothing heavy, so that the command line's help is quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args, get_origin, get_type_hints

from ..tokenizers.image_config import Policy
from .reading.shapes import COLUMNS

Order = Literal["image_first", "text_first", "both", "coin"]
Captions = Literal["each", "draw"]
IncompletePairs = Literal["drop", "keep"]


@dataclass(frozen=True)
class PrepareConfig:
    """What ``prepare`` reads and writes."""

    documents: str
    """Data set of documents: a folder of save_to_disk, an imagefolder, parquet, arrow, jsonl or webdataset
    files, or hf://datasets/owner/name. Its columns: image and text; images and texts (parallel lists, None
    where the other one has its turn, as in OBELICS); text_list and image_info (MMC4); only one of these; or
    conversations, whose answers are learned: messages, or prompt and completion, and their image or images.
    docs/own-data.md lists the shapes and other names that are known."""
    out: str
    """Folder to write: tokenizer/, train/, validation/, prepare.json, rejected.jsonl."""
    text_tokenizer: str | None = None
    """Folder with text.model."""
    image_tokenizer: str | None = None
    """Folder of the image tokenizer (config.json, model.safetensors)."""
    model: str | None = None
    """Model folder to fine-tune: use its tokenizers and vocabulary instead of the two tokenizers."""
    context_length: int = 1024
    """Tokens per window."""
    validation: str | None = None
    """Data set of validation documents. Default: a share of the documents is held out."""
    validation_share: float = 0.01
    """Share of the documents to hold out if there is no validation set; 0 holds out none."""
    order: Order = "coin"
    """Order if images belong to a text (image and text, MMC4). both: two documents; coin: drawn
    for each row."""
    policy: Policy = "resize"
    """How images get sides that are multiples of the image tokenizer's factor: resize or pad (with white)."""
    max_side: int | None = 256
    """Scale larger images down until their longer side has this many pixels."""
    max_positions: int | None = None
    """Scale larger images down, keeping their proportions, until they have this many positions (rows times
    columns)."""
    large_images: Literal["scale", "tile"] = "scale"
    """Images larger than max_side: scale them down, or cut them into tiles, which follow each other row by
    row as separate images; for pages of small type."""
    max_grid: int = 64
    """Largest number of rows or columns of positions that the vocabulary can express."""
    fixed_grid: tuple[int, int] | None = None
    """Rows and columns of every image, which documents then do not state. Images are scaled and cropped to
    them; those in the prompts of conversations are padded."""
    scan: Literal["rows", "columns"] = "rows"
    """Order of an image's positions in the stream: rows (raster), or columns, which suits lines of type."""
    separator: bool = False
    """Give the vocabulary a token that ends the turns of conversations (messages)."""
    long_documents: Literal["split", "drop"] = "split"
    """Documents longer than a window: split them between segments (and inside texts that are too long on
    their own), or drop them. An image that is too large for a window is always dropped."""
    balance_answers: bool = False
    """Repeat conversations until answers of text, of images and of both are equally frequent."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names of those columns in the data set, if they differ: {image: scan, text: alt_text}. A field of a
    column of objects has a dot: {text: meta.caption}."""
    ignore: list[str] = field(default_factory=list)
    """Columns and files that look like content but are not to be used: [title, notes.txt]. Without it they
    stop the work, so that nothing is lost by mistake."""
    captions: Captions = "each"
    """Several texts of one image: each makes a document, or draw one of them."""
    incomplete_pairs: IncompletePairs = "drop"
    """Images without text and texts without image, where the data set has both: drop (count them, and list
    them in rejected.jsonl), or keep what there is."""
    class_names: bool = False
    """Use the names of the folders that pictures are in as their texts, where they have no other."""
    images_folder: str | None = None
    """Folder that names of pictures in the data are relative to, and do not leave. Default: the folder of the
    data set."""
    follow_links: bool = False
    """Read rows and texts through symbolic links that leave the folder of the data set, too; pictures are
    always read through links. Leave it off for archives of strangers."""
    id_column: str | None = None
    """Column that identifies rows: of several rows with the same id, use the first."""
    streaming: bool = False
    """Read the files on the fly, without converting them first; for data larger than the disk."""
    bad_input: Literal["skip", "fail"] = "skip"
    """Rows and files that cannot be used: skip (count them, and list them in rejected.jsonl), or fail."""
    shard_rows: int = 2_000
    """Rows that are shuffled and packed together, into one file. A stopped run loses at most this many."""
    seed: int = 0
    """Random seed of the shuffling, the coins and the held-out share."""

    def __post_init__(self) -> None:
        if self.context_length < 8:
            raise ValueError(f"context_length must be at least 8, got {self.context_length}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share must be at least 0 and below 1, got {self.validation_share}")
        if self.shard_rows < 1:
            raise ValueError(f"shard_rows must be positive, got {self.shard_rows}")
        if self.max_positions is not None and self.max_positions < 1:
            raise ValueError(f"max_positions must be positive, got {self.max_positions}")
        if self.streaming and (self.id_column or self.balance_answers):
            raise ValueError("id_column and balance_answers need all rows at once: set streaming to false")
        if unknown := [name for name in self.columns if name not in COLUMNS]:
            raise ValueError(f"columns names {unknown[0]!r}, expected some of {', '.join(COLUMNS)}")
        for name, hint in get_type_hints(PrepareConfig).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                allowed = ", ".join(get_args(hint))
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {allowed}")
        if isinstance(self.ignore, str):
            raise ValueError(f"ignore is {self.ignore!r}, expected a list: [{self.ignore}]")
        if both := [name for name in self.columns.values() if name in self.ignore]:
            raise ValueError(f"{both[0]!r} is both in columns and in ignore: take it out of one of them")
        if self.class_names and "text" in self.columns:
            raise ValueError("class_names and columns both say where texts come from: leave out one of them")
        object.__setattr__(self, "ignore", list(self.ignore))
        if self.fixed_grid is not None:
            object.__setattr__(self, "fixed_grid", tuple(self.fixed_grid))
        tokenizers = [self.text_tokenizer, self.image_tokenizer]
        if (None in tokenizers) if self.model is None else (tokenizers != [None, None]):
            raise ValueError("give either text_tokenizer and image_tokenizer, or model")
        if self.model is not None:
            for name in ("max_grid", "fixed_grid", "scan", "separator"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(f"leave out {name}: the model determines it")
