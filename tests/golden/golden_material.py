"""The inputs of the golden record: documents, tokenizers and networks, the same in each run and each tree.

Nothing here depends on how a tree initializes weights: networks get theirs by name.
"""

import json
import os
import random
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import golden_adapter as ef
import numpy as np
import torch
from PIL import Image, ImageDraw

SENTENCES = (
    "A red apple.",
    "A green apple and a red bicycle stand beside the small house.",
    "The cat sees two birds; the birds see the cat.",
    "This is the word that the picture shows: umbrella.",
    "One picture, then its name in type, then another picture.",
)
ODD = ("", " ", "naïve 猫 🙂", "<image>", "\ta\nb  ", "e\u0301\u2581\u2585", "\x00", "½ = 0,5", "x" * 40)
SIZES = ((16, 16), (24, 16), (40, 16), (17, 30), (5, 3), (64, 9), (33, 33))
MODES = ("RGB", "RGB", "RGB", "L", "RGBA", "P", "CMYK", "1", "LA", "I;16")
SHAPES: dict[str, dict[str, Any]] = {
    f"{size}, {scan}, {n} codes": {
        **fields,
        "scan": scan,
        "codes_per_position": n,
        "separator": scan == "columns",
    }
    for size, fields in (
        ("grid", {"max_grid": 16}),
        ("fixed grid", {"max_grid": None, "fixed_grid": (2, 3)}),
    )
    for scan in ("rows", "columns")
    for n in (1, 2)
}
"""Every shape of a vocabulary. Those that scan by columns have a separator, for conversations."""
CODES = {1: 32, 2: 16}
"""Codes per position -> codes of each slot."""
MTIME = 1_700_000_000


def drawing(number: int, size: tuple[int, int] | None = None, mode: str | None = None) -> Image.Image:
    """A picture for each number, which also determines the default size and mode."""
    rng = random.Random(number)
    width, height = size or SIZES[number % len(SIZES)]
    image = Image.new("RGB", (width, height), tuple(rng.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y = rng.randrange(width), rng.randrange(height)
        box = (x, y, x + 1 + rng.randrange(width), y + 1 + rng.randrange(height))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape(box, fill=tuple(rng.randrange(256) for _ in range(3)))
    mode = mode or MODES[number % len(MODES)]
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize((width, height)))
    return image.convert(mode)


def text(number: int) -> str:
    """A text, some of them odd."""
    rng = random.Random(number)
    if number % 7 == 0:
        return ODD[(number // 7) % len(ODD)]
    words = " ".join(SENTENCES).split()
    return " ".join(rng.choice(words) for _ in range(1 + rng.randrange(9)))


def document(number: int, conversation: bool = False) -> list[Any]:
    """Texts and images in any order, with ends of turns in a conversation."""
    rng = random.Random(number)
    parts: list[Any] = []
    for place in range(1 + rng.randrange(4)):
        own = 1000 * number + place
        parts.append(drawing(own) if rng.random() < 0.4 else text(own))
        if conversation and place % 2 == 0:
            parts.append(ef.END_OF_TURN)
    return parts


@cache
def text_tokenizer() -> Any:
    """A BPE of 360 pieces."""
    return ef.TextTokenizer.train(SENTENCES * 20, vocab_size=360, threads=1)


@cache
def image_tokenizer(n: int = 1) -> Any:
    """An untrained VQ-VAE with ``n`` codes for 8 x 8 pixels and a codebook of its own latents."""
    fields = {"quantizer": "vq", "groups": 2, "codebook_dim": 8} if n == 2 else {"codebook_dim": 4}
    config = ef.ImageConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=CODES[n], **fields)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = ef.ImageTokenizer(config).eval()
        ef.initialize_codebook(tokenizer, torch.rand(8, 3, 32, 32) * 2 - 1)
    return tokenizer


def vocab_of(shape: str, text: Any = None) -> Any:
    """The vocabulary of a shape. ``text`` is a tokenizer, or its size and the ids without a token."""
    fields = SHAPES[shape]
    return ef.Vocab.build(
        text=text or text_tokenizer(), codebook_size=CODES[fields["codes_per_position"]], **fields
    )


def tokenizer_of(shape: str) -> Any:
    """The tokenizer of a shape."""
    images = image_tokenizer(SHAPES[shape]["codes_per_position"])
    return ef.document_tokenizer(text_tokenizer(), images, vocab_of(shape))


@torch.no_grad()
def fill(network: Any, scale: float = 0.1) -> Any:
    """Set the weights of a network as a function of their names, none of them to 0 or 1."""
    for name, parameter in network.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.copy_(0.3 * noise + (0.0 if name.endswith("bias") else 1.0))
        else:
            parameter.copy_(scale * noise)
    return network


def network_of(vocab: Any, **fields: Any) -> Any:
    """A tiny transformer for a vocabulary."""
    shape = {"context_length": 96, "n_layers": 2, "width": 32, "n_heads": 4, "n_kv_heads": 4, "ffn_width": 48}
    config = ef.LMConfig(**{"vocab_size": vocab.size, **shape, **fields})
    return fill(ef.LM(config)).eval()


def model_of(shape: str, **fields: Any) -> Any:
    """A tiny random model."""
    tokenizer = tokenizer_of(shape)
    return ef.Model(network_of(tokenizer.vocab, **fields), tokenizer)


# data for prepare


def write_lines(path: Path, rows: list[Any]) -> None:
    """JSON lines. Strings are lines already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=True) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_png(path: Path, image: Image.Image) -> None:
    """A PNG file; CMYK, which PNG lacks, becomes RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image.convert("RGB") if image.mode == "CMYK" else image).save(path)


def same_times(folder: Path) -> None:
    """Set the time of all files, which the keys of prepared folders depend on."""
    for path in sorted(folder.rglob("*")):
        os.utime(path, (MTIME, MTIME))
