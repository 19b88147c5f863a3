"""Pickles, read without running anything in them, and without torch.

Whatever a pickle names, class or function, is replaced by an ``Inert`` one: it takes every argument, state
and item, and does nothing. Only plain values, lists and dictionaries keep their contents.
"""

import pickle
from typing import Any

Named = dict[tuple[str, str], Any]
"""(module, name) -> what takes the place of that class or function."""


class Inert:
    """Takes the place of an object of any class; the name of its type is what the pickle named."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


class Items(dict):
    """A dictionary of any class, with its items and without its attributes."""

    def __setstate__(self, state: Any) -> None:
        pass


DICTIONARIES: Named = {("collections", "OrderedDict"): Items}


class InertUnpickler(pickle.Unpickler):
    """Reads plain values; nothing that the pickle names is imported or called."""

    def __init__(self, file: Any, named: Named = DICTIONARIES) -> None:
        super().__init__(file, encoding="latin1")  # strings of Python 2
        self.named = named
        self._inert: dict[str, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.named:
            return self.named[module, name]
        path = f"{module}.{name}"
        return self._inert.setdefault(path, type(path, (Inert,), {}))

    def persistent_load(self, pid: Any) -> Any:
        return None
