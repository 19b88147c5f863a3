"""The tokens of a document, to be read: what each says, where it stands, how sure the model is of it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...fusion_lm.scores import TokenScores
from ...tokenizers.documents import DocumentTokenizer
from .html import TokenCell


class Token(NamedTuple):
    """One token of a document."""

    token: int
    kind: str
    """structure, text or image."""
    says: str
    """The piece of text, "code 12" (of several a position "code 12 of slot 2"), the rows or columns of an
    image, or the name of what it marks."""
    image: int | None = None
    """The image of the document that the code belongs to: 0, 1, ..."""
    place: tuple[int, int] | None = None
    """Row and column of the code in it."""
    p: float | None = None
    """Its probability after what stands before it."""
    entropy: float | None = None
    """Of the distribution that it comes from, nats."""


def describe(tokenizer: DocumentTokenizer, tokens: Tensor, scores: TokenScores | None = None) -> list[Token]:
    """What each of a document's tokens (T,) is; probabilities and entropies where there are ``scores``."""
    vocab = tokenizer.vocab
    roles = {token: role for role, token in vocab.roles.items()}
    values = tokens.tolist()
    is_text, is_image = vocab.is_text(tokens).tolist(), vocab.is_image(tokens).tolist()
    found: list[Token] = []
    image, codes, begun = -1, 0, 0
    rows, columns = vocab.fixed_grid or (0, 0)
    for t, token in enumerate(values):
        if is_text[t]:
            piece = tokenizer.text.decode([int(vocab.tokens_to_text(tokens[t]))])
            entry = Token(token, "text", piece)
        elif is_image[t]:
            code = int(vocab.tokens_to_image_ids(tokens[t])) % vocab.codebook_size
            position = codes // vocab.codes_per_position
            lines, along = (rows, columns) if vocab.scan == "rows" else (columns, rows)
            place = divmod(position, along) if 0 <= position < lines * along else None
            if place is not None and vocab.scan == "columns":
                place = place[1], place[0]
            slot = f" of slot {codes % vocab.codes_per_position + 1}" if vocab.codes_per_position > 1 else ""
            entry = Token(token, "image", f"code {code}{slot}", image, place)
            codes += 1
        elif token in roles:
            if token == vocab.begin_image:
                image, codes, begun = image + 1, 0, t
            entry = Token(token, "structure", roles[token])
        else:
            assert vocab.grid is not None
            side = token - vocab.grid.start + 1
            rows, columns = (side, columns) if t == begun + 1 else (rows, side)
            entry = Token(token, "structure", str(side))
        if scores is not None and not math.isnan(float(scores.log_p[t])):
            entry = entry._replace(p=math.exp(float(scores.log_p[t])), entropy=float(scores.entropy[t]))
        found.append(entry)
    return found


def strip_cells(tokens: Sequence[Token], prompt_length: int = 0) -> list[TokenCell]:
    """The cells of ``html.token_strip``; the first ``prompt_length`` are marked as given."""
    cells = []
    for number, token in enumerate(tokens):
        detail = f"{number}: {token.kind} {token.token}, {token.says!r}" if token.kind == "text" else ""
        detail = detail or f"{number}: {token.kind} {token.token}, {token.says}"
        if token.place is not None:
            detail += (
                f", image {(token.image or 0) + 1}, row {token.place[0] + 1}, column {token.place[1] + 1}"
            )
        if token.p is not None and token.entropy is not None:
            detail += f"; probability {_share(token.p)}, entropy {token.entropy:.2f} nats"
        cell = TokenCell(
            token.kind, token.says, detail, token.p, token.image, token.place, number < prompt_length
        )
        cells.append(cell)
    return cells


def grids(tokens: Sequence[Token], name: str) -> list[np.ndarray]:
    """``name`` ("p" or "entropy") of the codes of each image of a document, (h, w) float; the mean over
    the codes of a position where there are several, NaN where there is no figure."""
    images: dict[int, dict[tuple[int, int], list[float]]] = {}
    for token in tokens:
        if token.image is not None and token.place is not None and token.kind == "image":
            value = getattr(token, name)
            images.setdefault(token.image, {}).setdefault(token.place, []).append(
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


def _share(p: float) -> str:
    return f"{p:.1%}" if p >= 0.001 else f"{p:.0e}"
