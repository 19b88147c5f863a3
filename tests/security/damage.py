"""Damages files at random: their bytes, the values of their JSON, their place in the folder, pickles."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

NESTED: Any = []
for _ in range(900):
    NESTED = [NESTED]
ODD: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 64, 255, 65_536, 10**6, 2**31, 2**40, 10**12, 2**63, 10**30),
    *(0.5, -0.0, 1e-41, 1e308, float("nan"), float("inf"), None, True, False),
    *(
        "",
        "x",
        "0",
        "../../x",
        "/dev/zero",
        "\0",
        "\ud800",
        "\x1b[2J\n",
        "é" * 300,
        "a" * 100_000,
        "__class__",
        "image",
    ),
    *([], {}, [[]], [None], {"": 0}, {"__class__": "x"}, list(range(20)), NESTED),
)
"""Values for JSON."""
NUMBERS = [
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63,
    2**64 - 1,
]
"""For places that may hold a length."""


class Runs:
    """Unpickled, it creates a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """``data`` after one to four changes; most of them are near its beginning, where headers are."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        size = len(data)
        at = rng.randrange(max(1, size if rng.random() < 0.5 else min(size, 400)))
        more = rng.choice([1, 2, 4, 8, 16, 100, size // 4 + 1])
        match rng.randrange(7):
            case 0:
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)] if size else []) + data[at + 1 :]
            case 1:
                data = data[:at] + rng.randbytes(more) + data[at + more :]
            case 2:
                data = data[:at] + data[at + more :]
            case 3:
                data = data[:at] + data[at : at + more] * rng.choice([2, 3, 50]) + data[at + more :]
            case 4:
                width = rng.choice([1, 2, 4, 8])
                number = rng.choice(NUMBERS) % 256**width
                data = data[:at] + number.to_bytes(width, rng.choice(["little", "big"])) + data[at + width :]
            case 5:
                data = data[:at]
            case 6:
                data = data[:at] + rng.randbytes(more) + data[at:]
    return data


def damage_json(value: Any, rng: random.Random) -> Any:
    """A copy of ``value`` in which something is replaced, left out, added, copied or repeated."""
    value = json.loads(json.dumps(value))
    places: list[tuple[Any, Any]] = []
    values: list[Any] = []

    def walk(part: Any) -> None:
        for key, item in part.items() if isinstance(part, dict) else enumerate(part):
            places.append((part, key))
            values.append(item)
            if isinstance(item, dict | list):
                walk(item)

    if isinstance(value, dict | list):
        walk(value)
    if not places:
        return rng.choice(ODD)
    for _ in range(rng.choice([1, 1, 2])):
        part, key = rng.choice(places)
        try:
            match rng.randrange(6):
                case 0 | 1:
                    part[key] = rng.choice(ODD)
                case 2:
                    del part[key]
                case 3:
                    part[key] = json.loads(json.dumps(rng.choice(values)))
                case 4:
                    if isinstance(part, dict):
                        part[rng.choice(["new", "__init__", str(key) + "s"])] = rng.choice(ODD)
                    else:
                        part[:] = part * rng.choice([2, 1000])
                case 5:
                    if type(part[key]) in (int, float):
                        part[key] *= rng.choice([-1, 0, 0.5, 2, 3, 1000, 10**6])
                    else:
                        part[key] = str(part[key]) if rng.random() < 0.5 else [part[key]]
        except (KeyError, IndexError):  # an earlier change removed it
            continue
    return value


def _as_json(data: bytes, rng: random.Random) -> bytes:
    return json.dumps(damage_json(json.loads(data), rng)).encode()


def _as_safetensors(data: bytes, rng: random.Random) -> bytes:
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = _as_json(data[8:end], rng)
    return struct.pack("<Q", len(header)) + header + data[end:]


def _as_zip(data: bytes, rng: random.Random) -> bytes:
    """One record is damaged, with a checksum that is right."""
    read, written = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    chosen = rng.choice([name for name in read.namelist() if name.endswith(".pkl")] * 9 + read.namelist())
    with zipfile.ZipFile(written, "w") as archive:
        for name in read.namelist():
            archive.writestr(name, damage_bytes(read.read(name), rng) if name == chosen else read.read(name))
    return written.getvalue()


FORMATS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": _as_json,
    ".safetensors": _as_safetensors,
    ".ckpt": _as_zip,
    ".pt": _as_zip,
}


def damage_file(path: Path, rng: random.Random, marker: Path) -> None:
    """Damage one file; a pickle that runs code creates the folder ``marker``."""
    data = path.read_bytes()
    kind = rng.random()
    if kind < 0.45 and (damaged := FORMATS.get(path.suffix)):
        path.write_bytes(damaged(data, rng))
    elif kind < 0.85:
        path.write_bytes(damage_bytes(data, rng))
    elif kind < 0.93:
        path.write_bytes(
            rng.choice([b"", b"[" * 10**5, pickle.dumps(Runs(marker), rng.randrange(6)), bytes(2**20)])
        )
    else:
        path.unlink()
        match rng.randrange(5):
            case 0:
                path.mkdir()
            case 1:
                path.symlink_to(rng.choice(["/dev/zero", path.name, "/nowhere"]))
            case 2:
                os.mkfifo(path)
            case 3:
                others = [other for other in path.parent.iterdir() if other.is_file()]
                path.write_bytes(rng.choice(others).read_bytes() if others else b"")


def damage_folder(folder: Path, rng: random.Random, marker: Path) -> None:
    """Damage one or two files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in rng.sample(files, min(len(files), rng.choice([1, 1, 1, 2]))):
        damage_file(path, rng, marker)
