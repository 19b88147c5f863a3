"""The flags that several commands have for how a model samples: each modality's, and the best of several."""

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..fusion_lm.choices import BEST_BY
from ..tokenizers.modality import CODECS, TEXT
from .terminal import Parser, given, integer, positive_integer, real

if TYPE_CHECKING:
    from ..fusion_lm.sampling import Sampling

MODALITIES = (TEXT, *CODECS)
"""Each has flags for its sampling; those of text have no prefix."""

FLAGS = {
    "temperature": ("T", real, "divide the logits by T; 0 takes the most likely token (default: 1)"),
    "top_k": ("K", integer, "draw from the K most likely tokens (default: 0, all)"),
    "top_p": ("P", real, "draw from the most likely tokens that reach probability P (default: 1, all)"),
    "min_p": ("P", real, "draw from tokens at least P times as likely as the best one (default: 0, all)"),
    "repetition_penalty": ("F", real, "above 1: text already written becomes less likely (default: 1)"),
}
"""The fields of ``Sampling``: metavar, type, help. The defaults are those of ``Sampling``."""

TEXT_ONLY = ("repetition_penalty",)


def add_sampling(parser: Parser) -> None:
    """The flags of every modality."""
    for modality in MODALITIES:
        of = "" if modality == TEXT else f"{modality}: "
        for field, name in _names(modality).items():
            metavar, kind, text = FLAGS[field]
            parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=kind, help=of + text)


def sampling_of(args: Namespace, modality: str) -> dict[str, Any]:
    """The fields of the ``Sampling`` of ``modality`` that the user gave."""
    names = _names(modality)
    values = given(args, names.values())
    return {field: values[name] for field, name in names.items() if name in values}


def recorded(sampling: "Mapping[str, Sampling]") -> dict[str, dict[str, Any]]:
    """The fields that each modality has, for a record of how something was sampled."""
    return {name: {field: getattr(one, field) for field in _names(name)} for name, one in sampling.items()}


def add_best_of(parser: Parser, what: str) -> None:
    """``--best-of`` and ``--best-by``, of each ``what``."""
    parser.add_argument(
        "--best-of",
        metavar="N",
        type=positive_integer,
        default=1,
        help=f"draw N candidates for each {what} and keep the likeliest (default: 1)",
    )
    parser.add_argument(
        "--best-by",
        choices=BEST_BY,
        default=BEST_BY[0],
        help="score candidates given the prompt (forward), or in both directions, for models trained "
        "on both orders (default: %(default)s)",
    )


def _names(modality: str) -> dict[str, str]:
    """The fields of ``Sampling`` that a modality has, and what the command line calls them."""
    prefix = "" if modality == TEXT else f"{modality}_"
    return {field: prefix + field for field in FLAGS if modality == TEXT or field not in TEXT_ONLY}
