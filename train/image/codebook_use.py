"""Use of the codebook during the image tokenizer's training."""

import torch
from torch import Tensor
from torchmetrics import Metric

from ...eval.metrics.codebook import code_counts, perplexity, usage


class CodebookUse(Metric):
    """Counts how often each code is used (``eval.metrics.codebook``).

    ``usage`` is the fraction of the codes that were used at all, ``perplexity`` the exp of the entropy; with
    several codes per position, the geometric mean over the slots.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, codebook_size: int, codes_per_position: int = 1) -> None:
        super().__init__()
        zeros = torch.zeros(codes_per_position, codebook_size, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, codes: Tensor) -> None:
        """Add codes of any shape, with a last axis n if there are several per position."""
        n, K = self.counts.shape
        self.counts += code_counts(codes, K, n)

    def compute(self) -> dict[str, Tensor]:
        """float32 scalars; the perplexity is NaN before the first code."""
        return {"usage": usage(self.counts).float(), "perplexity": perplexity(self.counts).float()}
