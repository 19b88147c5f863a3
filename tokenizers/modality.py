"""Modalities: the kinds of tokens in one stream, known by name everywhere else."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class ModalityTable(NamedTuple):
    """The modality of every token; losses and metrics have one figure per name, in this order."""

    names: tuple[str, ...]
    of_token: "Tensor"
    """Index into ``names`` for each token, (V,) int64."""
