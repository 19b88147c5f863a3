"""Checkpoints with other objects in them: the tensors are read, and nothing is run."""

import builtins
import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from earlyfusion.storage import pickled_tensors
from earlyfusion.storage.pickled_tensors import MAGIC, read_pickled
from earlyfusion.storage.pickles import Inert, Items
from earlyfusion.storage.tensor_files import load_pytorch


class Callback:
    """What Lightning 1 pickles."""

    def __init__(self) -> None:
        self.best, self.scores = "last.ckpt", {1: torch.ones(2)}


class Named:
    """Pickled as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_the_tensors_of_a_whole_checkpoint(tmp_path: Path, zipped: bool):
    base = torch.arange(24.0)
    weights = {
        "a": torch.randn(3, 4, dtype=torch.bfloat16),
        "b.weight": torch.nn.Parameter(torch.randn(2, 3)),
        "part": base[6:18].view(3, 4).T,  # a view with an offset and other strides
        "same": base,
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0, 5),
        "half": torch.ones(3, dtype=torch.float16),
    }
    path = tmp_path / "last.ckpt"
    whole = {
        "epoch": 3,
        "state_dict": weights,
        "callbacks": {Callback: Callback()},
        "hyper_parameters": Callback(),
    }
    torch.save(whole, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = read_pickled(path)
    assert found["epoch"] == 3 and isinstance(found["hyper_parameters"], Inert)
    assert found["state_dict"].keys() == weights.keys()
    for name, tensor in weights.items():
        assert (
            torch.equal(found["state_dict"][name], tensor) and found["state_dict"][name].dtype == tensor.dtype
        )


def zipped(path: Path, data: bytes, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, record in records.items():
            archive.writestr(f"archive/data/{name}", record)
    return path


def legacy(path: Path, data: bytes) -> Path:
    first = [pickle.dumps(one, 2) for one in (MAGIC, 1001, {})]
    path.write_bytes(b"".join([*first, data, pickle.dumps([], 2)]))
    return path


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def attacks(mark: str) -> dict[str, bytes]:
    """Pickles that would write the file ``mark`` if anything in them were run, or change this process."""
    line = f"touch {mark}"
    calls = {
        "system": Named(os.system, line),
        "eval": Named(eval, f"open({mark!r}, 'w')"),
        "exec": Named(exec, f"open({mark!r}, 'w')"),
        "open": Named(open, mark, "w"),
        "popen": Named(subprocess.Popen, ["touch", mark]),
        "torch": Named(torch.load, mark),
        "state": {"weight": [Named(os.system, line)], Named(os.system, line): 1},
    }
    made = {name: pickle.dumps(value, 2) for name, value in calls.items()}
    made["getattr"] = (
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'%s'\ntR." % line.encode()
    )
    made["protocol 0"] = b"cos\nsystem\n(S'%s'\ntR." % line.encode()
    made["inst"] = b"(S'%s'\nios\nsystem\n." % line.encode()
    made["obj"] = b"(cos\nsystem\nS'%s'\no." % line.encode()
    made["protocol 4, dotted"] = (
        b"\x80\x04" + short("builtins") + short("__import__.__call__") + b"\x93" + short("os") + b"\x85R."
    )
    made["newobj_ex"] = b"\x80\x04" + short("os") + short("system") + b"\x93" + short(line) + b"\x85}\x92."
    change = b"(N}X\x0c\x00\x00\x00__defaults__N(ttsX\x01\x00\x00\x00xK\x01stb."
    made["attributes of a function"] = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + change
    made["attributes of a class"] = b"\x80\x02ccollections\nOrderedDict\n(N}X\x06\x00\x00\x00updateNstb."
    made["attributes of an object"] = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsNsb."
    made["a registered extension"] = b"\x80\x02\x82\x01."
    return made


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("kind", list(attacks("")))
def test_nothing_in_a_pickle_is_run(tmp_path: Path, kind: str, write: Any, monkeypatch: pytest.MonkeyPatch):
    mark = tmp_path / "mark"
    imported: list[str] = []
    find = builtins.__import__
    path = write(tmp_path / "evil.ckpt", attacks(str(mark))[kind])
    before = vars(Items).copy(), vars(pickled_tensors._Rebuilt).copy()
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *a, **k: imported.append(name) or find(name, *a, **k)
    )
    try:
        value = read_pickled(path)
    except ValueError as error:
        assert "evil.ckpt" in str(error) and "\n" not in str(error)
    else:
        assert isinstance(value, Inert | dict)
    assert not mark.exists() and "os" not in imported
    assert before == (vars(Items).copy(), vars(pickled_tensors._Rebuilt).copy())


def tensor(key: str, size: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A pickle of one tensor, by hand."""

    def number(n: int) -> bytes:
        return b"J" + struct.pack("<i", n)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + short("storage") + b"ctorch\nFloatStorage\n" + short(key) + short("cpu") + number(size)
    arguments = storage + b"tQ" + number(offset) + numbers(shape) + numbers(stride) + b"\x89N"
    return b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR."


def test_tensors_stay_inside_their_numbers(tmp_path: Path):
    record = {"0": torch.arange(4.0).numpy().tobytes()}
    good = read_pickled(zipped(tmp_path / "a.pt", tensor("0", 4, 1, (3,), (1,)), **record))
    assert good.tolist() == [1, 2, 3]
    for case in (
        ("0", 4, 2, (3,), (1,)),
        ("0", 4, -1, (3,), (1,)),
        ("0", 4, 0, (2,), (-1,)),
        ("0", 4, 0, (2, 2), (1,)),
        ("0", 2**30, 0, (2**30,), (1,)),
        ("0", 4, 0, (2**30, 2**30), (0, 0)),
        ("../../etc/passwd", 4, 0, (4,), (1,)),
    ):
        with pytest.raises(ValueError, match=r"a\.pt"):
            read_pickled(zipped(tmp_path / "a.pt", tensor(*case), **record))


def test_cut_files_end_in_one_line(tmp_path: Path):
    # torch sorts the storages of a file by their addresses; none is read of these, so any may be the last.
    torch.save({"a": 1, "b": Callback()}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pt").read_bytes()
    for end in range(len(data)):
        (tmp_path / "cut.pt").write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"cut\.pt") as caught:
            read_pickled(tmp_path / "cut.pt")
        assert "\n" not in str(caught.value)


def test_loading_a_checkpoint_runs_nothing(tmp_path: Path):
    """``load_pytorch`` asks torch first, which must refuse what it would have to call."""
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    for zipped_file in (True, False):
        path = tmp_path / f"evil-{zipped_file}.ckpt"
        torch.save(
            {"weight": torch.ones(2), "more": Evil()}, path, _use_new_zipfile_serialization=zipped_file
        )
        try:
            found = load_pytorch(path)
        except ValueError as error:
            assert path.name in str(error)
        else:
            assert not isinstance(found["more"], Path)
        assert not mark.exists()
