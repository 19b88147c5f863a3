"""Data sets that several tests of the training read."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage
from PIL import ImageDraw
from torch import Tensor

from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.documents import interleave
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.cli import main

SIZES = ((16, 16), (24, 16), (40, 16))  # (width, height)


def drawing(number: int) -> PilImage.Image:
    """A small picture, another one for each number."""
    rng = random.Random(number)
    image = PilImage.new("RGB", SIZES[number % len(SIZES)], "white")
    colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
    ImageDraw.Draw(image).rectangle((rng.randrange(8), rng.randrange(8), 12, 12), fill=colour)
    return image


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures of three sizes, written by save_to_disk."""
    folder = tmp_path_factory.mktemp("images") / "set"
    images = [drawing(number) for number in range(48)]
    Dataset.from_dict({"image": images}, Features(image=Image())).save_to_disk(folder)
    return folder


@pytest.fixture(scope="session")
def text_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images of 32 x 16 px with a word and its box, one in four without any."""
    rows: dict[str, list] = {"image": [], "objects": []}
    for number in range(48):
        image = PilImage.new("RGB", (32, 16), (255, 255 - 3 * number, 255))
        text = f"w{number}" if number % 4 else ""
        ImageDraw.Draw(image).text((4, 2), text, fill="black")
        box = [[4.0, 2.0, 6.0 * len(text), 11.0]] if text else []
        rows["image"].append(image)
        rows["objects"].append({"bbox": box, "text": [text] if text else []})
    objects = {"bbox": List(List(Value("float32"))), "text": List(Value("string"))}
    folder = tmp_path_factory.mktemp("texts") / "set"
    Dataset.from_dict(rows, Features(image=Image(), objects=objects)).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="session")
def tokenizer_folders(
    tmp_path_factory: pytest.TempPathFactory, text_tokenizer, image_tokenizer
) -> tuple[Path, Path]:
    """Folders of the text and of the image tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizers")
    text_tokenizer.save(folder / "text")
    image_tokenizer.save(folder / "image")
    return folder / "text", folder / "image"


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 documents like OBELICS': parallel lists of images and texts."""
    folder = tmp_path_factory.mktemp("documents") / "set"
    words = ("red apple", "green house", "small cat", "two birds")
    rows: dict[str, list] = {"images": [], "texts": []}
    for number in range(90):
        word, picture = words[number % 4], drawing(number)
        if number % 3 == 0:
            rows["images"].append([None, picture])
            rows["texts"].append([f"A {word}:", None])
        elif number % 3 == 1:
            rows["images"].append([picture, None])
            rows["texts"].append([None, f"This is a {word}."])
        else:
            rows["images"].append([picture, None, drawing(number + 1)])
            rows["texts"].append([None, f"A {word}, then another picture:", None])
    features = Features(images=List(Image()), texts=List(Value("string")))
    Dataset.from_dict(rows, features).save_to_disk(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, documents: Path, tokenizer_folders: tuple[Path, Path]
) -> Path:
    """`documents` as windows of 64 tokens."""
    from earlyfusion.train.prepare import prepare
    from earlyfusion.train.prepare_config import PrepareConfig

    out = tmp_path_factory.mktemp("prepared") / "tokens"
    text, image = tokenizer_folders
    config = PrepareConfig(
        str(documents), str(out), str(text), str(image), context_length=64, validation_share=0.2, max_grid=16
    )
    prepare(config, report=lambda *_: None)
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` converts is kept with the test's files, not in the user's home."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def fails(capsys):
    """A function that runs a command line, checks that it gives exit code 2 and one line, and returns it."""

    def run(*argv: str | Path) -> str:
        assert main([str(a) for a in argv]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("earlyfusion: ") and printed.err.count("\n") == 1
        return printed.err

    return run


@pytest.fixture
def network() -> Callable[..., FusionLM]:
    """Makes a tiny network for a vocabulary."""
    config = FusionLMConfig(
        context_length=64, n_layers=2, width=32, n_heads=4, n_kv_heads=2, ffn_width=48, dropout=0.1
    )

    def network(vocab: SharedVocab, **changes: Any) -> FusionLM:
        """A tiny network whose gains and biases are not 1 and 0 either, in training mode."""
        torch.manual_seed(0)
        net = FusionLM(replace(config, vocab_size=vocab.size, **changes))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        return net.train()

    return network


@pytest.fixture
def windows() -> Callable[..., tuple[Tensor, Tensor]]:
    """Makes packed windows for a vocabulary."""

    def windows(vocab: SharedVocab, rows: int = 3, length: int = 48) -> tuple[Tensor, Tensor]:
        """Tokens and documents (rows, length): texts and images of several lengths, and padding."""
        torch.manual_seed(1)
        ids = torch.cat([torch.arange(r.id, r.id + r.count) for r in vocab.text])
        tokens = torch.full((rows, length), vocab.pad)
        documents = torch.full((rows, length), 9)
        for row in range(rows):
            end = 0
            for number, (words, grid) in enumerate(((5, (2, 3)), (3 + row, (2, 2)))):
                text, codes = ids[torch.randint(len(ids), (words,))], torch.randint(vocab.codebook_size, grid)
                document = interleave([("text", text), ("image", codes)], vocab)
                tokens[row, end : end + len(document)] = document
                documents[row, end : end + len(document)] = number
                end += len(document)
            assert end < length
        return tokens, documents

    return windows
