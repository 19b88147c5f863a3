"""Small real things that many tests share: nothing is mocked, everything is made in well under a second."""

import importlib
import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageColumn
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import earlyfusion.tests.docstrings  # noqa: F401
from earlyfusion.cli.main import main
from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.eval.items import Item
from earlyfusion.fusion_lm.folder import save_model
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.documents import DocumentTokenizer, interleave
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.loop.cpu_speed import Rates

SENTENCES = (
    "A red apple.",
    "A green apple and a red bicycle stand beside the small house.",
    "The cat sees two birds; the birds see the cat.",
    "This is the word that the picture shows: umbrella.",
    "One picture, then its name in type, then another picture.",
)
CODEBOOK_SIZE = 32

skip_without = pytest.importorskip


def import_or_skip(name: str, *args: Any, **options: Any) -> Any:
    """``pytest.importorskip``, but in continuous integration, which installs all extras, nothing is skipped.

    Raises:
        ImportError: The module is missing, and the environment variable CI is set.
    """
    return importlib.import_module(name) if os.environ.get("CI") else skip_without(name, *args, **options)


pytest.importorskip = import_or_skip  # type: ignore[assignment]


@pytest.fixture(scope="session")
def text_tokenizer() -> TextTokenizer:
    """A sentencepiece BPE of 360 pieces: the bytes, the letters of a few sentences, and frequent pairs."""
    return TextTokenizer.train(SENTENCES * 20, vocab_size=360, threads=1)


@pytest.fixture(scope="session")
def vocab(text_tokenizer: TextTokenizer) -> SharedVocab:
    """Text of `text_tokenizer`, codes of `image_tokenizer`, grids of up to 16 x 16."""
    return SharedVocab.build(text=text_tokenizer, codebook_size=CODEBOOK_SIZE, max_grid=16)


@pytest.fixture(scope="session")
def image_tokenizer():
    """An untrained VQ-VAE with 32 codes and 8 pixels per code, whose codebook lies among its latents."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = ImageTokenizer(
            ImageTokenizerConfig(
                stem=4, channels=(8, 16), res_blocks=1, codebook_size=CODEBOOK_SIZE, codebook_dim=4
            )
        ).eval()
        latents = tokenizer.latents(torch.rand(4, 3, 32, 32) * 2 - 1).detach()
        tokenizer.initialize_codebook(latents.movedim(1, -1).flatten(0, 2))
    return tokenizer


@pytest.fixture
def document_tokenizer(text_tokenizer, image_tokenizer, vocab):
    return DocumentTokenizer(vocab, text=text_tokenizer, image=image_tokenizer)


@pytest.fixture
def photo() -> Image.Image:
    """RGB, 48 x 32: a gradient with sharp edges, no two corners alike."""
    image = Image.linear_gradient("L").resize((48, 32)).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.rectangle((4, 4, 19, 19), fill=(220, 30, 30), outline="black")
    draw.ellipse((26, 6, 44, 24), fill=(30, 60, 200))
    draw.line((0, 31, 47, 24), fill="white", width=2)
    return image


@pytest.fixture
def photo_file(photo: Image.Image, tmp_path: Path) -> Path:
    """`photo` as a PNG file."""
    path = tmp_path / "photo.png"
    photo.save(path)
    return path


@pytest.fixture(scope="session")
def model_folder(text_tokenizer, image_tokenizer, vocab, tmp_path_factory) -> Path:
    """A tiny untrained model, with a context of 96 tokens, as a folder. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("models") / "model"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = FusionLMConfig(vocab.size, 96, n_layers=1, width=32, n_heads=2, n_kv_heads=1, ffn_width=32)
        save_model(
            folder, FusionLM(config), DocumentTokenizer(vocab, text=text_tokenizer, image=image_tokenizer)
        )
    return folder


# data sets, and what the trainings read

SIZES = ((16, 16), (24, 16), (40, 16))  # (width, height)


