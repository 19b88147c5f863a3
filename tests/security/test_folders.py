"""Malicious model, tokenizer and prepared folders, made here by scripts: every command that could open one
refuses it in one line, within seconds and 2 GB, and runs nothing in it. docs/security.md has the promises;
pickles in checkpoints are in tests/train/loop/test_shards.py.
"""

import json
import os
import pickle
import resource
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from earlyfusion.cli.main import main
from earlyfusion.fusion_lm.config import BOUNDS, FusionLMConfig, shapes
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.storage.fields import check_fields
from earlyfusion.tokenizers.image_config import BOUNDS as IMAGE_BOUNDS
from earlyfusion.tokenizers.image_config import ImageTokenizerConfig
from earlyfusion.train.loop.fit import read_checkpoint

MEMORY, SECONDS = 2 * 2**30, 20
CONFIG, WEIGHTS = "config.json", "model.safetensors"
IMAGE, VOCAB, TEXT = f"tokenizer/image/{CONFIG}", "tokenizer/vocab.json", "tokenizer/text.model"


class Runs:
    """Unpickled, it creates a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


@pytest.fixture(autouse=True)
def limited(tmp_path: Path) -> Iterator[None]:
    """Each test has 2 GB more memory than this process already uses; no marker appears."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A model, to be damaged."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def fields(file: str, **values: Any) -> Callable[[Path], None]:
    """Sets fields of a JSON file."""

    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def content(file: str, data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(data)


def header(value: Any, length: int | None = None, data: bytes = b"") -> Callable[[Path], Any]:
    """A safetensors file with that header, and perhaps another length of it than it has."""
    text = json.dumps(value).encode()
    return content(WEIGHTS, struct.pack("<Q", len(text) if length is None else length) + text + data)


def pickled(file: str, **options: Any) -> Callable[[Path], Any]:
    """A pickle in place of a file."""
    return lambda folder: (folder / file).write_bytes(pickle.dumps(Runs(folder.parent / "ran"), **options))


def zipped(file: str) -> Callable[[Path], None]:
    return lambda folder: torch.save(Runs(folder.parent / "ran"), folder / file)


def cut(file: str, share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: int(len(data) * share)])

    return change


