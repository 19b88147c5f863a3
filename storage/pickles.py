"""Pickles, read without running anything in them, and without torch.

Whatever a pickle names, class or function, is replaced by an ``Inert`` one: it takes every argument, state
and item, and does nothing. Only plain values, lists and dictionaries keep their contents.
"""

import pickle
import pickletools
import re
import zipfile
from pathlib import Path
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

        self._file = file

    def load(self) -> Any:
        """The next value of the file.

        Raises:
            ValueError: It needs more memory than its size explains.
        """
        self._check_memo()
        return super().load()

    def _check_memo(self) -> None:
        """Python's unpickler allocates as many places as the highest number of a memo entry, up to 32 GB."""
        start = self._file.tell()
        try:
            for code, number, _ in pickletools.genops(self._file):
                if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and number > self._file.tell() - start:
                    raise ValueError(f"the pickle numbers an entry {number}, more than it has bytes")
        finally:
            self._file.seek(start)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.named:
            return self.named[module, name]
        path = f"{module}.{name}"
        return self._inert.setdefault(path, type(path, (Inert,), {}))

    def persistent_load(self, pid: Any) -> Any:
        return None


class RestrictedUnpickler(InertUnpickler):
    """Refuses a pickle that names anything but ``named``, instead of making it ``Inert``."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.named:
            raise ValueError(f"it names {module}.{name}, which is not part of this format")
        return self.named[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise ValueError("it refers to objects outside of the pickle")


def check_stored(file: Any) -> None:
    """Refuse a zip of ``torch.save`` with compressed records: 10 MB could unpack to 10 GB.

    Args:
        file: A path, or an open file. One that is not a zip is accepted, being of an older format.

    Raises:
        ValueError: A record is compressed (``torch.save`` stores them all), or records overlap.
    """
    if isinstance(file, str | Path) and not Path(file).is_file():  # a pipe, which would block
        raise ValueError("it is not a file")
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        assert archive.fp is not None
        size = archive.fp.seek(0, 2)
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("it holds compressed records, which torch.save does not write")
    if sum(record.file_size for record in records) > size:
        raise ValueError("its records overlap")


def reason(error: BaseException) -> str:
    """Why a file of ``torch.save`` was refused, in one line; torch's advice to unpickle it is left out."""
    if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL ([\w.]+)", str(error))):
        return f"it names {found[1]}, which is neither a tensor nor a plain value"
    return next(iter(str(error).splitlines()), type(error).__name__)
