"""The command `info`: what a folder is, by its JSON files, its text tokenizer and its weights' header.

Nothing here imports torch, so that `earlyfusion info` answers at once.
"""

import math
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..eval.report import numbers
from ..tokenizers.bpe import FILE as BPE
from ..tokenizers.bpe import BpeTokenizer, load_text
from ..tokenizers.files import read_json
from ..tokenizers.image_config import ImageTokenizerConfig, upgrade
from ..tokenizers.text import FILE as TEXT
from ..tokenizers.vocab import FILE as VOCAB
from ..tokenizers.vocab import SharedVocab

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
NETWORK = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
"""Beginnings of the names of an image tokenizer's weights, its codebooks left out."""


def info(args: Namespace) -> None:
    """Print what the folder `args.folder` is."""
    print("\n".join(describe(Path(args.folder))))


def describe(folder: Path) -> list[str]:
    """A few lines about a model folder or a tokenizer folder.

    Raises FileNotFoundError and ValueError for a folder that is missing, is none of these, or is damaged.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} not found: a model or tokenizer folder is expected there")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: a model or tokenizer folder is expected there")
    if (folder / CONFIG).exists():
        config = read_json(folder / CONFIG, "a config")
        kind = config.get("kind")
        if kind == "fusion_lm":
            return _lines(f"{folder}: a model, format {config.get('format')}", _model(folder, config))
        if kind == "image_tokenizer":
            return _lines(
                f"{folder}: an image tokenizer, format {config.get('format')}", _image(folder, config)
            )
        raise ValueError(f"{folder / CONFIG} is of kind {kind!r}, expected 'fusion_lm' or 'image_tokenizer'")
    if (folder / VOCAB).exists():
        return _lines(f"{folder}: a document tokenizer", _documents(folder))
    if (folder / TEXT).exists() or (folder / BPE).exists():
        return _lines(f"{folder}: a text tokenizer", _text(folder))
    inside = sorted(path.parent for name in (CONFIG, VOCAB, TEXT) for path in folder.glob(f"*/{name}"))
    hint = f"; perhaps {inside[0]} is meant" if inside else ""
    raise ValueError(f"{folder} is no model or tokenizer: it has no {CONFIG}, {VOCAB} or {TEXT}{hint}")


Lines = Iterable[tuple[str, str]]
"""(what, its value)."""


def _model(folder: Path, config: dict[str, Any]) -> Lines:
    try:
        shape = (
            f"{config['n_layers']} layers, width {config['width']}, {config['n_heads']} heads "
            f"({config['n_kv_heads']} of keys and values), feed-forward {config['ffn_width']}"
        )
        context = config["context_length"]
    except KeyError as error:
        raise ValueError(f"{folder / CONFIG} lacks the field {error}") from None
    yield "transformer", _weights(folder)
    yield "shape", shape
    yield "context", f"{context} tokens"
    yield from _documents(folder / "tokenizer")


def _documents(folder: Path) -> Lines:
    vocab = SharedVocab.load(folder)
    yield "vocabulary", f"{vocab.size:,} tokens"
    image_roles = {"begin_image", "end_image"}
    yield "", ", ".join(f"{role} {token}" for role, token in vocab.roles.items() if role not in image_roles)
    yield "", f"begin_image {vocab.begin_image}, end_image {vocab.end_image}, {_grid(vocab)}"
    slots = f", {n} codes per position" if (n := vocab.codes_per_position) > 1 else ""
    yield "", f"text {_ranges(vocab.text)}; image codes {_ranges(vocab.image)}{slots}"
    yield from _text(folder)
    yield from _image(folder / "image", read_json(folder / "image" / CONFIG, "an image tokenizer's config"))


def _text(folder: Path) -> Lines:
    text = load_text(folder)
    kind, file = ("BPE", BPE) if isinstance(text, BpeTokenizer) else ("sentencepiece", TEXT)
    yield "text", f"{kind}, {text.vocab_size:,} pieces, {numbers.size((folder / file).stat().st_size)}"


def _image(folder: Path, config: dict[str, Any]) -> Lines:
    try:
        made = ImageTokenizerConfig(
            **upgrade({name: value for name, value in config.items() if name not in ("format", "kind")})
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is no image tokenizer's config: {error}") from None
    factor, n = made.factor, made.codes_per_position
    codes = f"{made.codebook_size:,} codes of width {made.codebook_dim}"
    what = "code" if n == 1 else "position"
    slots = "" if n == 1 else f"{n} codes per position, each of "
    bits = n * math.log2(made.codebook_size) / factor**2
    yield "images", f"{factor} x {factor} pixels per {what}, {slots}{codes}, {bits:.3g} bits per pixel"
    channels = ", ".join(map(str, made.channels))
    decoder = "" if made.decoder else "; no decoder"
    if made.decoder and made.decoder_widths != made.channels:
        decoder = f", of the decoder {', '.join(map(str, made.decoder_widths))}"
    yield "VQ-VAE", f"channels {channels}{decoder}; {_weights(folder, NETWORK)}"


def _weights(folder: Path, prefixes: tuple[str, ...] = ("",)) -> str:
    """How many parameters have names that begin with one of `prefixes`, their type, and the file's size."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: the weights belong there")
    try:
        with safe_open(path, framework="numpy") as file:
            slices = [file.get_slice(name) for name in file.keys() if name.startswith(prefixes)]
            count = sum(math.prod(s.get_shape()) for s in slices)
            types = sorted({s.get_dtype() for s in slices})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from None
    return f"{numbers.count(count)} parameters ({', '.join(types)}), {numbers.size(path.stat().st_size)}"


def _grid(vocab: SharedVocab) -> str:
    if vocab.fixed_grid:
        return "every image {} x {} codes".format(*vocab.fixed_grid)
    assert vocab.grid is not None
    return f"rows and columns {vocab.grid.start}..{sum(vocab.grid) - 1} (up to {vocab.grid.count})"


def _ranges(ranges: Iterable[tuple[int, int, int]]) -> str:
    return ", ".join(f"{token}..{token + count - 1}" for token, _, count in ranges)


def _lines(title: str, rows: Lines) -> list[str]:
    return [title, *(f"  {name:<12}{value}" for name, value in rows)]
