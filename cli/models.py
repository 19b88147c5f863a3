"""Loads models, and image tokenizers from any folder that holds one."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..storage.hub import nearest, packaged
from .terminal import best_device

if TYPE_CHECKING:
    from ..fusion_lm.folder import Model
    from ..tokenizers.image import ImageTokenizer


def image_folder(folder: str | Path) -> Path:
    """The folder of the image tokenizer: ``folder``, or inside it if it is a model or tokenizer folder.

    Raises:
        FileNotFoundError: No image tokenizer was found.
    """
    folder = packaged(folder)
    for path in (folder / "tokenizer" / "image", folder / "image", folder):
        if (path / "config.json").exists():
            return path
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    hint = f"did you mean {inside[0]}? " if inside else "" if folder.exists() else nearest(folder)
    raise FileNotFoundError(f"no image tokenizer in {folder}: {hint}expected a model or tokenizer folder")


def load_image_tokenizer(folder: str | Path) -> "ImageTokenizer":
    """The image tokenizer in ``folder`` (see ``image_folder``), on the best device."""
    from ..tokenizers.image import ImageTokenizer

    return ImageTokenizer.load(image_folder(folder)).to(best_device())


def load_generating(folder: str | Path) -> "Model":
    """A model on the best device; on a CPU with its weights packed for generation."""
    from ..fusion_lm.folder import load_model

    device = best_device()
    return load_model(folder, device, "auto" if device == "cpu" else None)
