"""Initial weights of the transformer.

If each process keeps only a shard of the weights (FSDP2), they can be created part by part. Otherwise every
process first creates the whole network, at 4 bytes per parameter: eight processes of a 34B network on one
machine would briefly need 1.1 TB. With ``shell`` and ``fill`` a process holds its shard, plus a block or the
ends.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ...fusion_lm.layers import Block, initialize
from ...fusion_lm.model import FusionLM, FusionLMConfig
from ...storage.tensor_files import TensorFiles
from ...tokenizers.documents import TOKENIZER, DocumentTokenizer
from ...tokenizers.same_tokens import same_tokens
from ..loop.resume import check_config

WEIGHTS = "model.safetensors"


def shell(config: FusionLMConfig) -> FusionLM:
    """The network without weights (on the device "meta").

    Raises:
        ValueError: The config ties embedding and lm_head.
    """
    if config.tie_embeddings:
        raise ValueError("build_in_shards does not work with tie_embeddings: set one of the two to false")
    with torch.device("meta"):
        return FusionLM(config)


@torch.no_grad()
def start_from_codebook(net: FusionLM, tokenizer: DocumentTokenizer) -> None:
    """Initialize the rows of codes in embedding and lm_head with a random projection of their codebook.

    Similar codes then start with similar rows, so that training a common code helps its rare neighbors.
    """
    for name, codec in tokenizer.codecs.items():
        codebook = getattr(codec, "codebook", None)  # (n * K, latent_dim)
        if codebook is None:
            continue
        centered = codebook.float() - codebook.float().mean(dim=0)
        projection = torch.randn(codebook.shape[1], net.config.width) / codebook.shape[1] ** 0.5
        rows = (centered / centered.std()) @ projection  # (n * K, C), entries of variance 1
        tokens = tokenizer.vocab.ids_to_tokens(name, torch.arange(len(codebook)))
        net.embedding.weight[tokens] = 0.1 * rows
        if not net.config.tie_embeddings:
            net.lm_head.weight[tokens] = 0.02 * rows


@torch.no_grad()
def fill(net: FusionLM, device: torch.device, parts: Iterator[tuple[str, Tensor]]) -> None:
    """Allocate ``net``, a shell that may be sharded, on ``device``, and copy the weights ``parts`` into it.

    All processes must call it with the same names; the values of the first process are used.
    """
    net.to_empty(device=device)
    parameters = dict(net.named_parameters())
    for name, value in parts:
        parameter, value = parameters.pop(name), value.to(device)
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        parameter.copy_(value)
    assert not parameters, f"no weights for {sorted(parameters)}"


def drawn(config: FusionLMConfig, tokenizer: DocumentTokenizer | None) -> Iterator[tuple[str, Tensor]]:
    """New random weights, in order; with a tokenizer, rows of codes as in ``start_from_codebook``."""
    ends = FusionLM(replace(config, n_layers=1))
    initialize(ends, config.n_layers)
    if tokenizer is not None:
        start_from_codebook(ends, tokenizer)
    yield from ends.named_parameters()
    del ends
    for layer in range(1, config.n_layers):
        block = Block(config.layer, layer)
        initialize(block, config.n_layers)
        for name, value in block.named_parameters():
            yield f"blocks.{layer}.{name}", value


def stored(
    folder: str | Path, config: FusionLMConfig, tokenizer_folder: Path
) -> Iterator[tuple[str, Tensor]]:
    """The weights of a model folder, one tensor at a time.

    Raises:
        ValueError: The config, the tokenizer or the tensors differ.
    """
    folder = Path(folder)
    theirs = folder / TOKENIZER
    if theirs.is_dir() and not same_tokens(theirs, tokenizer_folder):
        raise ValueError(
            f"init_from={folder} has another tokenizer, and build_in_shards cannot resize its vocabulary: "
            "train one step without build_in_shards, and start from that model"
        )
    check_config(str(folder), FusionLM.read_config(folder), config)
    files = TensorFiles([folder / WEIGHTS])
    with torch.device("meta"):
        wanted = {name: p.shape for name, p in FusionLM(config).named_parameters()}
    if {name: files.spec(name).shape for name in files} != {name: tuple(s) for name, s in wanted.items()}:
        raise ValueError(f"{folder / WEIGHTS} has other tensors than its config.json requires")
    for name in wanted:
        yield name, files[name].float()
