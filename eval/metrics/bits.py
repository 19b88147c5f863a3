"""How well the model compresses each modality: bits per byte, pixel or position, and perplexities.

Cross-entropies in nats per token are only comparable between models with the same tokens. Bits per byte of
text and bits per pixel of images do not depend on the tokens: they are the size of the data when the model's
predictions drive an arithmetic coder (Delétang et al., arXiv:2309.10668).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ...fusion_lm.loss import IGNORE, LossTerms
from ...tokenizers.bpe import BpeTokenizer
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.text import TextTokenizer
from ...tokenizers.vocab import SharedVocab


class Unit(NamedTuple):
    """The unit of data that the codes of a modality represent."""

    figure: str
    """Name of the figure, such as "bits_per_pixel"."""
    per_token: float
    """Units per token."""


def text_bytes(text: TextTokenizer | BpeTokenizer, vocab: SharedVocab) -> Tensor:
    """Number of UTF-8 bytes of each token, (V,) int64; 0 for tokens that are not text.

    Their sum over the tokens of a text is ``len(text.encode())``.
    """
    lengths = torch.zeros(vocab.size, dtype=torch.int64)
    for token, first, count in vocab["text"].ranges:
        lengths[token : token + count] = torch.tensor(
            [len(text.piece_bytes(first + i)) for i in range(count)]
        )
    return lengths


def bits(nats: float, units: float) -> float:
    """Bits per unit (byte, pixel, ...), from the cross-entropy summed over the tokens of ``units`` units.

    Uniform predictions over the codes of a slot give ``ImageTokenizer.bits_per_pixel``.
    """
    return nats / math.log(2) / units


class Rates:
    """Figures of a validation set, from sums over the target tokens of all batches and ranks.

    ==================================  ======================================================================
    ``bits_per_byte``                   text tokens, per byte of their UTF-8
    ``bits_per_pixel``                  image codes, per pixel of the images as the image tokenizer saw them
    ``bits_per_position/MODALITY``      codes of any other modality, per position (all its slots)
    ``perplexity/MODALITY``             exp of the mean cross-entropy
    ``in_modality_perplexity/MODALITY`` the same for the softmax over the tokens of the target's modality
                                        alone, as in generation, where the grammar decides the modality
    ==================================  ======================================================================

    Structure (begin and end of documents and blocks, sizes) carries no data and only has perplexities.
    Positions without a target do not count: padding, and the first token of each document or part of one.
    """

    def __init__(self, names: Sequence[str], n_bytes: Tensor, units: Mapping[str, Unit]) -> None:
        """
        Args:
            names: The modalities, in the order of the loss terms.
            n_bytes: Bytes of each token, (V,), see :func:`text_bytes`.
            units: The unit of every modality with codes.
        """
        self.names, self.n_bytes, self.units = tuple(names), n_bytes, dict(units)
        self._sums: Tensor | None = None
        """(3 G + 1,): nats, in-modality nats and tokens by modality, then bytes."""

    @classmethod
    def of(cls, tokenizer: DocumentTokenizer) -> Self:
        """For the modalities of a tokenizer."""
        vocab, units = tokenizer.vocab, {}
        for modality in vocab.framed:
            units[modality.name] = Unit(f"bits_per_position/{modality.name}", 1 / modality.slots)
        if "image" in units:
            units["image"] = Unit("bits_per_pixel", tokenizer.image.factor**2 / vocab["image"].slots)
        return cls(vocab.names, text_bytes(tokenizer.text, vocab), units)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """For the tokenizer in ``folder``; does not change the state of the random number generator.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged.
        """
        with torch.random.fork_rng(devices=[]):  # a network draws initial weights before it reads its own
            return cls.of(DocumentTokenizer.load(folder))

    @torch.no_grad()
    def add(self, terms: LossTerms, targets: Tensor) -> None:
        """Add a batch: its loss terms and its targets (B, T), ``IGNORE`` at positions without a target.

        Raises:
            ValueError: The terms lack in-modality losses.
        """
        if terms.in_modality is None:
            raise ValueError("the loss terms have no in_modality: pass statistics=True to the forward")
        self.n_bytes = self.n_bytes.to(targets.device)
        counted = targets != IGNORE
        n_bytes = torch.where(counted, self.n_bytes[targets.clamp(min=0)], 0).sum()
        # float32 cannot count beyond 16 million tokens.
        exact = torch.float32 if targets.device.type == "mps" else torch.float64
        inner = torch.where(terms.counts > 0, terms.in_modality.to(exact) * terms.counts, 0.0)
        parts = (terms.nll_sums, inner, terms.counts, n_bytes[None])
        sums = torch.cat([part.to(exact) for part in parts])
        self._sums = sums if self._sums is None else self._sums + sums

    def reduce(self, strategy: Any) -> None:
        """Sum over the ranks of a Lightning strategy, which must all have added a batch."""
        if self._sums is not None:
            self._sums = strategy.reduce(self._sums, reduce_op="sum")  # type: ignore[assignment]

    def read(self) -> dict[str, float]:
        """The figures since the last call; modalities without tokens are left out."""
        if self._sums is None:
            return {}
        values, self._sums = self._sums.tolist(), None
        n = len(self.names)
        nats, inner, counts = (dict(zip(self.names, values[i * n : (i + 1) * n])) for i in range(3))
        figures = {}
        if n_bytes := values[-1]:
            figures["bits_per_byte"] = bits(nats["text"], n_bytes)
        for name, (figure, per_token) in self.units.items():
            if counts[name]:
                figures[figure] = bits(nats[name], counts[name] * per_token)
        for figure, sums in (("perplexity", nats), ("in_modality_perplexity", inner)):
            figures |= {
                f"{figure}/{name}": math.exp(sums[name] / counts[name]) for name in sums if counts[name]
            }
        return figures
