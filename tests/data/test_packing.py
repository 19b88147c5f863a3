"""Packing: every document whole, once, with what of it is learned."""

import numpy as np
import pytest

from earlyfusion.data.packing import Document, pack


@pytest.mark.parametrize("length", [16, 33, 100])
def test_packing_keeps_every_document_whole(length: int):
    rng = np.random.default_rng(0)
    documents = [np.full(rng.integers(1, length + 1), n + 1, np.int32) for n in range(300)]
    windows = list(pack(map(Document, documents), length, 0, rng))
    seen = []
    for tokens, numbers, learned in windows:
        assert learned.all()
        assert len(tokens) == len(numbers) == length
        assert (np.diff(numbers) >= 0).all()
        for number in np.unique(numbers):
            values = tokens[numbers == number]
            assert (values == values[0]).all()
            if values[0]:
                seen.append((int(values[0]), len(values)))
    assert sorted(seen) == [(n + 1, len(document)) for n, document in enumerate(documents)]
    assert sum(map(len, documents)) / (len(windows) * length) > 0.9


def test_small_documents_fill_the_windows():
    for size in (1, 2, 3):
        documents = [Document(np.ones(size, np.int32))] * 24
        assert len(list(pack(documents, 12, 0, np.random.default_rng(0)))) == 2 * size


def test_windows_come_in_no_order_of_length():
    rng = np.random.default_rng(0)
    documents = [Document(np.ones(n % 40 + 1, np.int32)) for n in range(2000)]
    counts = [int(numbers.max()) for _, numbers, _ in pack(documents, 64, 0, rng)]
    halves = np.mean(counts[: len(counts) // 2]), np.mean(counts[len(counts) // 2 :])
    assert halves[0] == pytest.approx(halves[1], rel=0.2)
    with pytest.raises(ValueError, match="65 tokens.*64"):
        list(pack([Document(np.ones(65, np.int32))], 64, 0, rng))


def test_what_is_learned_stays_with_its_tokens():
    rng = np.random.default_rng(0)
    documents = [
        Document(tokens := np.arange(1, n % 7 + 2, dtype=np.int32), tokens % 2 == 0) for n in range(40)
    ]
    for tokens, _, learned in pack(documents, 10, 0, rng):
        assert (learned == (tokens % 2 == 0)).all()  # 0 is padding
