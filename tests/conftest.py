"""Small real things that many tests share: nothing is mocked, everything is made in well under a second."""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab

SENTENCES = (
    "A red apple.",
    "A green apple and a red bicycle stand beside the small house.",
    "The cat sees two birds; the birds see the cat.",
    "This is the word that the picture shows: umbrella.",
    "One picture, then its name in type, then another picture.",
)
CODEBOOK_SIZE = 32


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
    import torch

    from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = ImageTokenizer(
            ImageTokenizerConfig(
                stem=4, channels=(8, 16), res_blocks=1, codebook_size=CODEBOOK_SIZE, codebook_dim=4
            )
        ).eval()
        latents = tokenizer.latents(torch.rand(4, 3, 32, 32) * 2 - 1).detach()
        tokenizer.initialise_codebook(latents.movedim(1, -1).flatten(0, 2))
    return tokenizer


@pytest.fixture
def document_tokenizer(text_tokenizer, image_tokenizer, vocab):
    from earlyfusion.tokenizers.documents import DocumentTokenizer

    return DocumentTokenizer(text_tokenizer, image_tokenizer, vocab)


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
    import torch

    from earlyfusion.fusion_lm.folder import save_model
    from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
    from earlyfusion.tokenizers.documents import DocumentTokenizer

    folder = tmp_path_factory.mktemp("models") / "model"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = FusionLMConfig(vocab.size, 96, n_layers=1, width=32, n_heads=2, n_kv_heads=1, ffn_width=32)
        save_model(folder, FusionLM(config), DocumentTokenizer(text_tokenizer, image_tokenizer, vocab))
    return folder
