"""Whole documents into windows of a fixed length."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Document(NamedTuple):
    """The tokens of a document, or of a piece of one."""

    tokens: np.ndarray
    """(T,) int32."""
    learned: np.ndarray | None = None
    """(T,) bool: the tokens that are targets of training. None means all."""


class Window(NamedTuple):
    """A packed window."""

    tokens: np.ndarray
    """(T,) int32, padded at the end."""
    documents: np.ndarray
    """(T,) int32: 0, 1, ... for the documents of this window, the next number for its padding."""
    learned: np.ndarray
    """(T,) bool: as in ``Document``; true for padding, which the loss leaves out by its token."""


def pack(documents: Iterable[Document], length: int, pad: int, rng: np.random.Generator) -> Iterator[Window]:
    """Pack documents, each at most ``length`` tokens, into windows of ``length`` tokens.

    The documents are shuffled and placed longest first into the fullest window that has room (best-fit
    decreasing: at most 22 % more windows than the best packing, in practice under 1 % padding). The windows
    come out in random order. Every document is used exactly once.

    Raises:
        ValueError: A document is longer than ``length``.
    """
    kept: list[Document] = []
    for document in documents:
        if len(document.tokens) > length:
            raise ValueError(f"a document has {len(document.tokens)} tokens, more than a window ({length})")
        if len(document.tokens):
            kept.append(document)
    order = rng.permutation(len(kept))
    order = sorted(order, key=lambda i: -len(kept[i].tokens))  # stable: equal lengths stay shuffled
    windows: list[list[Document]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 1)]  # room left -> windows
    rooms: list[int] = []  # sorted, the rooms that some window has
    for i in order:
        document, size = kept[i], len(kept[i].tokens)
        place = bisect_left(rooms, size)
        if place == len(rooms):
            windows.append([])
            window, room = len(windows) - 1, length
        else:
            room = rooms[place]
            window = by_room[room].pop()
            if not by_room[room]:
                rooms.pop(place)
        windows[window].append(document)
        if left := room - size:
            if not by_room[left]:
                insort(rooms, left)
            by_room[left].append(window)
    for w in rng.permutation(len(windows)):
        yield _window([windows[w][i] for i in rng.permutation(len(windows[w]))], length, pad)


def _window(documents: list[Document], length: int, pad: int) -> Window:
    tokens = np.full(length, pad, np.int32)
    numbers = np.full(length, len(documents), np.int32)
    learned = np.ones(length, bool)
    start = 0
    for number, document in enumerate(documents):
        end = start + len(document.tokens)
        tokens[start:end], numbers[start:end] = document.tokens, number
        if document.learned is not None:
            learned[start:end] = document.learned
        start = end
    return Window(tokens, numbers, learned)
