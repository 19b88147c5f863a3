import pytest
import torch
from PIL import Image

from earlyfusion.eval.items import Item


@pytest.fixture
def model(vocab):
    """An untrained transformer for `vocab`, with a context of 96 tokens."""
    from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig

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
def shades() -> list[Item]:
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
