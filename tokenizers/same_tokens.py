"""Which tokens of one document tokenizer mean the same in another."""

from pathlib import Path

import torch
from torch import Tensor

from .documents import DocumentTokenizer
from .files import fingerprint
from .vocab import SharedVocab


def same_tokens(folder: Path, other: Path) -> bool:
    """Whether every token means the same in two tokenizer folders; how codes become images may differ."""
    if fingerprint(folder, content=True) == fingerprint(other, content=True):
        return True
    one, two = DocumentTokenizer.load(folder), DocumentTokenizer.load(other)
    if one.vocab != two.vocab:
        return False
    return torch.equal(kept_tokens(one, two), torch.arange(one.vocab.size))


def kept_tokens(old: DocumentTokenizer, new: DocumentTokenizer) -> Tensor:
    """(V,) int64: the old token that means what a new one means, -1 where there is none."""
    kept = torch.full((new.vocab.size,), -1)
    for role, token in new.vocab.roles.items():
        kept[token] = old.vocab.roles.get(role, -1)
    if new.vocab.grid is not None and old.vocab.grid is not None:
        for number in range(min(new.vocab.grid.count, old.vocab.grid.count)):
            kept[new.vocab.grid.start + number] = old.vocab.grid.start + number
    pieces = {old.text.id_to_piece(i): token for i, token in text_tokens(old.vocab)}
    for i, token in text_tokens(new.vocab):
        kept[token] = pieces.get(new.text.id_to_piece(i), -1)
    ids = kept_codes(old, new)
    kept[new.vocab.image_ids_to_tokens(ids[:, 0])] = old.vocab.image_ids_to_tokens(ids[:, 1])
    return kept


def kept_codes(old: DocumentTokenizer, new: DocumentTokenizer) -> Tensor:
    """(n, 2) image ids, new and old, of the codes with the same number, slot and vector."""
    slots = min(old.vocab.codes_per_position, new.vocab.codes_per_position)
    codes = min(old.vocab.codebook_size, new.vocab.codebook_size)
    before, after = old.image.codebook, new.image.codebook
    if before.shape[1] != after.shape[1]:
        return torch.empty(0, 2, dtype=torch.int64)
    slot, code = torch.cartesian_prod(torch.arange(slots), torch.arange(codes)).T
    sizes = new.vocab.codebook_size, old.vocab.codebook_size
    pairs = torch.stack([slot * size + code for size in sizes], dim=1)
    same = (after[pairs[:, 0]] == before[pairs[:, 1]]).all(dim=1)
    return pairs[same]


def text_tokens(vocab: SharedVocab) -> list[tuple[int, int]]:
    """Text ids and their tokens."""
    return [(r.id + n, r.token + n) for r in vocab.text for n in range(r.count)]
