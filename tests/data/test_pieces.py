"""Long documents in pieces, and conversations cut at an answer."""

import torch

from earlyfusion.data.pieces import (
    conversation_tokens,
    cut_texts,
    document_tokens,
    fitting_turns,
    pieces,
    tokens_of,
    turns_of,
)
from earlyfusion.tokenizers.documents import TURN, Part, interleave
from earlyfusion.tokenizers.vocab import SharedVocab


def text(length: int) -> Part:
    return Part("text", torch.arange(60, 60 + length))


def image(rows: int, columns: int) -> Part:
    return Part("image", torch.arange(rows * columns).view(rows, columns) % 32)


def test_sizes_are_those_of_the_tokens(vocab: SharedVocab, text_tokenizer):
    fixed = SharedVocab.build(text=text_tokenizer, codebook_size=32, fixed_grid=(2, 3))
    for part, one in ((text(7), vocab), (image(2, 3), vocab), (image(2, 3), fixed)):
        assert tokens_of(part, one) == len(interleave([part], one, bos=False, eos=False))


def test_pieces_are_cut_between_parts_and_inside_long_texts(vocab: SharedVocab):
    parts = cut_texts([text(25), image(2, 2), text(3)], 10)
    assert [len(part.values) for part in parts if part.kind == "text"] == [10, 10, 5, 3]
    found = list(pieces(parts, vocab, 10))
    assert [[tokens_of(part, vocab) for part in piece] for piece in found] == [[10], [10], [5], [8], [3]]
    documents = [document_tokens(piece, vocab, eos=piece is found[-1]) for piece in found]
    assert all(document.tokens[0] == vocab.bos and document.learned is None for document in documents)
    assert [document.tokens[-1] == vocab.eos for document in documents] == [False] * 4 + [True]


def test_conversations_end_with_an_answer(text_tokenizer):
    vocab = SharedVocab.build(text=text_tokenizer, codebook_size=32, max_grid=16, separator=True)
    turns = turns_of([text(4), TURN, text(3), image(1, 2), TURN, text(2), TURN, text(5)])
    assert [len(turn) for turn in turns] == [2, 3, 2, 2]
    whole = conversation_tokens(turns, vocab, eos=True)
    assert whole.tokens[-1] == vocab.eos and whole.learned is not None
    assert whole.learned.tolist() == [False] * 6 + [True] * 10 + [False] * 3 + [True] * 6
    assert [fitting_turns(turns, vocab, length) for length in (15, 16, 24, 25)] == [0, 2, 2, 4]
    assert len(conversation_tokens(turns[:2], vocab, eos=False).tokens) == 16
