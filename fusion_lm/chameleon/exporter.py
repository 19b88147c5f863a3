"""Export a model folder to Chameleon's format, which ``transformers`` and vLLM load.

The weights of the transformer and the VQ encoder are the same numbers under other names. The format does not
have a VQ decoder: it is stored in an extra file, ``vq_decoder.safetensors``, where the importer finds it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...storage.files import atomic_folder, write_json, write_text
from ...storage.tensor_files import Spec, TensorFiles, write_tensors
from ...storage.weights import CONFIG, WEIGHTS
from ...tokenizers.bpe import BpeTokenizer, bpe_of
from ...tokenizers.documents import TOKENIZER, DocumentTokenizer
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.image_config import Preprocessing
from ...tokenizers.progress import Progress
from ...tokenizers.same_tokens import text_tokens
from ..model import FusionLM, FusionLMConfig
from .importer import DECODER
from .vocab import BEGIN_IMAGE, BOS, END_IMAGE, EOS, PAD, PLACEHOLDER, SEPARATOR, code_name
from .weights import IMAGE_TOKENIZER, config_to_transformers, parts

RESERVED = "<reserved08707>"
"""Meta's name of the token that ``transformers`` calls ``<image>``."""
MISFIT = "the model does not fit Chameleon's format: "


def export(folder: Path, out: str | Path, progress: Progress | None = None) -> None:
    """Write the model in ``folder`` as a folder of ``transformers``, completely or not at all.

    Args:
        folder: A model folder.
        out: The folder to write.
        progress: Called after each tensor.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The format cannot express the model; the message says why.
    """
    config = FusionLM.read_config(folder)
    tokenizer = DocumentTokenizer.load(folder / TOKENIZER)
    fields = config_to_transformers(config)
    grid = _check(tokenizer)
    names, text = token_names(tokenizer)
    vocab_size = max(config.vocab_size, max(names.values()) + 1)
    image = image_state(tokenizer.image)
    encoder = {IMAGE_TOKENIZER + n: t for n, t in image.items() if not n.startswith("decoder.")}
    decoder = {n: t for n, t in image.items() if n.startswith("decoder.")}
    files = TensorFiles([folder / WEIGHTS])
    specs, make = _transformer(config, files, vocab_size, tokenizer.vocab.pad)
    specs |= _specs(encoder)
    side = grid * tokenizer.image.factor
    ids = {"bos_token_id": names[BOS], "eos_token_id": names[EOS], "pad_token_id": names[PAD]}
    written = {**fields, **ids, "vocab_size": vocab_size, "vocabulary_map": names}
    with atomic_folder(out) as new:
        write_json(new / CONFIG, {**written, "vq_config": vq_config(tokenizer.image, side)})
        write_json(new / "generation_config.json", ids)
        write_tensors(new / WEIGHTS, specs, lambda n: encoder[n] if n in encoder else make(n), progress)
        if decoder:
            write_tensors(new / DECODER, _specs(decoder), decoder.__getitem__)
        write_text(new / "tokenizer.json", json.dumps(text, ensure_ascii=False))
        _write_processor(new, grid, side, tokenizer.image.config.preprocessing)


def _check(tokenizer: DocumentTokenizer) -> int:
    """Check that the format can express the tokenizers.

    Returns:
        Rows of codes of every image; the grid is square.

    Raises:
        ValueError: The format cannot express them; the message says why.
    """
    vocab, image = tokenizer.vocab, tokenizer.image.config
    layout = vocab.layout("image")
    grid = layout.shape
    if vocab.names[1:] != ("text", "image"):
        raise ValueError(f"{MISFIT}modalities are {', '.join(vocab.names[1:])}, expected text, image")
    if grid is None:
        raise ValueError(f"{MISFIT}images have several sizes, expected one (fixed_grid)")
    if grid[0] != grid[1]:
        raise ValueError(f"{MISFIT}images have {grid[0]} x {grid[1]} codes, expected squares")
    if not layout.raster:
        raise ValueError(f"{MISFIT}scan is {layout.scan!r}, expected 'rows'")
    if layout.slots != 1:
        raise ValueError(f"{MISFIT}codes_per_position is {layout.slots}, expected 1")
    if image.architecture != "vqgan" or image.stem != 1:
        architecture = f"{image.architecture!r} with stem {image.stem}"
        raise ValueError(f"{MISFIT}architecture is {architecture}, expected 'vqgan' with stem 1")
    if image.quantizer != "vq":
        raise ValueError(f"{MISFIT}quantizer is {image.quantizer!r}, expected 'vq'")
    if image.norm != "group" or any(width % 32 for width in image.channels):
        norm = f"{image.norm!r} with channels {image.channels}"
        raise ValueError(f"{MISFIT}norm is {norm}, expected 'group' with multiples of 32")
    if any(width % image.channels[0] for width in image.channels):
        raise ValueError(f"{MISFIT}channels are {image.channels}, expected multiples of the first")
    if (image.decoder_widths, image.decoder_blocks) != (image.channels, image.res_blocks):
        raise ValueError(
            f"{MISFIT}the decoder has channels {image.decoder_widths} and res_blocks {image.decoder_blocks}, "
            f"expected those of the encoder, {image.channels} and {image.res_blocks}"
        )
    return grid[0]


