"""Group items of equal size into batches, for networks that take one size per call."""

from collections.abc import Callable, Hashable, Sequence


def equal_batches(keys: Sequence[Hashable | None], most: int | Callable[[int], int]) -> list[list[int]]:
    """Group the indices of equal keys into batches; indices whose key is None are left out.

    Args:
        keys: The key of each item, for example its size.
        most: Largest batch, or a function from the first index of a key to the largest batch of that key.

    Returns:
        Lists of indices into ``keys``.
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
