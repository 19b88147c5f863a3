"""Resizes a trained transformer for another vocabulary: tokens with the same meaning keep their rows."""

from dataclasses import replace
from pathlib import Path

import torch

from ...fusion_lm.model import FusionLM
from ...tokenizers.documents import TOKENIZER, DocumentTokenizer
from ...tokenizers.same_tokens import (
    kept_codes,
    kept_tokens,
    number_tokens,
    same_tokens,
    shared_names,
    text_tokens,
)


def load_resized(folder: str | Path, tokenizer_folder: Path) -> FusionLM:
    """Load a model folder's transformer, resized if its vocabulary differs (prints a notice)."""
    net, theirs = FusionLM.load(folder), Path(folder) / TOKENIZER
    if not theirs.is_dir() or same_tokens(theirs, tokenizer_folder):
        return net
    old, new = DocumentTokenizer.load(theirs), DocumentTokenizer.load(tokenizer_folder)
    larger, kept = resized(net, old, new)
    print(
        f"{folder} has another tokenizer: {kept:,} of its {old.vocab.size:,} tokens keep their rows, "
        f"{new.vocab.size - kept:,} of {new.vocab.size:,} are new"
    )
    return larger


def resized(net: FusionLM, old: DocumentTokenizer, new: DocumentTokenizer) -> tuple[FusionLM, int]:
    """Resize ``net``, trained with the tokens of ``old``, for those of ``new``.

    Tokens with the same meaning in both keep their rows of embedding and lm_head: roles, numbers of sizes,
    pieces of text, and codes with the same vector in the codebook. A new piece of text starts with the mean
    of its old pieces (Gee et al., Fast Vocabulary Transfer, arXiv:2402.09977), a new code with the nearest
    old one if the codebook was only enlarged, and a new number with the largest old one. All other rows are
    random.

    Returns:
        The new network, and how many tokens kept their rows.
    """
    kept, begun = kept_tokens(old, new), first_rows(old, new)
    config = replace(net.config, vocab_size=new.vocab.size)
    larger = FusionLM(config)
    state = dict(net.state_dict())
    for name, fresh in larger.state_dict().items():
        if name not in ("embedding.weight", "lm_head.weight"):
            continue
        rows, before = fresh.clone(), net.state_dict()[name].to(fresh.dtype)
        for token, sources in begun.items():
            rows[token] = before[sources].mean(dim=0)
        rows[kept >= 0] = before[kept[kept >= 0]]
        state[name] = rows
    larger.load_state_dict(state)
    return larger.train(net.training), int((kept >= 0).sum())


def first_rows(old: DocumentTokenizer, new: DocumentTokenizer) -> dict[int, list[int]]:
    """New token -> the old tokens whose mean it starts with."""
    rows: dict[int, list[int]] = {}
    for i, token in text_tokens(new.vocab):
        try:
            ids = old.text.encode(new.text.piece_bytes(i).decode("utf-8"))
        except ValueError:  # a single byte may not be text
            continue
        if ids:
            rows[token] = old.vocab.to_tokens("text", torch.tensor(ids)).tolist()
    for name in shared_names(old, new):
        before, after = number_tokens(old.vocab, name), number_tokens(new.vocab, name)
        if before:
            rows |= {token: [before[-1]] for token in after[len(before) :]}
        ids = kept_codes(old, new, name)
        codebook = getattr(new.codecs[name], "codebook", None)
        if len(ids) and codebook is not None:
            missing = torch.ones(len(codebook), dtype=torch.bool)
            missing[ids[:, 0]] = False
            here, codes = codebook.float(), missing.nonzero().flatten()
            nearest = ids[torch.cdist(here[codes], here[ids[:, 0]]).argmin(dim=1), 1]
            tokens = new.vocab.ids_to_tokens(name, codes).tolist()
            begun = old.vocab.ids_to_tokens(name, nearest).tolist()
            rows |= {token: [first] for token, first in zip(tokens, begun)}
    return rows
