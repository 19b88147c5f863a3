"""The tokens of a document in words: meaning, place, and probability under the model."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...fusion_lm.scores import TokenScores
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.layout import Cursor
from .page.html import TokenCell


class Token(NamedTuple):
    """One token of a document."""

    token: int
    kind: str
    """structure, or the modality's name."""
    says: str
    """The piece of text, "code 12" (with several slots "code 12 of slot 2"), the size of a block along an
    axis, or the name of its role."""
    block: int | None = None
    """The block (an image, ...) of the document that the code belongs to: 0, 1, ..."""
    place: tuple[int, ...] | None = None
    """Its position in the block: row and column in an image."""
    p: float | None = None
    """Its probability given the tokens before it."""
    entropy: float | None = None
    """Entropy of its distribution, nats."""


def describe(tokenizer: DocumentTokenizer, tokens: Tensor, scores: TokenScores | None = None) -> list[Token]:
    """What each of a document's tokens (T,) is; probabilities and entropies if there are ``scores``.

    Raises:
        ValueError: The tokens do not begin a document.
    """
    vocab, cursor = tokenizer.vocab, Cursor(tokenizer.vocab)
    roles = {token: role for role, token in vocab.roles.items()}
    found: list[Token] = []
    for t, token in enumerate(tokens.tolist()):
        if token == vocab.pad:
            entry = Token(token, "structure", roles[token])
        else:
            entry = _entry(tokenizer, roles, cursor, token)
        if scores is not None and not math.isnan(float(scores.log_p[t])):
            entry = entry._replace(p=math.exp(float(scores.log_p[t])), entropy=float(scores.entropy[t]))
        found.append(entry)
    return found


def _entry(tokenizer: DocumentTokenizer, roles: dict[int, str], cursor: Cursor, token: int) -> Token:
    """What the next token of a document is."""
    vocab, number, done, shape = tokenizer.vocab, len(cursor.spans), cursor.done, cursor.shape
    mode = cursor.take(token)
    if token in roles:
        return Token(token, "structure", roles[token])
    value = torch.tensor([token])
    if mode.kind == "size":
        return Token(token, "structure", str(cursor.sizes[-1]))
    if mode.kind == "free":
        return Token(token, "text", tokenizer.text.decode(vocab.to_codes("text", value).tolist()))
    modality = vocab[mode.name]
    assert shape is not None
    code = int(vocab.tokens_to_ids(mode.name, value)) % modality.codebook_size
    slot = f" of slot {mode.part + 1}" if modality.slots > 1 else ""
    place = vocab.layout(mode.name).place(done // modality.slots, shape)
    return Token(token, mode.name, f"code {code}{slot}", number, place)


def strip_cells(tokens: Sequence[Token], prompt_length: int = 0) -> list[TokenCell]:
    """The cells of ``html.token_strip``; the first ``prompt_length`` are marked as given."""
    cells = []
    for number, token in enumerate(tokens):
        detail = f"{number}: {token.kind} {token.token}, {token.says!r}" if token.kind == "text" else ""
        if token.block is not None:
            detail = f"{number}: {token.says} (token {token.token})"
        detail = detail or f"{number}: {token.kind} {token.token}, {token.says}"
        if token.place is not None:
            names = ("row", "column") if len(token.place) == 2 else ("position",)
            where = ", ".join(f"{name} {n + 1}" for name, n in zip(names, token.place))
            kind = {"image": "picture"}.get(token.kind, token.kind)
            detail += f" · {kind} {(token.block or 0) + 1}, {where}"
        if token.p is not None and token.entropy is not None:
            detail += f"; probability {share(token.p)}, entropy {token.entropy:.2f} nats"
        given = number < prompt_length
        cells.append(TokenCell(token.kind, token.says, detail, token.p, token.block, token.place, given))
    return cells


def grids(tokens: Sequence[Token], name: str) -> list[np.ndarray]:
    """``name`` ("p" or "entropy") of the codes of each image of a document, (h, w) float; the mean over
    the codes of a position if there are several, NaN without figures."""
    images: dict[int, dict[tuple[int, ...], list[float]]] = {}
    for token in tokens:
        if token.block is not None and token.place is not None and token.kind == "image":
            value = getattr(token, name)
            images.setdefault(token.block, {}).setdefault(token.place, []).append(
                math.nan if value is None else value
            )
    found = []
    for places in images.values():
        height, width = (max(place[axis] for place in places) + 1 for axis in (0, 1))
        grid = np.full((height, width), np.nan)
        for place, values in places.items():
            grid[place] = sum(values) / len(values)
        found.append(grid)
    return found


def share(p: float) -> str:
    """A probability in percent."""
    return f"{p:.1%}" if p >= 0.001 else f"{100 * p:.1g}%" if p >= 0.00001 else "under 0.001%"
