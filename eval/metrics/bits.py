"""How well texts and images are compressed: bits per byte, bits per pixel, and perplexities by modality.

A cross-entropy in nats per token can only be compared between models with the same tokens. Bits per byte of
text and bits per pixel of images do not depend on them: they are what the data cost when the model's
predictions drive an arithmetic coder (Delétang et al., arXiv:2309.10668).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ...fusion_lm.loss import IGNORE, MODALITIES, LossTerms
from ...tokenizers.bpe import BpeTokenizer
from ...tokenizers.documents import DocumentTokenizer
from ...tokenizers.text import TextTokenizer
from ...tokenizers.vocab import IMAGE, TEXT, SharedVocab


def text_bytes(text: TextTokenizer | BpeTokenizer, vocab: SharedVocab) -> Tensor:
    """Bytes of UTF-8 that each token stands for, (V,) int64; 0 for tokens that are not text.

    Over the tokens of a whole text they add up to ``len(text.encode())``.
    """
    lengths = torch.zeros(vocab.size, dtype=torch.int64)
    for token, first, count in vocab["text"].ranges:
        found = [len(text.piece_bytes(first + i)) for i in range(count)]
        lengths[token : token + count] = torch.tensor(found)
    return lengths


def bits_per_byte(nats: float, n_bytes: float) -> float:
    """Of ``nats``, the cross-entropy summed over text tokens that stand for ``n_bytes`` bytes of UTF-8."""
    return nats / math.log(2) / n_bytes


def bits_per_pixel(nats: float, codes: float, pixels_per_code: float) -> float:
    """Of ``nats``, the cross-entropy summed over ``codes`` image codes.

    A model that takes all codes of a slot for equally likely has ``ImageTokenizer.bits_per_pixel``.
    """
    return nats / math.log(2) / (codes * pixels_per_code)


class Rates:
    """Sums over the target tokens of a validation set, all batches and ranks, and what follows from them:

    ``bits_per_byte``          of the text tokens, a byte of the UTF-8 that they stand for
    ``bits_per_pixel``         of the image codes, a pixel of the images as the image tokenizer saw them
    ``perplexity/MODALITY``    exp of the mean cross-entropy
    ``in_modality_perplexity/MODALITY``
                               the same of the softmax over the tokens of the target's modality alone, as in
                               generation, where the grammar says which modality comes

    Structure (begin and end of documents and images, rows and columns of a grid) stands for neither bytes nor
    pixels: it is in neither of the first two and has perplexities of its own. What is no target counts
    nowhere: padding, and the first token of each document or of a part of one that was cut.
    """

    def __init__(self, n_bytes: Tensor, pixels_per_code: float) -> None:
        """
        :param n_bytes: of each token, (V,), see :func:`text_bytes`.
        :param pixels_per_code: factor^2 / codes per position.
        """
        self.n_bytes, self.pixels_per_code = n_bytes, pixels_per_code
        self._sums: Tensor | None = None
        """(10,): nats and in-modality nats by modality, tokens by modality, bytes."""

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """For the tokenizer in ``folder``; draws no random numbers.

        :raises FileNotFoundError: a file is missing.  :raises ValueError: one is damaged.
        """
        with torch.random.fork_rng(devices=[]):  # a network draws numbers before its weights are read
            tokenizer = DocumentTokenizer.load(folder)
        image = tokenizer.image
        return cls(text_bytes(tokenizer.text, tokenizer.vocab), image.factor**2 / image.codes_per_position)

    @torch.no_grad()
    def add(self, terms: LossTerms, targets: Tensor) -> None:
        """Take in a batch: its loss terms and its targets (B, T), ``IGNORE`` where there is none.

        :raises ValueError: the terms have no in-modality losses.
        """
        if terms.in_modality is None:
            raise ValueError("the loss terms have no in-modality losses: give the forward vocab_modality")
        self.n_bytes = self.n_bytes.to(targets.device)
        counted = targets != IGNORE
        n_bytes = torch.where(counted, self.n_bytes[targets.clamp(min=0)], 0).sum()
        # 16 million tokens are more than float32 can count.
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
        """The figures of what was added since they were last read; those without a token are left out."""
        if self._sums is None:
            return {}
        values, self._sums = self._sums.tolist(), None
        n = len(MODALITIES)
        nats, inner, counts, n_bytes = values[:n], values[n : 2 * n], values[2 * n : 3 * n], values[-1]
        figures = {}
        if n_bytes:
            figures["bits_per_byte"] = bits_per_byte(nats[TEXT], n_bytes)
        if counts[IMAGE]:
            figures["bits_per_pixel"] = bits_per_pixel(nats[IMAGE], counts[IMAGE], self.pixels_per_code)
        return (
            figures
            | _perplexities("perplexity", nats, counts)
            | _perplexities("in_modality_perplexity", inner, counts)
        )


def _perplexities(figure: str, nats: Sequence[float], counts: Sequence[float]) -> dict[str, float]:
    """exp of the mean cross-entropy of each modality that occurs."""
    return {
        f"{figure}/{name}": math.exp(total / count)
        for name, total, count in zip(MODALITIES, nats, counts)
        if count
    }
