"""Encoded documents -> tokens that fit into a window: pieces of long documents, turns of conversations."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..tokenizers.documents import TURN, Part, interleave
from ..tokenizers.modality import TEXT
from ..tokenizers.vocab import SharedVocab
from .packing import Document


def tokens_of(part: Part, vocab: SharedVocab) -> int:
    """The number of tokens of a text or of a block of codes."""
    layout = vocab[part.kind].layout
    return len(part.values) if layout is None else layout.length(tuple(part.values.shape[: layout.axes]))


def cut_texts(parts: Sequence[Part], room: int) -> list[Part]:
    """The parts, with texts of more than ``room`` tokens cut into several."""
    return [
        Part(part.kind, values)
        for part in parts
        for values in (part.values.split(room) if part.kind == TEXT else (part.values,))
    ]


def pieces(parts: Sequence[Part], vocab: SharedVocab, room: int) -> Iterator[list[Part]]:
    """Split a document between its parts into pieces of at most ``room`` tokens. No part may be longer."""
    piece: list[Part] = []
    left = room
    for part in parts:
        size = tokens_of(part, vocab)
        if piece and size > left:
            yield piece
            piece, left = [], room
        piece.append(part)
        left -= size
    if piece:
        yield piece


def document_tokens(parts: Sequence[Part], vocab: SharedVocab, *, eos: bool) -> Document:
    """The tokens of a document or of a piece of one.

    Every piece begins with ``bos``, so that each text that the model sees has a beginning. Only the last one
    ends with ``eos``.
    """
    return Document(interleave(parts, vocab, eos=eos).numpy().astype(np.int32))


def turns_of(parts: Sequence[Part]) -> list[list[Part]]:
    """The turns of a conversation, each with its end."""
    found: list[list[Part]] = [[]]
    for part in [*parts, TURN]:
        found[-1].append(part)
        if part.kind == TURN.kind:
            found.append([])
    return found[:-1]


def conversation_tokens(turns: Sequence[Sequence[Part]], vocab: SharedVocab, *, eos: bool) -> Document:
    """The tokens of a conversation. The answers and the ends of their turns are learned.

    Args:
        turns: Prompts and answers in turn, each with its end.
        eos: End with ``eos`` in place of the last turn's end.
    """
    tokens, learned = [np.array([vocab.bos])], [np.zeros(1, bool)]
    for number, turn in enumerate(turns):
        tokens.append(interleave(turn, vocab, bos=False, eos=False).numpy())
        learned.append(np.full(len(tokens[-1]), number % 2 == 1))
    joined = np.concatenate(tokens).astype(np.int32)
    if eos:
        joined[-1] = vocab.eos
    return Document(joined, np.concatenate(learned))


def fitting_turns(turns: Sequence[Sequence[Part]], vocab: SharedVocab, length: int) -> int:
    """How many turns, up to an answer, are together at most ``length`` tokens long, ``bos`` included."""
    fitting, used = 0, 1
    for number, turn in enumerate(turns, 1):
        used += sum(1 if part.kind == TURN.kind else tokens_of(part, vocab) for part in turn)
        if number % 2 == 0 and used <= length:
            fitting = number
    return fitting