def link(file: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to(target)

    return change


def pipe(file: str) -> Callable[[Path], None]:
    """Reading it would block for ever."""

    def change(folder: Path) -> None:
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return change


def modality(**values: Any) -> Callable[[Path], None]:
    """Changes the second modality of the vocabulary; with ``layout``, fields of its layout."""

    def change(folder: Path) -> None:
        vocab = json.loads((folder / VOCAB).read_text())
        entry = vocab["modalities"][1]
        layout = {**entry["layout"], **values.pop("layout", {})}
        vocab["modalities"][1] = {**entry, "layout": layout, **values}
        (folder / VOCAB).write_text(json.dumps(vocab))

    return change


NESTED = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
SHOWN: dict[str, Callable[[Path], None]] = {
    **{f"{name} {value}": fields(CONFIG, **{name: value}) for name, value in (
        ("n_layers", 10**6), ("n_layers", 1000), ("n_layers", True), ("n_layers", 2.0), ("n_layers", -1),
        ("width", 10**9), ("width", 2**17), ("ffn_width", 10**12), ("context_length", 10**15),
        ("context_length", "9"), ("norm_eps", "x"), ("norm_eps", None), ("norm_eps", -1), ("rope_theta", 0),
        ("rope_theta", [1]), ("dropout", True), ("logit_soft_cap", -3), ("qk_norm", ["layer"]),
        ("tie_embeddings", 1), ("vocab_size", 2**40), ("n_heads", 0), ("n_kv_heads", {}), ("what", 1),
    )},
    "NaN": content(CONFIG, b'{"kind": "fusion_lm", "format": 1, "norm_eps": NaN}'),
    "infinity": content(CONFIG, b'{"kind": "fusion_lm", "format": 1, "rope_theta": 1e999}'),
    "digits": content(CONFIG, b'{"kind": "fusion_lm", "format": 1, "width": ' + b"9" * 9999 + b"}"),
    "nested": content(CONFIG, NESTED),
    "large": content(CONFIG, b'{"a": [' + b"[]," * 6_000_000 + b"[]]}"),
    "list": content(CONFIG, b"[]"),
    "bytes": content(CONFIG, b"\xff\xfe\x00"),
    "pickle as config": pickled(CONFIG),
    "config is a device": link(CONFIG, "/dev/zero"),
    "config is a pipe": pipe(CONFIG),
    "a header of 2^60": header({}, 2**60),
    "a header of 1 GB": header({}, 2**30),
    "a header without a file": content(WEIGHTS, b"\xff"),
    "an empty file": content(WEIGHTS, b""),
    "no tensors": header({}),
    "tensors of 2^50": header({"a": {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 2**52]}}),
    "an overflow": header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]}}),
    "negative": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, data=b"1234"),
    "nested header": content(WEIGHTS, struct.pack("<Q", len(NESTED)) + NESTED),
    "cut weights": cut(WEIGHTS, 0.9),
    "pickle as weights": pickled(WEIGHTS),
    "torch.save as weights": zipped(WEIGHTS),
    "weights are a device": link(WEIGHTS, "/dev/zero"),
    "weights are a pipe": pipe(WEIGHTS),
    **{f"size {value}": fields(VOCAB, size=value) for value in (10**12, -1, "8", True, None)},
    "roles": fields(VOCAB, roles={"bos": 0, "eos": 0.5, "pad": 2, "sep": None}),
    "more roles": fields(VOCAB, roles={"bos": 0, "eos": 1, "pad": 2, "__class__": 1}),
    "no modalities": fields(VOCAB, modalities=[]),
    "another format": fields(VOCAB, format=[1]),
    "up": modality(name="../image"),
    "root": modality(name="/etc"),
    "a long name": modality(name="a" * 10_000),
    "no name": modality(name=None),
    "a range of 10^15": modality(ranges=[{"token": 0, "id": 0, "count": 10**15}]),
    "a range of text": modality(ranges=[{"token": "0", "id": 0, "count": 1}]),
    "10^9 slots": modality(layout={"slots": 10**9}),
    "a shape": modality(layout={"numbers": None, "shape": [10**6, 10**6]}),
    "axes": modality(layout={"axes": 10**9}),
    "a garbled sentencepiece": content(TEXT, b"\x0a\xff\xff\xff\xff\x7f" + b"garbage" * 99),
    "an empty sentencepiece": content(TEXT, b""),
    "a cut sentencepiece": cut(TEXT, 0.5),
    "sentencepiece is a device": link(TEXT, "/dev/zero"),
    **{f"image {name} {value}": fields(IMAGE, **{name: value}) for name, value in (
        ("res_blocks", 10**7), ("channels", [100_000, 100_000]), ("channels", [8] * 10_000),
        ("channels", "ab"), ("channels", 8), ("codebook_size", 10**12), ("codebook_dim", 10**9),
        ("codebook_size", True), ("groups", 10**9), ("residual", 10**6), ("stem", 2**40), ("stem", 3),
        ("z_channels", 10**8), ("fsq_levels", [10**9]), ("norm", []), ("decoder", "no"),
        ("codebook_decay", "x"), ("dead_code_threshold", -1), ("preprocessing", {"a": 1}),
    )},
}  # fmt: skip
"""Name -> how a folder is damaged, so that `info` sees it."""
LOADED: dict[str, Callable[[Path], None]] = {
    "res_blocks 64": fields(IMAGE, res_blocks=64),
    "channels 8192": fields(IMAGE, channels=[8192] * 8, stem=1),
    "64 slots": fields(IMAGE, groups=64, codebook_size=2**20, codebook_dim=4096),
    "vqgan": fields(IMAGE, architecture="vqgan", channels=[8192] * 8, res_blocks=64, stem=1),
    "fsq": fields(IMAGE, quantizer="fsq", fsq_levels=[1024, 1024], codebook_size=2**20),
    "lfq": fields(IMAGE, quantizer="lfq", codebook_size=2**20, codebook_dim=20),
    "integers": header({
        name: {"dtype": "I8", "shape": list(shape), "data_offsets": [0, 0]}
        for name, shape in {"embedding.weight": (0,)}.items()
    }),
    "cut image": cut(f"tokenizer/image/{WEIGHTS}", 0.5),
    "pickle as image": pickled(f"tokenizer/image/{WEIGHTS}"),
}  # fmt: skip
"""What fits the bounds, but not the weights: `info` does not build a network, so it may describe it."""


def refused(capsys: pytest.CaptureFixture[str], *argv: Any) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    began = time.process_time()
    assert main([str(a) for a in argv]) == 2
    assert time.process_time() - began < SECONDS
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("earlyfusion: ")
    return lines[0]