def drawing(number: int) -> Image.Image:
    """A small picture, another one for each number."""
    rng = random.Random(number)
    image = Image.new("RGB", SIZES[number % len(SIZES)], "white")
    color = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
    ImageDraw.Draw(image).rectangle((rng.randrange(8), rng.randrange(8), 12, 12), fill=color)
    return image


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures of three sizes, written by save_to_disk."""
    folder = tmp_path_factory.mktemp("images") / "set"
    images = [drawing(number) for number in range(48)]
    Dataset.from_dict({"image": images}, Features(image=ImageColumn())).save_to_disk(folder)
    return folder


@pytest.fixture(scope="session")
def box_features() -> Features:
    """The columns of images with text boxes."""
    return Features(
        image=ImageColumn(), objects={"bbox": List(List(Value("float32"))), "text": List(Value("string"))}
    )


@pytest.fixture(scope="session")
def text_page() -> Callable[[list[str]], tuple[Image.Image, dict[str, list]]]:
    """Draws a page of texts, one in each line."""

    def text_page(texts: list[str]) -> tuple[Image.Image, dict[str, list]]:
        """The page and its objects."""
        image = Image.new("RGB", (120, 40 * len(texts)), "white")
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(16)
        found = []
        for line, text in enumerate(texts):
            place = (10 + 3 * line, 40 * line + 8)
            draw.text(place, text, fill="black", font=font)
            left, top, right, bottom = draw.textbbox(place, text, font=font)
            found.append([float(left), float(top), float(right - left), float(bottom - top)])
        return image, {"bbox": found, "text": texts}

    return text_page


@pytest.fixture(scope="session")
def text_images(tmp_path_factory: pytest.TempPathFactory, box_features: Features) -> Path:
    """48 images of 32 x 16 px with a word and its box, one in four without any."""
    rows: dict[str, list] = {"image": [], "objects": []}
    for number in range(48):
        image = Image.new("RGB", (32, 16), (255, 255 - 3 * number, 255))
        text = f"w{number}" if number % 4 else ""
        ImageDraw.Draw(image).text((4, 2), text, fill="black")
        box = [[4.0, 2.0, 6.0 * len(text), 11.0]] if text else []
        rows["image"].append(image)
        rows["objects"].append({"bbox": box, "text": [text] if text else []})
    folder = tmp_path_factory.mktemp("texts") / "set"
    Dataset.from_dict(rows, box_features).save_to_disk(str(folder))
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
    features = Features(images=List(ImageColumn()), texts=List(Value("string")))
    Dataset.from_dict(rows, features).save_to_disk(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, documents: Path, tokenizer_folders: tuple[Path, Path]
) -> Path:
    """`documents` as windows of 64 tokens."""
    out = tmp_path_factory.mktemp("prepared") / "tokens"
    text, image = tokenizer_folders
    config = PrepareConfig(
        str(documents), str(out), str(text), str(image), context_length=64, validation_share=0.2, max_grid=16
    )
    prepare(config, lambda *_: None)
    return out


@pytest.fixture(scope="session", autouse=True)
def cpu_speed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is measured: trainings are in float32 on every CPU. Other processes keep what they measure with
    the tests' files."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("train.loop.trainer", "train.lm.compiling"):
            patch.setattr(f"earlyfusion.{module}.rates", lambda: Rates(float32=50.0, ratio=0.1))
        patch.setenv("EARLYFUSION_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` converts is kept with the test's files, not in the user's home."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.fixture(scope="session")
def start() -> Callable[..., BaseProcess]:
    """A function that starts code in a process of its own, with names that the code can use.

    The processes, also those of `prepare`, are forked from a server that imported everything once: server.py.
    """
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["earlyfusion.tests.server"])
        forkserver.ensure_running()

    def start(code: str, /, **names: Any) -> BaseProcess:
        process = context.Process(target=exec, args=(code, names))
        process.start()
        return process

    return start


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
        ids = torch.cat([torch.arange(r.id, r.id + r.count) for r in vocab["text"].ranges])
        tokens = torch.full((rows, length), vocab.pad)
        documents = torch.full((rows, length), 9)
        for row in range(rows):
            end = 0
            for number, (words, grid) in enumerate(((5, (2, 3)), (3 + row, (2, 2)))):
                text, codes = (
                    ids[torch.randint(len(ids), (words,))],
                    torch.randint(vocab["image"].codebook_size, grid),
                )
                document = interleave([("text", text), ("image", codes)], vocab)
                tokens[row, end : end + len(document)] = document
                documents[row, end : end + len(document)] = number
                end += len(document)
            assert end < length
        return tokens, documents

    return windows


# what the measurements take


@pytest.fixture
def model(vocab):
    """An untrained transformer for `vocab`, with a context of 96 tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = FusionLMConfig(
            vocab_size=vocab.size,
            context_length=96,
            n_layers=1,
            width=16,
            n_heads=2,
            n_kv_heads=1,
            ffn_width=32,
        )
        return FusionLM(config).eval()


class PixelReader:
    """Reads the images that it was shown before, by their pixels."""

    version = "1"

    def __init__(self, name: str, texts: list[tuple[Image.Image, str]]):
        self.name = name
        self.texts = {image.tobytes(): text for image, text in texts}

    def read(self, images, on_read=None):
        if on_read is not None:
            on_read(len(images))
        return [self.texts.get(image.tobytes(), "") for image in images]


@pytest.fixture
def pixel_reader():
    return PixelReader


@pytest.fixture
def shades() -> list[Any]:
    """Six images of three sizes with a text each."""
    texts = [
        ("red", "word"),
        ("green", "word"),
        ("xq", "random"),
        ("bird", "word"),
        ("zz", "random"),
        ("cat", "word"),
    ]
    sizes = [(16, 16), (32, 16), (16, 16), (24, 16), (32, 16), (16, 16)]
    return [
        Item(
            Image.linear_gradient("L").rotate(60 * i).resize(size).convert("RGB"),
            text,
            None,
            kind,
            f"{i}.png",
        )
        for i, ((text, kind), size) in enumerate(zip(texts, sizes))
    ]


LONGEST = (
    "train/loop/test_ranks.py",
    "playground/test_browser.py",
    "train/image/test_module.py",
    "train/demo/test_run.py",
    "data/test_shards.py",
    "train/test_configs.py",
    "docs/test_commands.py",
    "cli/evaluation/test_group.py",
    "playground/test_api.py",
    "train/lm/test_telemetry.py",
    "fusion_lm/test_decoding.py",
    "fusion_lm/chameleon/test_weights.py",
    "cli/test_bad_input.py",
    "train/image/test_ema.py",
    "test_packaging.py",
    "benchmarks/test_reliability.py",
)
"""The files that take longest. They come first: at the end of a run no process waits long for another."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST))

    items.sort(key=place)
