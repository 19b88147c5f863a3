"""Whole documents into windows of a fixed length."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """A packed window."""

    tokens: np.ndarray
    """(T,) int32, padded at the end."""
    documents: np.ndarray
    """(T,) int32: 0, 1, ... for the documents of this window, the next number for its padding."""


def pack(
    documents: Iterable[np.ndarray], length: int, pad: int, rng: np.random.Generator
) -> Iterator[Window]:
    """Pack documents, each at most ``length`` tokens, into windows of ``length`` tokens.

    The documents are shuffled, placed longest first into the fullest window that has room (best-fit
    decreasing: at most 22 % more windows than the best packing, in practice under 1 % padding), and the
    windows come out in random order. Every document is used exactly once.

    :raises ValueError: a document is longer than ``length``.
    """
    kept: list[np.ndarray] = []
    for document in documents:
        if len(document) > length:
            raise ValueError(f"a document has {len(document)} tokens, a window {length}")
        if len(document):
            kept.append(document)
    documents = kept
    order = rng.permutation(len(documents))
    order = sorted(order, key=lambda i: -len(documents[i]))  # stable: equal lengths stay shuffled
    windows: list[list[np.ndarray]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 1)]  # room left -> windows
    rooms: list[int] = []  # sorted, the rooms that some window has
    for i in order:
        document = documents[i]
        place = bisect_left(rooms, len(document))
        if place == len(rooms):
            windows.append([])
            window, room = len(windows) - 1, length
        else:
            room = rooms[place]
            window = by_room[room].pop()
            if not by_room[room]:
                rooms.pop(place)
        windows[window].append(document)
        if left := room - len(document):
            if not by_room[left]:
                insort(rooms, left)
            by_room[left].append(window)
    for w in rng.permutation(len(windows)):
        yield _window([windows[w][i] for i in rng.permutation(len(windows[w]))], length, pad)


def _window(documents: list[np.ndarray], length: int, pad: int) -> Window:
    tokens = np.full(length, pad, np.int32)
    numbers = np.full(length, len(documents), np.int32)
    start = 0
    for number, document in enumerate(documents):
        end = start + len(document)
        tokens[start:end], numbers[start:end] = document, number
        start = end
    return Window(tokens, numbers)
