"""Shards a transformer over processes (FSDP2)."""

from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

from ...fusion_lm.model import FusionLM


def is_sharded(net: FusionLM) -> bool:
    """Whether each process keeps a shard of the weights; between steps some may be whole."""
    return isinstance(net, FSDPModule)


def shard(net: FusionLM, mesh: Any) -> None:
    """Shard every block, embedding and lm_head over the processes of ``mesh``, in place."""
    for block in net.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)


def whole_net(net: FusionLM, rank: int, device: torch.device) -> FusionLM | None:
    """The transformer with all weights, on rank 0, else None; all ranks must call it."""
    if not is_sharded(net):
        return net if rank == 0 else None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(net, options=options)
    if rank:
        return None
    with torch.device("meta"):
        whole = FusionLM(net.config)
    whole.load_state_dict(weights, assign=True)
    if net.config.tie_embeddings:
        whole.lm_head.weight = whole.embedding.weight
    return whole.to(device).train(net.training)