def token_names(tokenizer: DocumentTokenizer) -> tuple[dict[str, int], dict[str, Any]]:
    """Name every token.

    The format needs two tokens that the model may not have, the placeholder of images and the separator of
    turns. If they are missing, they are appended.

    Returns:
        Name -> token, and a tokenizer.json with these names and tokens.
    """
    vocab, text = tokenizer.vocab, tokenizer.text
    if isinstance(text, BpeTokenizer):
        value = json.loads(json.dumps(text.value).replace(json.dumps(RESERVED), json.dumps(PLACEHOLDER)))
        names = dict(BpeTokenizer(value).ids)
        special: dict[str, int] = {}
    else:
        special = {BOS: vocab.bos, EOS: vocab.eos, PAD: vocab.pad}
        layout = vocab.layout("image")
        special |= {BEGIN_IMAGE: layout.begin, END_IMAGE: layout.end}
        if vocab.sep is not None:
            special[SEPARATOR] = vocab.sep
        tokens = vocab.to_tokens("image", torch.arange(vocab["image"].codebook_size)).tolist()
        special |= {code_name(code): token for code, token in enumerate(tokens)}
        value = bpe_of(text, dict(text_tokens(vocab)))
        names = {**value["model"]["vocab"], **special}
    for name in (PLACEHOLDER, SEPARATOR):
        if name not in names:
            special[name] = names[name] = max(vocab.size, max(names.values()) + 1)
    value["model"]["vocab"] |= special
    added: list[dict[str, Any]] = list(value.get("added_tokens") or ())
    known = {token["content"] for token in added}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for name, token in sorted(special.items(), key=lambda item: item[1]):
        if name not in known:
            added.append({"id": token, "content": name, **plain, "special": True})
    value["added_tokens"] = added
    return dict(sorted(names.items(), key=lambda item: item[1])), value


def _transformer(
    config: FusionLMConfig, files: TensorFiles, vocab_size: int, pad: int
) -> tuple[dict[str, Spec], Callable[[str], Tensor]]:
    """The transformer's tensors under their names in ``transformers``.

    Embedding and output projection get ``vocab_size`` rows. Added rows copy that of padding, which is never a
    target: its logit is low, as the logits of untrained tokens should be.

    Returns:
        Name -> shape and type, and a function that reads the tensor of a name.
    """
    specs: dict[str, Spec] = {}
    source: dict[str, tuple[str, slice]] = {}
    for part in parts(config):
        start = 0
        for name, rows in zip(part.theirs, part.rows, strict=True):
            size = vocab_size if part.name in ("embedding.weight", "lm_head.weight") else rows
            specs[name] = Spec((size, *part.rest), files.spec(part.name).dtype)
            source[name] = part.name, slice(start, start + rows)
            start += rows

    def make(name: str) -> Tensor:
        part, place = source[name]
        rows = files[part][place]
        added = specs[name].shape[0] - len(rows)
        return torch.cat([rows, rows[pad : pad + 1].expand(added, -1)]) if added else rows

    return specs, make


def _specs(tensors: Mapping[str, Tensor]) -> dict[str, Spec]:
    return {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def image_state(image: ImageTokenizer) -> dict[str, Tensor]:
    """The image tokenizer's tensors under their names in taming-transformers."""
    state = {name: tensor for name, tensor in image.state_dict().items() if not name.startswith("quantizer.")}
    return {name: t.detach().cpu() for name, t in state.items()} | {
        "quantize.embedding.weight": image.codebook.detach().cpu().clone()
    }


def vq_config(image: ImageTokenizer, side: int) -> dict[str, Any]:
    """The fields of ``ChameleonVQVAEConfig``, for images of ``side`` pixels."""
    config = image.config
    return {
        "model_type": "chameleon_vqgan",
        "embed_dim": config.codebook_dim,
        "num_embeddings": config.codebook_size,
        "double_latent": False,
        "latent_channels": config.z_channels,
        "resolution": side,
        "in_channels": 3,
        "base_channels": config.channels[0],
        "channel_multiplier": [width // config.channels[0] for width in config.channels],
        "num_res_blocks": config.res_blocks,
        "attn_resolutions": [side // 2**level for level in config.attention_levels],
        "dropout": 0.0,
        "attn_type": "vanilla" if config.mid_attention else "none",
    }


def _write_processor(folder: Path, grid: int, side: int, preprocessing: Preprocessing) -> None:
    """Write the files of ``ChameleonProcessor``, with the preprocessing that this model was trained with."""
    image: Mapping[str, Any] = {
        "image_processor_type": "ChameleonImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 1,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 127.5 if preprocessing == "meta" else 0.0078,
        "do_normalize": True,
        "image_mean": [1.0, 1.0, 1.0],
        "image_std": [1.0, 1.0, 1.0],
    }
    write_json(folder / "preprocessor_config.json", image)
    processor = {
        "processor_class": "ChameleonProcessor",
        "image_seq_length": grid * grid,
        "image_token": PLACEHOLDER,
    }
    write_json(folder / "processor_config.json", {**processor, "image_processor": image})
    tokens = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "sep_token": SEPARATOR}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **tokens,
            "image_token": PLACEHOLDER,
            "boi_token": BEGIN_IMAGE,
            "eoi_token": END_IMAGE,
            "clean_up_tokenization_spaces": False,
            "processor_class": "ChameleonProcessor",
        },
    )
