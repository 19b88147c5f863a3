"""Shares the samples of a data module among ranks."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import numpy as np

from ...data.loader import InOrder, ordered_batches


def ranks(data: L.LightningDataModule) -> dict[str, int]:
    """The rank of this process and the number of ranks, as options of ``Batches`` and ``InOrder``."""
    trainer = data.trainer
    if trainer is None:
        return {"rank": 0, "world_size": 1}
    return {"rank": trainer.global_rank, "world_size": trainer.world_size}


def in_order(
    data: L.LightningDataModule,
    groups: Sequence[np.ndarray],
    sizes: Sequence[int],
    load: Callable[[np.ndarray], Any],
) -> InOrder:
    """All samples in order, in batches of one group, for validation; see ``ordered_batches``."""
    mine = ranks(data)
    return InOrder(ordered_batches(groups, sizes, mine["world_size"]), load, **mine)
