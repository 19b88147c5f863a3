"""The order of batches: a function of the seed, for any number of ranks, and resumed exactly."""

import json

import numpy as np
import pytest

from earlyfusion.data.loader import (
    Batches,
    InOrder,
    group_of,
    number_groups,
    ordered_batches,
    shuffled_batches,
)

GROUPS = [np.arange(0, 10), np.arange(10, 17)]


def batches(**options) -> Batches:
    return Batches(lambda epoch: shuffled_batches(GROUPS, [4, 3], 7, epoch), lambda x: x.tolist(), **options)


def test_each_epoch_has_every_sample_once_in_another_order():
    loader = batches()
    first, second = list(loader), list(loader)
    assert len(first) == len(loader) == 6
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(17))
    assert first != second
    assert all(max(b) < 10 or min(b) >= 10 for b in first)  # no batch mixes the groups
    assert list(batches()) == first  # the seed decides


def test_batches_of_the_groups_are_mixed():
    groups = [np.arange(40), np.arange(40, 80)]
    orders = [[b[0] >= 40 for b in shuffled_batches(groups, [2, 2], 0, epoch)] for epoch in range(2)]
    assert all(sum(order) == 20 and 1 < sum(order[:20]) < 19 for order in orders)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 6, 8])
def test_a_stopped_run_goes_on_with_the_next_samples(stop: int, workers: int):
    straight = batches()
    expected = [*straight, *straight, *straight]
    loader, seen = batches(num_workers=workers), []
    while len(seen) < stop:
        for batch in loader:
            seen.append(batch)
            if len(seen) == stop:
                break
    state = json.loads(json.dumps(loader.state_dict()))  # plain values
    again = batches()
    again.load_state_dict(state)
    iter(again)  # Lightning makes an iterator and drops it
    while len(seen) < len(expected):
        seen += list(again)
    assert seen == expected


def test_ranks_share_the_batches_and_the_state_fits_other_numbers_of_ranks():
    whole = list(batches())
    ranks = [list(batches(rank=rank, world_size=2)) for rank in range(2)]
    assert [b for pair in zip(*ranks, strict=True) for b in pair] == whole
    loader = batches(rank=1, world_size=2)
    steps = iter(loader)
    next(steps)
    next(steps)
    alone = batches()
    alone.load_state_dict(loader.state_dict())
    assert list(alone) == whole[4:]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [(7, 3), (10, 0), (4, 1)])
def test_validation_has_every_sample_once_on_any_number_of_ranks(sizes: tuple[int, int], world_size: int):
    groups = [np.arange(sizes[0]), sizes[0] + np.arange(sizes[1])]
    batches = ordered_batches(groups, [4, 2], world_size)
    assert len(batches) % world_size == 0
    assert all(len(batch) for batch in batches)
    ranks = [InOrder(batches, list, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    assert sorted(n for rank in ranks for batch in rank for n in batch) == list(range(sum(sizes)))
    assert all(max(b) < sizes[0] or min(b) >= sizes[0] for b in batches)


def test_a_checkpoint_of_an_earlier_version_is_refused():
    with pytest.raises(ValueError, match="earlier version"):
        batches().load_state_dict({"epoch": 1, "position": 3})


def test_samples_are_numbered_group_by_group():
    groups = number_groups({(16, 8): 2, (8, 24): 3})
    assert {key: group.tolist() for key, group in groups.items()} == {(8, 24): [0, 1, 2], (16, 8): [3, 4]}
    assert [group_of(groups, sample) for sample in (0, 2, 3, 4)] == [(8, 24), (8, 24), (16, 8), (16, 8)]
