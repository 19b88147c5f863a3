"""Batches of equal things, for networks that take one size at a time."""

from collections.abc import Callable, Hashable, Sequence


def equal_batches(keys: Sequence[Hashable | None], most: int | Callable[[int], int]) -> list[list[int]]:
    """Indices of equal keys in batches; indices whose key is None are left out.

    Args:
        keys: Sizes, for example.
        most: Largest batch, or a function that gives it for the first index of each key.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(i)
    batches = []
    for same in groups.values():
        size = most if isinstance(most, int) else most(same[0])
        batches += [same[i : i + size] for i in range(0, len(same), size)]
    return batches
