"""A model is a folder: the two files of the transformer, and ``tokenizer/``."""

from pathlib import Path
from typing import NamedTuple

import torch

from ..storage.files import atomic_folder
from ..storage.hub import PRETRAINED, local_folder, nearest
from ..storage.weights import CONFIG
from ..tokenizers.documents import TOKENIZER, DocumentTokenizer
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
        folder: The folder, the name of a model in the package (openmoji-words, the default) or on the Hugging
            Face Hub (owner/name).
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
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(_missing(folder))
    lm = FusionLM.load(folder).to(device)
    if lm.embedding.weight.dtype == torch.float16 and torch.device(device).type == "cpu":
        lm = lm.float()  # float16 saves space in files, and is slow on CPUs
    tokenizer = DocumentTokenizer.load(folder / TOKENIZER)
    _check(lm, tokenizer, str(folder))
    tokenizer.to(device)
    return Model(lm if weights is None else for_generation(lm, weights), tokenizer)


def _missing(folder: Path) -> str:
    """Why ``folder`` has no model, and where one may be."""
    if folder.is_dir():
        inside = sorted(
            path.parent for path in folder.glob(f"*/{CONFIG}") if (path.parent / TOKENIZER).is_dir()
        )
        hint = f"; did you mean {inside[0]}?" if inside else ""
        return f"{folder} is not a model folder: {folder / CONFIG} not found{hint}"
    return (
        f"model folder {folder} not found: {nearest(folder)}give a folder (`earlyfusion demo` trains a "
        "model), openmoji-words (the packaged model), or a name on the Hugging Face Hub (owner/name)"
    )


def _check(lm: FusionLM, tokenizer: DocumentTokenizer, name: str) -> None:
    if lm.config.vocab_size != tokenizer.vocab.size:
        raise ValueError(
            f"{name}: the transformer has {lm.config.vocab_size} tokens, but the vocabulary of its tokenizer "
            f"has {tokenizer.vocab.size}: use the tokenizer that it was trained with"
        )
