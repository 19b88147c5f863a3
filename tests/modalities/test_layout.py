"""Layouts: the token-by-token cursor against whole documents, and that no other module knows them."""

import random
import re
from pathlib import Path

import pytest
import torch

from earlyfusion.fusion_lm.grammar import Grammar
from earlyfusion.tokenizers.documents import interleave, split
from earlyfusion.tokenizers.layout import DONE, FREE, Cursor, parse, write
from earlyfusion.tokenizers.vocab import SharedVocab

ROOT = Path(__file__).parents[2]
GRIDS = SharedVocab.build(text=(10, (0,)), codebook_size=8, max_grid=4, scan="columns", codes_per_position=2)
FIXED = SharedVocab.build(text=(10, (0,)), codebook_size=8, fixed_grid=(2, 3), separator=True)
VOCABULARIES = {
    "grids": GRIDS,
    "fixed": FIXED,
    "three": GRIDS.extended("tones", codebook_size=5, max_size=6),
    "four": FIXED.extended("tones", codebook_size=5, shape=(7,), codes_per_position=3).extended(
        "depth", codebook_size=4, max_size=3, axes=2, scan="columns"
    ),
    "solid": GRIDS.extended("solid", codebook_size=4, max_size=3, axes=3),
}


def document(vocab: SharedVocab, dice: random.Random) -> list[tuple[str, torch.Tensor]]:
    parts: list[tuple[str, torch.Tensor]] = []
    for _ in range(dice.randint(1, 5)):
        name = dice.choice(vocab.names[1:])
        if name == "text":
            if not parts or parts[-1][0] != "text":
                parts.append(("text", torch.randint(1, 10, (dice.randint(1, 4),))))
            continue
        layout = vocab.layout(name)
        shape = layout.shape or tuple(dice.randint(1, layout.numbers.count) for _ in range(layout.axes))  # type: ignore[union-attr]
        slots = (layout.slots,) if layout.slots > 1 else ()
        parts.append((name, torch.randint(vocab[name].codebook_size, (*shape, *slots))))
    return parts


@pytest.mark.parametrize("vocab", VOCABULARIES.values(), ids=VOCABULARIES.keys())
def test_documents_and_their_cursors(vocab: SharedVocab) -> None:
    grammar = Grammar(vocab)
    for seed in range(20):
        dice = random.Random(seed)
        torch.manual_seed(seed)
        parts = document(vocab, dice)
        tokens = interleave(parts, vocab)
        found = split(tokens, vocab)
        assert [name for name, _ in found] == [name for name, _ in parts]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, parts))
        cursor, blocks = Cursor(vocab), [(n, codes) for n, codes in parts if n != "text"]
        cursor.take(vocab.bos)
        state, remaining = grammar.state([cursor]), []
        for token in tokens[1:].tolist():
            inside, at = cursor.inside, cursor.done
            mode = cursor.take(token)
            state = grammar.advance(state, torch.tensor([token]))
            assert (cursor.mode, cursor.remaining) == (int(state.mode), int(state.remaining))
            if mode.kind == "code":
                name, codes = blocks[len(cursor.spans)]
                layout = vocab.layout(name)
                assert (inside, mode.part) == (name, at % layout.slots)
                place = layout.place(at // layout.slots, tuple(codes.shape[: layout.axes]))
                code = codes[place] if layout.slots == 1 else codes[(*place, mode.part)]
                assert vocab.ids_to_tokens(name, code + mode.part * vocab[name].codebook_size) == token
                remaining.append(cursor.remaining)
        assert cursor.mode == DONE and remaining.count(0) == len(blocks) == len(cursor.spans)
        for span, (name, codes) in zip(cursor.spans, blocks):
            block = tokens[span.start : span.stop]
            assert span.name == name and torch.equal(block, write(vocab, name, codes))
            assert len(block) == vocab.layout(name).length(span.shape)
            again = parse(vocab, tokens, span.start, len(tokens))
            assert again is not None and torch.equal(again.codes, codes) and again.stop == span.stop


def test_a_cursor_refuses_what_cannot_follow() -> None:
    for tokens, position in (([0, 4], 1), ([0, 3, 9], 2), ([0, 1, 9], 2), ([3, 5, 5, 26], 3), ([2], 0)):
        with pytest.raises(ValueError, match=f"position {position}"):
            Cursor(GRIDS).take_all(torch.tensor(tokens))
    with pytest.raises(ValueError, match="999"):
        Cursor(GRIDS).take(999)
    assert Cursor(GRIDS).mode == FREE


def test_one_module_knows_how_blocks_lie_in_the_stream() -> None:
    """Begin and end tokens by name, sizes from number tokens, and the order of the scan: ``layout`` alone."""
    known = r"begin_image|end_image|numbers\.start *\+|- *\w*\.?numbers\.start|\.scan\s*[=!]=|scan == "
    forbidden = re.compile(known)
    found = {
        str(path.relative_to(ROOT))
        for top in ("storage", "tokenizers", "fusion_lm", "data", "eval", "train", "playground", "cli")
        for path in (ROOT / top).rglob("*.py")
        if forbidden.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"tokenizers/layout.py"}
