"""Compare two document tokenizers: which tokens mean the same in both."""

from pathlib import Path

import torch
from torch import Tensor

from ..storage.files import fingerprint
from .documents import DocumentTokenizer
from .vocab import SharedVocab


def same_tokens(folder: Path, other: Path) -> bool:
    """Whether every token means the same in two tokenizer folders; the image decoders may differ."""
    if fingerprint(folder, content=True) == fingerprint(other, content=True):
        return True
    with torch.random.fork_rng(devices=[]):  # a network draws numbers before its weights are read
        return mean_the_same(DocumentTokenizer.load(folder), DocumentTokenizer.load(other))


def mean_the_same(one: DocumentTokenizer, two: DocumentTokenizer) -> bool:
    """Whether every token means the same in two tokenizers; the image decoders may differ."""
    if one.vocab != two.vocab:
        return False
    return torch.equal(kept_tokens(one, two), torch.arange(one.vocab.size))


def kept_tokens(old: DocumentTokenizer, new: DocumentTokenizer) -> Tensor:
    """The old token with the meaning of each new one, (V,) int64; -1 if there is none."""
    kept = torch.full((new.vocab.size,), -1)
    for role, token in new.vocab.roles.items():
        kept[token] = old.vocab.roles.get(role, -1)
    pieces = {old.text.id_to_piece(i): token for i, token in text_tokens(old.vocab)}
    for i, token in text_tokens(new.vocab):
        kept[token] = pieces.get(new.text.id_to_piece(i), -1)
    for name in shared_names(old, new):
        before, after = number_tokens(old.vocab, name), number_tokens(new.vocab, name)
        for theirs, ours in zip(before, after):
            kept[ours] = theirs
        ids = kept_codes(old, new, name)
        kept[new.vocab.ids_to_tokens(name, ids[:, 0])] = old.vocab.ids_to_tokens(name, ids[:, 1])
    return kept


def shared_names(old: DocumentTokenizer, new: DocumentTokenizer) -> list[str]:
    """The modalities with blocks that both tokenizers have."""
    return [name for name in new.codecs if name in old.codecs]


def number_tokens(vocab: SharedVocab, name: str) -> range:
    """The tokens of a modality's block sizes 1, 2, ...; empty if all blocks have one shape."""
    layout = vocab[name].layout
    if layout is None or layout.numbers is None:
        return range(0)
    return range(layout.numbers.start, sum(layout.numbers))


def kept_codes(old: DocumentTokenizer, new: DocumentTokenizer, name: str) -> Tensor:
    """Pairs (new id, old id) of the codes of modality ``name`` with the same number, slot and vector, (N, 2).

    For codecs without a ``codebook``, the same number and slot are enough.
    """
    theirs, ours = old.vocab[name], new.vocab[name]
    before, after = (getattr(t.codecs[name], "codebook", None) for t in (old, new))
    slots, codes = min(theirs.slots, ours.slots), min(theirs.codebook_size, ours.codebook_size)
    slot, code = torch.cartesian_prod(torch.arange(slots), torch.arange(codes)).T
    pairs = torch.stack([slot * size + code for size in (ours.codebook_size, theirs.codebook_size)], dim=1)
    if before is None or after is None:
        return pairs
    if before.shape[1] != after.shape[1]:
        return pairs[:0]
    same = (after.cpu()[pairs[:, 0]] == before.cpu()[pairs[:, 1]]).all(dim=1)
    return pairs[same]


def text_tokens(vocab: SharedVocab) -> list[tuple[int, int]]:
    """Pairs (text id, token)."""
    return [(r.id + n, r.token + n) for r in vocab["text"].ranges for n in range(r.count)]
