"""``earlyfusion export chameleon``: a model folder as ``transformers`` and vLLM load it.

The transformer's weights and the VQ encoder's are the same numbers under other names; the VQ decoder, which
the format does not have, lies beside them in ``vq_decoder.safetensors``, and comes back with
``earlyfusion import chameleon``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...tokenizers.bpe import BpeTokenizer, bpe_of
from ...tokenizers.documents import TOKENIZER, DocumentTokenizer
from ...tokenizers.files import atomic_folder, write_json, write_text
from ...tokenizers.image import ImageTokenizer
from ...tokenizers.image_config import Preprocessing
from ...tokenizers.progress import Progress
from ...tokenizers.tensor_files import Spec, TensorFiles, write_tensors
from ...tokenizers.vocab import SharedVocab
from ...tokenizers.weights import CONFIG, WEIGHTS
from ..model import FusionLM
from .importer import DECODER
from .vocab import (
    BEGIN_IMAGE,
    BOS,
    END_IMAGE,
    EOS,
    PAD,
    PLACEHOLDER,
    SEPARATOR,
    code_name,
)
from .weights import IMAGE_TOKENIZER, config_to_transformers, parts

RESERVED = "<reserved08707>"
"""What Meta calls the token that ``transformers`` calls ``<image>``."""


def export(folder: Path, out: str | Path, progress: Progress | None = None) -> None:
    """Write the model in ``folder`` as a folder of ``transformers``, whole or not at all.

    :raises FileNotFoundError: a file is missing.
    :raises ValueError: the format cannot say what the model is, and why.
    """
    config = FusionLM.read_config(folder)
    files = TensorFiles([folder / WEIGHTS])
    tokenizer = DocumentTokenizer.load(folder / TOKENIZER)
    fields = config_to_transformers(config)
    grid = _check(tokenizer)
    names, text = token_names(tokenizer)
    more = max(names.values()) + 1 - config.vocab_size  # tokens that the format has and the model has not
    image = image_state(tokenizer.image)
    specs: dict[str, Spec] = {}
    source: dict[str, tuple[str, int, int]] = {}
    for part in parts(config):
        start = 0
        for theirs, rows in zip(part.theirs, part.rows, strict=True):
            extra = max(0, more) if part.name in ("embedding.weight", "lm_head.weight") else 0
            specs[theirs] = Spec((rows + extra, *part.rest), files.spec(part.name).dtype)
            source[theirs] = (part.name, start, start + rows)
            start += rows
    encoder = {IMAGE_TOKENIZER + n: t for n, t in image.items() if not n.startswith("decoder.")}
    specs |= {name: Spec(tuple(t.shape), t.dtype) for name, t in encoder.items()}
    pad = tokenizer.vocab.pad

    def make(name: str) -> Tensor:
        if name in encoder:
            return encoder[name]
        ours, start, end = source[name]
        rows = files[ours][start:end]
        # Padding is never a target, so its logit is low: those of tokens that nobody trained should be, too.
        missing = specs[name].shape[0] - len(rows)
        return rows if missing <= 0 else torch.cat([rows, rows[pad : pad + 1].expand(missing, -1)])

    side = grid * tokenizer.image.factor
    ids = {"bos_token_id": names[BOS], "eos_token_id": names[EOS], "pad_token_id": names[PAD]}
    with atomic_folder(out) as new:
        written = {**fields, **ids, "vocab_size": config.vocab_size + max(0, more)}
        written |= {"vocabulary_map": names, "vq_config": vq_config(tokenizer.image, side)}
        write_json(new / CONFIG, written)
        write_json(new / "generation_config.json", ids)
        write_tensors(new / WEIGHTS, specs, make, progress)
        if tokenizer.image.config.decoder:
            decoder = {n: t for n, t in image.items() if n.startswith("decoder.")}
            shapes = {n: Spec(tuple(t.shape), t.dtype) for n, t in decoder.items()}
            write_tensors(new / DECODER, shapes, lambda name: decoder[name])
        write_text(new / "tokenizer.json", json.dumps(text, ensure_ascii=False))
        _write_processor(new, grid, side, tokenizer.image.config.preprocessing)


def _check(tokenizer: DocumentTokenizer) -> int:
    """Rows of the grid of codes that every image has.

    :raises ValueError: the tokenizers do not fit the format.
    """
    vocab, image = tokenizer.vocab, tokenizer.image.config
    reason = ""
    layout = vocab.layout("image")
    shape = layout.shape
    if vocab.names[1:] != ("text", "image"):
        reason = f"it has the modalities {', '.join(vocab.names[1:])}; the format has text and images"
    elif shape is None:
        reason = "its images have different sizes, said by number tokens; the format has one (fixed_grid)"
    elif shape[0] != shape[1]:
        reason = f"its images have {shape[0]} x {shape[1]} codes; the format has squares"
    elif not layout.raster:
        reason = f"its codes are read by {layout.scan}; the format reads rows"
    elif layout.slots != 1:
        reason = f"it has {layout.slots} codes per position; the format has one"
    elif image.architecture != "vqgan" or image.stem != 1:
        reason = "its image tokenizer is no VQGAN without a stem (architecture: vqgan, stem: 1)"
    elif image.quantizer != "vq":
        reason = f"its quantizer is {image.quantizer!r}; the format has the nearest code, 'vq'"
    elif image.norm != "group" or any(width % 32 for width in image.channels):
        reason = (
            "its image tokenizer has no GroupNorm of 32 groups (norm: group, channels in multiples of 32)"
        )
    elif (image.decoder_widths, image.decoder_blocks) != (image.channels, image.res_blocks):
        reason = "its decoder has other channels or res_blocks than its encoder; the format has one number"
    if reason:
        raise ValueError(f"the model does not fit Chameleon's format: {reason}")
    assert shape is not None
    return shape[0]


def token_names(tokenizer: DocumentTokenizer) -> tuple[dict[str, int], dict[str, Any]]:
    """The name of every token, and a tokenizer.json that gives them these numbers.

    Tokens that the format needs and the model has not, a placeholder for images and one between the turns of
    a conversation, come behind all others.
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
        value = bpe_of(text, token_of_text(vocab))
        names = {**value["model"]["vocab"], **special}
    for name in (PLACEHOLDER, SEPARATOR):
        if name not in names:
            special[name] = names[name] = max(vocab.size, max(names.values()) + 1)
    value["model"]["vocab"] |= special
    known = {token["content"] for token in value.get("added_tokens") or ()}
    value["added_tokens"] = [
        *(value.get("added_tokens") or ()),
        *(
            {
                "id": token,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, token in sorted(special.items(), key=lambda item: item[1])
            if name not in known
        ),
    ]
    return dict(sorted(names.items(), key=lambda item: item[1])), value


def token_of_text(vocab: SharedVocab) -> dict[int, int]:
    """Text id -> token."""
    return {first + n: token + n for token, first, count in vocab["text"].ranges for n in range(count)}


def image_state(image: ImageTokenizer) -> dict[str, Tensor]:
    """The image tokenizer's tensors in taming's names."""
    state = {name: tensor for name, tensor in image.state_dict().items() if not name.startswith("quantizer.")}
    return {name: t.detach().cpu() for name, t in state.items()} | {
        "quantize.embedding.weight": image.codebook.detach().cpu().clone()
    }


def vq_config(image: ImageTokenizer, side: int) -> dict[str, Any]:
    """The fields of ``ChameleonVQVAEConfig``."""
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
        "channel_multiplier": [_multiple(width, config.channels[0]) for width in config.channels],
        "num_res_blocks": config.res_blocks,
        "attn_resolutions": [side // 2**level for level in config.attention_levels],
        "dropout": 0.0,
        "attn_type": "vanilla" if config.mid_attention else "none",
    }


def _multiple(width: int, base: int) -> int:
    if width % base:
        raise ValueError(
            f"the model does not fit Chameleon's format: {width} channels of its image tokenizer are no "
            f"multiple of the first level's, {base}"
        )
    return width // base


def _write_processor(folder: Path, grid: int, side: int, preprocessing: Preprocessing) -> None:
    """What ``ChameleonProcessor`` reads: pixels as the model sees them here."""
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
