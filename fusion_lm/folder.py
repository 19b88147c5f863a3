"""A model is a folder: the two files of the transformer, and ``tokenizer/``."""

from pathlib import Path
from typing import NamedTuple

import torch

from ..tokenizers.documents import TOKENIZER, DocumentTokenizer
from ..tokenizers.files import atomic_folder
from ..tokenizers.hub import PRETRAINED, local_folder
from ..tokenizers.weights import CONFIG
from .choices import Weights
from .cpu.packed_weights import for_generation
from .model import FusionLM


class Model(NamedTuple):
    """The contents of a model folder."""

    lm: FusionLM
    tokenizer: DocumentTokenizer


def save_model(folder: str | Path, lm: FusionLM, tokenizer: DocumentTokenizer) -> None:
    """Write a model folder, whole or not at all.

    Raises:
        ValueError: The vocabulary does not fit the transformer.
    """
    _check(lm, tokenizer, "the model")
    with atomic_folder(folder) as new:
        lm.save(new)
        tokenizer.save(new / TOKENIZER)


def load_model(
    folder: str | Path = PRETRAINED, device: str | torch.device = "cpu", weights: Weights | None = None
) -> Model:
    """Read a model folder, in evaluation mode.

    Args:
        folder: The folder, or the name of a model on the Hugging Face Hub (owner/name); by default, the small
            model that comes with the package.
        device: Where to load it. On a CPU, weights in float16 become float32, which is faster there.
        weights: Layout of the transformer's weights for generation (``cpu/packed_weights.py``): faster, but
            such a model can only generate. None: as in the file.

    Returns:
        The transformer and its tokenizers.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: A file is damaged, vocabulary and transformer do not fit together, or ``weights`` is
            invalid.
    """
    folder = local_folder(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"model folder not found: {folder}; expected a folder with {CONFIG}")
    lm = FusionLM.load(folder).to(device)
    if lm.embedding.weight.dtype == torch.float16 and torch.device(device).type == "cpu":
        lm = lm.float()  # float16 saves space in files, and is slow on CPUs
    tokenizer = DocumentTokenizer.load(folder / TOKENIZER)
    _check(lm, tokenizer, str(folder))
    tokenizer.to(device)
    return Model(lm if weights is None else for_generation(lm, weights), tokenizer)


def _check(lm: FusionLM, tokenizer: DocumentTokenizer, name: str) -> None:
    if lm.config.vocab_size != tokenizer.vocab.size:
        raise ValueError(
            f"{name}: the transformer has {lm.config.vocab_size} tokens, but the vocabulary of its tokenizer "
            f"has {tokenizer.vocab.size}: use the tokenizer that it was trained with"
        )
