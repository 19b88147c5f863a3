"""Sampling flags that several commands share."""

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..fusion_lm.choices import BEST_BY
from ..tokenizers.modality import CODECS, TEXT
from .terminal import Parser, given, integer, positive_integer, real

if TYPE_CHECKING:
    from ..fusion_lm.sampling import Sampling

MODALITIES = (TEXT, *CODECS)
"""Modalities with sampling flags; those of text have no prefix."""

FLAGS = {
    "temperature": ("T", real, "sampling temperature; 0 = always the likeliest token (default: 1)"),
    "top_k": ("K", integer, "sample from the K likeliest tokens; 0 = all (default: 0)"),
    "top_p": (
        "P",
        real,
        "sample from the likeliest tokens that together reach probability P; 1 = all (default: 1)",
    ),
    "min_p": (
        "P",
        real,
        "sample from tokens at least P times as likely as the likeliest; 0 = all (default: 0)",
    ),
    "repetition_penalty": (
        "F",
        real,
        "above 1, text already in the document becomes less likely; 1 = off (default: 1)",
    ),
}
"""Field of ``Sampling``, which has the default -> metavar, type, help."""

TEXT_ONLY = ("repetition_penalty",)


def add_sampling(parser: Parser) -> None:
    """Add the sampling flags of every modality."""
    for modality in MODALITIES:
        of = "" if modality == TEXT else f"{modality}: "
        for field, name in _names(modality).items():
            metavar, kind, text = FLAGS[field]
            parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=kind, help=of + text)


def sampling_of(args: Namespace, modality: str) -> dict[str, Any]:
    """The fields of the ``Sampling`` of ``modality`` that the user set."""
    names = _names(modality)
    values = given(args, names.values())
    return {field: values[name] for field, name in names.items() if name in values}


def recorded(sampling: "Mapping[str, Sampling]") -> dict[str, dict[str, Any]]:
    """The sampling settings of each modality, for a JSON record."""
    return {name: {field: getattr(one, field) for field in _names(name)} for name, one in sampling.items()}


def add_best_of(parser: Parser, what: str) -> None:
    """Add ``--best-of`` and ``--best-by`` for each ``what``."""
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
        help="rank candidates by their probability given the prompt (forward), or also by that of the prompt "
        "given them (both; for models trained on both orders) (default: %(default)s)",
    )


def _names(modality: str) -> dict[str, str]:
    """The fields of ``Sampling`` that a modality has -> their names on the command line."""
    prefix = "" if modality == TEXT else f"{modality}_"
    return {field: prefix + field for field in FLAGS if modality == TEXT or field not in TEXT_ONLY}
