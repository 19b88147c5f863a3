import math

import pytest
import torch

from earlyfusion.eval.metrics.codebook import code_counts, perplexity, usage


def test_each_slot_has_a_histogram_of_its_own():
    codes = torch.tensor([[[0, 3], [1, 3]], [[0, 3], [1, 0]]])  # (1, h, w, n) without its batch
    counts = code_counts(codes, codebook_size=4, codes_per_position=2)
    assert counts.tolist() == [[2, 2, 0, 0], [1, 0, 0, 3]]
    assert usage(counts).item() == 4 / 8
    entropies = [math.log(2), -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))]
    assert perplexity(counts).item() == pytest.approx(math.exp(sum(entropies) / 2))


def test_one_code_per_position_takes_any_shape():
    counts = code_counts(torch.tensor([[1, 2], [2, 1]]), 3)
    assert counts.tolist() == [[0, 2, 2]]
    assert usage(counts).item() == pytest.approx(2 / 3) and perplexity(counts).item() == pytest.approx(2)


def test_codes_without_their_axis_are_refused_and_none_have_no_perplexity():
    with pytest.raises(ValueError, match=r"\(1, 2, 3\), expected \(\.\.\., 2\)"):
        code_counts(torch.zeros(1, 2, 3, dtype=torch.int64), 4, 2)
    assert perplexity(torch.zeros(2, 4, dtype=torch.int64)).isnan()
