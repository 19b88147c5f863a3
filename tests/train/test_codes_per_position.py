"""Several codes per position on the whole way: prepare, embeddings, sampling, info."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from earlyfusion.cli.info import describe
from earlyfusion.cli.main import build_parser
from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.data.sources import load_saved
from earlyfusion.fusion_lm.folder import load_model, save_model
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.documents import DocumentTokenizer, split
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.lm.first_weights import start_from_codebook

K, N = 16, 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, text_tokenizer) -> tuple[Path, Path]:
    """Folders of a text tokenizer, and of an image tokenizer with two codes per position."""
    folder = tmp_path_factory.mktemp("tokenizers")
    config = ImageTokenizerConfig(
        stem=4, channels=(8, 16), res_blocks=1, codebook_size=K, codebook_dim=4, groups=N
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ImageTokenizer(config).save(folder / "image")
    text_tokenizer.save(folder / "text")
    return folder / "text", folder / "image"


def prepared_with(folders: tuple[Path, Path], documents: Path, out: Path, **changes: Any) -> list[list[int]]:
    """The documents in the windows that ``prepare`` makes."""
    settings = {"context_length": 96, "validation_share": 0.0, "max_grid": 16, **changes}
    text, image = map(str, folders)
    prepare(PrepareConfig(str(documents), str(out), text, image, **settings), lambda *_: None)
    vocab = SharedVocab.load(out / "tokenizer")
    assert (vocab["image"].slots, vocab["image"].codebook_size) == (N, K)
    found = []
    for row in datasets.load_from_disk(str(out / "train")):
        assert isinstance(row, dict)
        tokens, numbers = np.array(row["tokens"]), np.array(row["documents"])
        here = [tokens[numbers == number].tolist() for number in np.unique(numbers)]
        found += [document for document in here if document[0] != vocab.pad]
    return found


def test_prepared_windows_hold_the_documents(tmp_path: Path, folders, documents: Path) -> None:
    found = prepared_with(folders, documents, tmp_path, scan="columns")
    tokenizer = DocumentTokenizer.load(tmp_path / "tokenizer")
    expected = []
    for row in load_saved(documents):
        assert isinstance(row, dict)
        pairs = zip(row["images"], row["texts"], strict=True)
        expected.append(
            tokenizer.encode([s for pair in pairs for s in pair if s is not None]).tokens.tolist()
        )
    assert sorted(found) == sorted(expected)
    parts = [part for document in found for part in split(torch.tensor(document), tokenizer.vocab)]
    assert {tuple(p.values.shape[2:]) for p in parts if p.kind == "image"} == {(N,)}


def test_long_documents_are_split_between_images(tmp_path: Path, folders, documents: Path) -> None:
    """The largest images are 2 x 5 positions: 24 tokens, which need a window of 26."""
    whole = prepared_with(folders, documents, tmp_path / "whole")
    split_up = prepared_with(folders, documents, tmp_path / "split", context_length=26)
    vocab = SharedVocab.load(tmp_path / "split" / "tokenizer")
    assert max(map(len, split_up)) == 26 < max(map(len, whole))
    images = [
        sorted(
            part.values.flatten().tolist()
            for document in found
            for part in split(torch.tensor(document), vocab)
            if part.kind == "image"
        )
        for found in (split_up, whole)
    ]
    assert images[0] == images[1] and len(images[0]) == 120
    record = prepare_record(folders, documents, tmp_path / "small", context_length=25)
    assert record["dropped"] == {"image larger than a window": 30}


def prepare_record(folders: tuple[Path, Path], documents: Path, out: Path, **changes: Any) -> dict[str, Any]:
    with pytest.warns(UserWarning, match="rows or parts of rows left out"):
        prepared_with(folders, documents, out, **changes)
    return json.loads((out / "prepare.json").read_text())["train"]


def test_a_fixed_grid(tmp_path: Path, folders, documents: Path) -> None:
    found = prepared_with(folders, documents, tmp_path, fixed_grid=(2, 3))
    vocab = SharedVocab.load(tmp_path / "tokenizer")
    for document in found:
        for part in split(torch.tensor(document), vocab):
            assert part.kind != "image" or tuple(part.values.shape) == (2, 3, N)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory, folders, text_tokenizer) -> Path:
    """An untrained model that has two codes per position."""
    folder = tmp_path_factory.mktemp("models") / "model"
    vocab = SharedVocab.build(text=text_tokenizer, codebook_size=K, max_grid=16, codes_per_position=N)
    tokenizer = DocumentTokenizer(vocab, text=text_tokenizer, image=ImageTokenizer.load(folders[1]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = FusionLM(
            FusionLMConfig(vocab.size, 96, n_layers=1, width=32, n_heads=2, n_kv_heads=2, ffn_width=32)
        )
    save_model(folder, net, tokenizer)
    return folder


def test_embeddings_begin_from_every_slots_codebook(model_folder: Path) -> None:
    net, tokenizer = load_model(model_folder)
    vocab, before = tokenizer.vocab, net.embedding.weight.clone()
    start_from_codebook(net, tokenizer)
    changed = (net.embedding.weight != before).any(dim=1)
    assert torch.equal(changed, vocab.is_("image", torch.arange(vocab.size)))
    # rows are a linear image of the codebook: equal distances up to the projection's noise, none of them lost
    codebook = tokenizer.image.codebook
    for slot in range(N):
        rows = net.embedding.weight[vocab.ids_to_tokens("image", slot * K + torch.arange(K))]
        given = torch.pdist(codebook[slot * K : (slot + 1) * K])
        made = torch.pdist(rows)
        assert torch.corrcoef(torch.stack([given, made]))[0, 1] > 0.8


def sampled(model: Path, out: Path, *segments: str, **changes: Any) -> dict[str, Any]:
    """What `earlyfusion sample` writes, as it understands its command line."""
    args = build_parser().parse_args(
        ["sample", *segments, "--out", str(out), "--model", str(model), "--then", "image"]
    )
    for name, value in changes.items():
        setattr(args, name, value)
    args.run(args)
    return json.loads((out / "sample.json").read_text(encoding="utf-8"))


def test_samples_are_pictures(model_folder: Path, photo_file: Path, tmp_path: Path) -> None:
    result = sampled(model_folder, tmp_path / "out", "A red apple:", str(photo_file), "again:")
    kinds = [segment["type"] for segment in result["segments"]]
    assert kinds[:4] == ["text", "image", "text", "image"]
    prompt, made = (result["segments"][i]["file"] for i in (1, 3))
    assert Image.open(tmp_path / "out" / prompt).size == (48, 32)  # 4 x 6 positions: 24 * 2 + 4 tokens
    assert all(side % 8 == 0 for side in Image.open(tmp_path / "out" / made).size)
    with pytest.raises(ValueError, match="no room for"):
        sampled(model_folder, tmp_path / "small", "A", max_new_tokens=5)  # 1 x 1 x 2 takes 6


def test_info_tells_codes_per_position(model_folder: Path) -> None:
    lines = "\n".join(describe(model_folder))
    assert ", 2 codes per position\n" in lines
    bits = 2 * 4 / 8**2
    assert (
        f"8 x 8 pixels per position, 2 codes per position, each of 16 codes of width 4, {bits:.3g} bits"
        in lines
    )
    network = ImageTokenizer.load(model_folder / "tokenizer" / "image")
    count = sum(p.numel() for part in (network.encoder, network.decoder) for p in part.parameters())
    assert f"channels 8, 16; {count / 1000:.1f} k parameters" in lines
