"""Pickles in sharded checkpoints are refused before torch opens them."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from earlyfusion.cli.main import main
from earlyfusion.train.loop.resume import read_checkpoint
from earlyfusion.train.loop.shards import check_shards, guard

from .test_ranks import argv


class Runs:
    """Unpickled, it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded checkpoint as Lightning writes it."""
    folder = tmp_path_factory.mktemp("shards") / "last.ckpt"
    state = {
        "state_dict": {"w": torch.randn(4, 3), "b": torch.ones(2, dtype=torch.bfloat16)},
        "optimizer_0": {"lr": 0.1, "betas": (0.9, 0.99), "fused": None, "step": torch.tensor(1.0)},
    }
    dcp.save(state, checkpoint_id=folder)  # pyright: ignore[reportPrivateImportUsage]
    torch.save({"hyper_parameters": {"lr": 0.1}, "global_step": 3, "format": 2}, folder / "meta.pt")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "last.ckpt"
    copy.mkdir()
    for file in whole.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def edited(folder: Path, change: Callable[[Any], Any]) -> None:
    """Change ``.metadata``."""
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(metadata) or metadata))


def in_metadata(folder: Path, marker: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Runs(marker)))


def in_a_field(folder: Path, marker: Path) -> None:
    edited(folder, lambda metadata: setattr(metadata, "planner_data", Runs(marker)))


def in_old_protocol(folder: Path, marker: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Runs(marker), protocol=0))


def in_a_value(folder: Path, marker: Path) -> None:
    """A value that is not a tensor, in the shards: torch reads it without weights_only."""
    data = io.BytesIO()
    torch.save(Runs(marker), data)
    shard = folder / "__0_0.distcp"
    start = shard.stat().st_size
    with shard.open("ab") as file:
        file.write(data.getvalue())

    def change(metadata: Any) -> None:
        place = next(p for index, p in metadata.storage_data.items() if index.fqn == "optimizer_0.lr")
        place.offset, place.length = start, len(data.getvalue())

    edited(folder, change)


def in_meta(folder: Path, marker: Path) -> None:
    torch.save({"hyper_parameters": Runs(marker), "global_step": 3}, folder / "meta.pt")


CODE = [in_metadata, in_a_field, in_old_protocol, in_a_value, in_meta]


@pytest.mark.parametrize("attack", CODE)
def test_code_in_a_pickle_is_refused(folder: Path, tmp_path: Path, attack: Callable[[Path, Path], None]):
    attack(folder, tmp_path / "ran")
    with pytest.raises(ValueError) as caught:
        read_checkpoint(folder)
    assert "mkdir" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("attack", [in_metadata, in_a_value])
def test_the_command_refuses_it(
    folder: Path, tmp_path: Path, prepared: Path, attack: Callable[[Path, Path], None], capsys: Any
):
    attack(folder, tmp_path / "ran")
    command = ["lm", *argv(prepared, tmp_path, 1, sharded=True)]
    for stage, path in (("fit", "last"), ("validate", str(folder)), ("predict", "last")):
        options = [option for option in command[2:] if stage == "fit" or "warmup" not in option]
        assert main(["lm", stage, *options, f"--ckpt_path={path}"]) == 2
        assert not (tmp_path / "ran").exists()
        assert "mkdir" in capsys.readouterr().err.splitlines()[-1]


def test_lightning_reads_through_the_check(folder: Path, tmp_path: Path):
    """Also a checkpoint that Lightning finds by itself."""
    loaded: list[Any] = []
    strategy = SimpleNamespace(load_checkpoint=lambda path, weights_only: loaded.append(weights_only))
    guard(strategy)
    guard(strategy)
    strategy.load_checkpoint(folder)
    assert loaded == [True]
    in_metadata(folder, tmp_path / "ran")
    with pytest.raises(ValueError):
        strategy.load_checkpoint(folder)
    assert loaded == [True]


def test_a_checkpoint_passes(whole: Path):
    check_shards(whole)
    assert read_checkpoint(whole) == ({"lr": 0.1}, 3)


def outside(metadata: Any) -> None:
    next(iter(metadata.storage_data.values())).relative_path = "../secret.distcp"


def behind_the_end(metadata: Any) -> None:
    next(iter(metadata.storage_data.values())).length = 2**60


def transformed(metadata: Any) -> None:
    next(iter(metadata.storage_data.values())).transform_descriptors = ["zstd"]


@pytest.mark.parametrize("change", [outside, behind_the_end, transformed, lambda metadata: 5])
def test_other_contents_are_refused(folder: Path, change: Callable[[Any], Any]):
    edited(folder, change)
    with pytest.raises(ValueError) as caught:
        check_shards(folder)
    assert str(folder) in str(caught.value)


def test_a_class_cannot_be_changed(folder: Path):
    """BUILD on a class would set its attributes, in torch's own module."""
    module = b"torch.distributed.checkpoint.metadata"
    state = b"(N}V__setstate__\nNst"  # (None, {"__setstate__": None})
    (folder / ".metadata").write_bytes(b"c" + module + b"\nMetadata\n" + state + b"b.")
    with pytest.raises(ValueError):
        check_shards(folder)


def test_a_memo_entry_of_a_large_number_is_refused(folder: Path):
    """Python would allocate 16 bytes for each lower number."""
    (folder / ".metadata").write_bytes(b"Nr" + struct.pack("<I", 2**31) + b".")
    with pytest.raises(ValueError) as caught:
        check_shards(folder)
    assert str(2**31) in str(caught.value)


def test_a_compressed_record_is_refused(folder: Path):
    """10 MB of zeros, packed into 10 kB."""
    with zipfile.ZipFile(folder / "meta.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(ValueError) as caught:
        read_checkpoint(folder)
    assert "compressed" in str(caught.value)
