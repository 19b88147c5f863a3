# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
"""Folders of the image tokenizer: saving, loading, invalid files, older versions."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig

K = 16
KINDS: dict[str, dict[str, Any]] = {
    "vq": {},
    "vq learnable": {"learnable_codebook": True},
    "cosine": {},
    "cosine in groups": {"groups": 2, "norm": "layer"},
    "simvq": {},
    "fsq": {"fsq_levels": (4, 4)},
    "lfq": {},
    "ibq": {},
    "vq residual in groups": {"groups": 2, "residual": 2},
}


def build(kind: str = "cosine", **fields: Any) -> ImageTokenizer:
    """An untrained tokenizer of 8 x 8 pixels and 16 codes, whose codebook is fitted to its latents."""
    settings = {"stem": 4, "channels": (8, 16), "res_blocks": 1, "codebook_size": K, "codebook_dim": 4}
    settings |= {"quantizer": kind.split()[0], **KINDS[kind], **fields}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = ImageTokenizer(ImageTokenizerConfig(**settings)).eval()
        with torch.no_grad():
            tokenizer.initialize_codebook(tokenizer.latents(noise(8, 64, 64)).movedim(1, -1).flatten(0, 2))
    return tokenizer


def noise(batch: int, height: int, width: int) -> Tensor:
    """Images of random pixels, each with a different mean color."""
    generator = torch.Generator().manual_seed(0)
    color = torch.rand(batch, 3, 1, 1, generator=generator) * 2 - 1
    return (color + 0.5 * torch.randn(batch, 3, height, width, generator=generator)).clamp(-1, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved image tokenizer."""
    build().save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def edit(folder: Path, **values) -> None:
    """Change fields of the folder's config.json; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_keeps_every_bit(kind: str, tmp_path: Path) -> None:
    tokenizer = build(kind).train()
    images = noise(2, 16, 24)
    with torch.no_grad():
        for _ in range(3):  # so that the codebook's statistics are not round numbers
            tokenizer(images)
    tokenizer.save(tmp_path / "new" / "tokenizer")
    tokenizer.save(str(tmp_path / "new" / "tokenizer"))  # over itself
    assert sorted(p.name for p in (tmp_path / "new").rglob("*")) == [
        "config.json",
        "model.safetensors",
        "tokenizer",
    ]
    loaded = ImageTokenizer.load(tmp_path / "new" / "tokenizer")
    assert not loaded.training and loaded.config == tokenizer.config
    assert loaded.state_dict().keys() == tokenizer.state_dict().keys()
    for name, tensor in tokenizer.state_dict().items():
        other = loaded.state_dict()[name]
        assert tensor.dtype == other.dtype and torch.equal(tensor, other), name
    codes = tokenizer.eval().encode(images)
    assert torch.equal(loaded.encode(images), codes)
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))
    generators = []
    for one in (tokenizer, loaded):  # training continues from the same state
        torch.manual_seed(0)
        one.train()(images)
        generators.append(one.codebook)
    assert torch.equal(*generators)


def test_the_files_are_plain(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["kind"] == "image_tokenizer" and config["format"] == 1
    assert config["channels"] == [8, 16] and config["codebook_size"] == K and config["quantizer"] == "cosine"
    assert load_file(folder / "model.safetensors")["quantizer.slots.0._codebook.embed"].shape == (1, K, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "fusion_lm"}, r"kind.*'fusion_lm'.*'image_tokenizer'"),
        ({"kind": None}, r"kind.*None.*'image_tokenizer'"),
        ({"format": 2}, r"format.*2.*1"),
        ({"format": None}, r"format.*None.*1"),
        ({"depth": 3}, r"'depth'.*architecture, attention_levels, channels,"),
        ({"stem": 3}, r"config\.json.*stem"),
        ({"stem": "four"}, r"config\.json"),
        ({"channels": 8}, r"config\.json"),
        ({"channels": ["a"]}, r"config\.json"),
        ({"codebook_size": 32}, r"_codebook\.cluster_size.*\(1, 16\).*\(1, 32\)"),
        ({"channels": [8, 24]}, r"config\.json.*\(24,"),
        ({"channels": [8]}, r"decoder\.0\.bias.*\(16,\).*\(8,\)"),
        ({"res_blocks": 2}, r"holds the tensor.*config\.json"),
    ],
)
def test_a_config_that_does_not_fit(folder: Path, values: dict, message: str) -> None:
    edit(folder, **values)
    with pytest.raises(ValueError, match=message) as caught:
        ImageTokenizer.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "", "\xff\xfe"])
def test_a_config_that_is_not_a_json_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json is not a config of kind 'image_tokenizer'"):
        ImageTokenizer.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(name)} not found"):
        ImageTokenizer.load(folder)
    with pytest.raises(FileNotFoundError, match=r"config\.json not found"):
        ImageTokenizer.load(folder / "nowhere")


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"])
def test_weights_that_are_not_safetensors(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors.*safetensors file"):
        ImageTokenizer.load(folder)


def test_weights_that_were_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors.*safetensors file"):
        ImageTokenizer.load(folder)


def test_weights_of_other_names(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"tensor 'extra'.*config\.json"):
        ImageTokenizer.load(folder)
    del weights["encoder.1.weight"]
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"lacks.*'encoder\.1\.weight'.*config\.json"):
        ImageTokenizer.load(folder)


def test_a_failing_save_leaves_the_folder_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from earlyfusion.storage import weights

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(weights, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        build(codebook_size=8).save(folder)
    with pytest.raises(OSError, match="No space left"):
        build(codebook_size=8).save(folder.parent / "other")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("kind", ["cosine", "vq"])
def test_a_folder_of_an_earlier_version(kind: str, tmp_path: Path) -> None:
    """With the field ``cosine``, without newer fields, and with one quantizer without slots."""
    tokenizer = build(kind, norm="group")
    tokenizer.save(tmp_path)
    earlier = ("stem", "channels", "res_blocks", "codebook_size", "codebook_dim", "codebook_decay")
    earlier += ("dead_code_threshold", "kind", "format")
    config = json.loads((tmp_path / "config.json").read_text())
    config = {name: config[name] for name in earlier} | {"cosine": kind == "cosine"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = tmp_path / "model.safetensors"
    weights = {n.replace("quantizer.slots.0.", "quantizer."): t for n, t in load_file(path).items()}
    assert "quantizer._codebook.embed" in weights
    save_file(weights, path)

    loaded = ImageTokenizer.load(tmp_path)
    assert loaded.config == tokenizer.config
    images = noise(2, 16, 24)
    codes = tokenizer.encode(images)
    assert torch.equal(loaded.encode(images), codes) and len(codes.unique()) > 3
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))
    loaded.save(tmp_path / "upgraded")
    assert json.loads((tmp_path / "upgraded" / "config.json").read_text())["quantizer"] == kind
    again = ImageTokenizer.load(tmp_path / "upgraded")
    assert torch.equal(again.encode(images), codes)
