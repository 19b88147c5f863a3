"""What ``prepare`` would read of a data set, and how: a look before the work begins."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np

from ..tokenizers.documents import Mark
from .prepare import read_lines, source_record
from .prepare_config import PrepareConfig
from .reading.cells import RawImage, Unusable, open_image
from .reading.conversations import Stored
from .reading.rows import documents_of
from .reading.stored import streamed_rows
from .splits import columns_of, folder_of, look_at

LOOKED_AT = 100
"""Rows that are read."""
SHOWN = 3
"""Documents that are shown."""


def inspect(config: PrepareConfig) -> Iterator[str]:
    """Lines to print: files, columns, the first documents, and why rows among the first would be left out.

    Nothing is encoded or stored.

    Raises:
        FileNotFoundError: The data set is missing.
        ValueError: It cannot be read, or has files or columns that would be lost silently.
    """
    reading = look_at(config, "train", config.documents)
    source, plan, account, _ = reading
    rng = np.random.default_rng(config.seed)
    dropped: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    shown: list[list[Stored]] = []
    rows = streamed_rows(source, columns_of(config, plan, source), account, lambda *_: None)
    for row in islice(rows, LOOKED_AT):
        try:
            documents = documents_of(
                plan.row(row),
                plan.shape,
                rng,
                folder_of(config, reading),
                order=config.order,
                captions=config.captions,
                incomplete_pairs=config.incomplete_pairs,
                note=lambda reason: dropped.update([reason]),
            )
            if not documents:
                raise Unusable("empty row")
            for document in documents:
                for segment in document:
                    if isinstance(segment, RawImage):
                        open_image(segment)
        except Unusable as error:
            left_out[str(error)] += 1
            continue
        shown += documents
    yield from read_lines("train", source_record(config, reading), "of the first rows: ")
    for number, document in enumerate(shown[:SHOWN], 1):
        yield f"document {number}: {' '.join(map(_in_words, document))}"
    for title, reasons in (("left out", left_out), ("dropped ", dropped)):
        yield from (f"  {title}  {count:,} x {why}" for why, count in reasons.most_common(5))
    yield f"Looked at {account.rows:,} rows; nothing was written."


def _in_words(segment: Stored) -> str:
    if isinstance(segment, RawImage):
        image = open_image(segment)
        return f"[image {image.width} x {image.height} px]"
    if isinstance(segment, Mark):
        return "[end of turn]"
    return repr(segment if len(segment) <= 300 else f"{segment[:300]}...")