@pytest.mark.parametrize("name", [*SHOWN, *LOADED])
def test_a_model_is_refused(name: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    (SHOWN | LOADED)[name](folder)
    began = time.process_time()
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_model(folder)
    assert time.process_time() - began < SECONDS
    assert "\n" not in str(caught.value).strip()
    if name in SHOWN:
        assert len(refused(capsys, "info", folder)) < 2000


SOME = [
    "n_layers 1000000",
    "norm_eps x",
    "a header of 2^60",
    "pickle as weights",
    "image res_blocks 10000000",
]


@pytest.mark.parametrize("name", SOME)
def test_every_command_refuses_it(
    name: str, folder: Path, tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
):
    SHOWN[name](folder)
    out = tmp_path / "out"
    commands = [
        ["sample", "--model", folder, "--out", out, "A"],
        ["eval", "lm", folder, "--out", out],
        ["eval", "reading", folder, "--out", out],
        ["export", folder, out],
        ["lm", "fit", f"--data.path={prepared}", f"--model.init_from={folder}", "--trainer.max_steps=1",
         f"--trainer.default_root_dir={out}", "--trainer.accelerator=cpu"],
    ]  # fmt: skip
    if name == SOME[0]:  # their libraries take seconds to load
        commands += [["playground", folder], ["eval", "writing", folder, "--out", out]]
    if name.startswith("image"):
        tokenizer = folder / "tokenizer/image"
        commands += [
            ["eval", "reconstruction", folder, "--out", out],
            ["image-tokenizer", "encode", tmp_path, "--model", tokenizer, "--out", out],
            ["prepare", "--documents", prepared / "train", "--model", folder, "--out", out],
        ]
    for command in commands:
        refused(capsys, *command)


@pytest.mark.parametrize("file", ["last.ckpt", "pytorch_model.bin", "vqgan.ckpt"])
@pytest.mark.parametrize("kind", ["zip", "0", "5", "compressed"])
def test_a_pickle_is_refused(file: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, marker = tmp_path / file, tmp_path / "ran"
    if kind == "zip":
        torch.save({"hyper_parameters": Runs(marker), "global_step": 1, "state_dict": Runs(marker)}, path)
    elif kind == "compressed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\0" * 2**24)
    else:
        path.write_bytes(pickle.dumps(Runs(marker), protocol=int(kind)))
    if file == "last.ckpt":
        with pytest.raises(ValueError):
            read_checkpoint(path)
        if kind != "zip":  # `info` leaves objects out
            refused(capsys, "info", path)
    else:
        option = ["--vqgan", path] if file == "vqgan.ckpt" else []
        refused(capsys, "import", tmp_path, *option, "--out", tmp_path / "out")


@pytest.mark.parametrize("change", [
    content("prepare.json", b"[1]"), content("prepare.json", b'{"format": ' + b"[" * 10**5),
    fields("prepare.json", train={"windows": "many", "tokens": {}}), fields("prepare.json", train=[1]),
    fields("prepare.json", train={"windows": 1, "tokens": {"text": [1]}}),
    content("tokenizer/vocab.json", b"{}"), content("prepare.json", pickle.dumps(1)),
])  # fmt: skip
def test_a_prepared_folder_is_refused(
    change: Any, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = Path(shutil.copytree(prepared, tmp_path / "prepared"))
    change(folder)
    refused(capsys, "info", folder)


@pytest.mark.parametrize("change", [
    content("train/state.json", b'{"_data_files": [{"filename": "../../../../etc/passwd"}]}'),
    content("train/dataset_info.json", b"[" * 10**5), content("train/state.json", b"\xff"),
    pipe("train/data-00000-of-00001.arrow"),
    content("tokenizer/vocab.json", b"{}"),
])  # fmt: skip
def test_training_on_it_is_refused(
    change: Any, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = Path(shutil.copytree(prepared, tmp_path / "prepared"))
    change(folder)
    refused(capsys, "lm", "fit", f"--data.path={folder}", "--trainer.max_steps=1",
            f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false")  # fmt: skip


@pytest.mark.parametrize("config, bounds", [
    (FusionLMConfig(), BOUNDS), (ImageTokenizerConfig(), IMAGE_BOUNDS),
])  # fmt: skip
def test_every_number_has_bounds(config: Any, bounds: Any):
    check_fields(config, bounds)  # KeyError


def test_the_shapes_are_those_of_the_network():
    changes: list[dict[str, Any]] = [{}, {"tie_embeddings": True}, {"qk_norm": "rms"}]
    for values in (*changes, {"qk_norm": "none", "n_kv_heads": 2}):
        config = FusionLMConfig(vocab_size=50, n_layers=2, **values)
        with torch.device("meta"):
            state = FusionLM(config).state_dict()
        if config.tie_embeddings:
            del state["lm_head.weight"]
        assert shapes(config) == {name: tuple(tensor.shape) for name, tensor in state.items()}
