"""The length of a safetensors file's header, checked before a library reads it. Imports no torch."""

from pathlib import Path

LARGEST_HEADER = 2**25
"""Bytes; the header of a model of 10,000 tensors has 1.5 MB."""


def check_header(path: Path) -> None:
    """Refuse a safetensors file whose header would fill the memory.

    Raises:
        ValueError: It is not a file, or its header is longer than the file or than 32 MiB.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a readable safetensors file: it is not a file")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER or length + 8 > path.stat().st_size:
        raise ValueError(
            f"{path} is not a readable safetensors file: its header has {length:,} bytes, expected at most "
            f"{LARGEST_HEADER:,}, and no more than the file"
        )
