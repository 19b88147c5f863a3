"""Early fusion: images and text become one token stream, which one transformer learns and writes back.

    from earlyfusion import load_model, sample

    model = load_model()
    [document] = sample(model, [["A red apple:"]], then="image", stop_after="image")

Importing the package imports nothing heavy: each name below loads its module when it is first used. Folders
follow the stream: ``storage``, ``tokenizers``, ``encoders``, ``fusion_lm``, ``data``, ``eval``, ``train``,
``playground``, ``cli``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _moved, _threads

if TYPE_CHECKING:
    from .fusion_lm.folder import Model, load_model, save_model
    from .fusion_lm.generate import generate
    from .fusion_lm.guidance import Guidance
    from .fusion_lm.infill import infill
    from .fusion_lm.model import FusionLM, FusionLMConfig
    from .fusion_lm.sampling import Sampling
    from .fusion_lm.stream import sample, stream
    from .tokenizers.documents import DocumentTokenizer
    from .tokenizers.image import ImageTokenizer, ImageTokenizerConfig
    from .tokenizers.text import TextTokenizer
    from .tokenizers.vocab import SharedVocab

    __version__: str

__all__ = [
    "DocumentTokenizer",
    "FusionLM",
    "FusionLMConfig",
    "Guidance",
    "ImageTokenizer",
    "ImageTokenizerConfig",
    "Model",
    "Sampling",
    "SharedVocab",
    "TextTokenizer",
    "__version__",
    "generate",
    "infill",
    "load_model",
    "sample",
    "save_model",
    "stream",
]

_HOMES = {
    "fusion_lm.folder": ("Model", "load_model", "save_model"),
    "fusion_lm.generate": ("generate",),
    "fusion_lm.guidance": ("Guidance",),
    "fusion_lm.infill": ("infill",),
    "fusion_lm.model": ("FusionLM", "FusionLMConfig"),
    "fusion_lm.sampling": ("Sampling",),
    "fusion_lm.stream": ("sample", "stream"),
    "tokenizers.documents": ("DocumentTokenizer",),
    "tokenizers.image": ("ImageTokenizer", "ImageTokenizerConfig"),
    "tokenizers.text": ("TextTokenizer",),
    "tokenizers.vocab": ("SharedVocab",),
}
"""The imports above, at run time: module -> names to import from it."""

_moved.install()
_threads.choose()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("earlyfusion")
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
