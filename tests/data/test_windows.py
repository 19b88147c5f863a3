"""Windows from the disk, and the order of a mixture."""

import random
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset

from earlyfusion.data.windows import Windows, mixed


def test_windows_are_read_without_a_copy_in_any_order(prepared: Path):
    windows = Windows(prepared / "train")
    stored = Dataset.load_from_disk(str(prepared / "train"))
    chosen = np.array(random.Random(0).sample(range(windows.length), 5))
    batch = windows.load(chosen)
    assert batch["tokens"].dtype == torch.int64
    assert batch["tokens"].tolist() == [stored[int(i)]["tokens"] for i in chosen]
    assert batch["documents"].tolist() == [stored[int(i)]["documents"] for i in chosen]
    assert not windows._chunks[0][0].flags.owndata


def test_windows_of_a_file_with_many_chunks(tmp_path: Path, prepared: Path):
    stored = Dataset.load_from_disk(str(prepared / "train"))
    joined = datasets.concatenate_datasets([stored, stored.select(range(2, 5))])
    joined.save_to_disk(str(tmp_path / "joined"), num_shards=3)
    windows = Windows(tmp_path / "joined")
    numbers = np.array([windows.length - 1, 0, stored.num_rows])
    assert windows.load(numbers)["tokens"].tolist() == [joined[int(i)]["tokens"] for i in numbers]


@pytest.mark.parametrize("draws", [[10, 4], [10, 10], [10, 35], [10, 1]])
def test_a_mixture_goes_through_every_window_in_turn(draws: list[int]):
    lengths = [10, 7]
    epochs = [mixed(lengths, draws, 3, epoch).flatten() for epoch in range(28)]
    assert all(len(epoch) == sum(draws) for epoch in epochs)
    assert all(sorted(epoch[epoch < 10]) == list(range(10)) for epoch in epochs)
    second = [n for epoch in epochs for n in sorted(epoch[epoch >= 10])]
    counts = Counter(second)
    assert set(counts) <= set(range(10, 17)) and sum(counts.values()) == 28 * draws[1]
    assert max(counts.values()) - min(counts.values()) <= 1  # 28 epochs of n draws are 4 n passes
    assert len({tuple(epoch) for epoch in epochs}) == 28
    assert (mixed(lengths, draws, 3, 5) == mixed(lengths, draws, 3, 5)).all()


def test_each_pass_of_a_source_has_its_own_order():
    halves = [frozenset(mixed([20], [10], 3, epoch).flatten()) for epoch in range(8)]
    assert all(first | second == set(range(20)) for first, second in zip(halves[::2], halves[1::2]))
    assert len(set(halves)) == 8
