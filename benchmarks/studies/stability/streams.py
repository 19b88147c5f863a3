"""The windows that cells read: those of a prepared folder, complete or with one modality only."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from earlyfusion.data.packing import Document, pack
from earlyfusion.data.windows import Windows
from earlyfusion.tokenizers.documents import interleave, split
from earlyfusion.tokenizers.vocab import SharedVocab


class Packed(NamedTuple):
    """Windows in memory, (N, T) int64 each."""

    tokens: Tensor
    documents: Tensor


@lru_cache(maxsize=8)
def windows(data: Path, part: str, kind: str | None) -> Packed:
    """The windows of ``part`` (train or validation).

    Args:
        data: A prepared folder.
        part: train or validation.
        kind: Keep only segments of this modality, text or image, between bos and eos, and pack the documents
            again without empty ones. None: do not change the windows.

    Raises:
        ValueError: No document has a segment of that kind.
    """
    stored = Windows(data / part)
    batch = stored.load(np.arange(stored.length))
    if kind is None:
        return Packed(batch["tokens"], batch["documents"])
    vocab = SharedVocab.load(data / "tokenizer")
    documents = _of_one_kind(Packed(batch["tokens"], batch["documents"]), vocab, kind)
    packed = list(pack(map(Document, documents), stored.context_length, vocab.pad, np.random.default_rng(0)))
    if not packed:
        raise ValueError(f"{data / part} has no document with a segment of kind {kind}")
    tokens, numbers = (
        torch.from_numpy(np.stack(rows)).long() for rows in list(zip(*packed, strict=True))[:2]
    )
    return Packed(tokens, numbers)


def _of_one_kind(packed: Packed, vocab: SharedVocab, kind: str) -> Iterator[np.ndarray]:
    for tokens, numbers in zip(*packed, strict=True):
        borders = numbers.diff().nonzero()[:, 0] + 1
        for document in tokens.tensor_split(borders):
            if document[0] == vocab.pad:
                continue
            if kept := [part for part in split(document, vocab) if part.kind == kind]:
                yield interleave(kept, vocab).numpy().astype(np.int32)
