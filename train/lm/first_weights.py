"""Initial weights of the transformer.

If each process keeps a shard of them (FSDP2), they can be made a part at a time: otherwise every process
makes the whole network first, 4 bytes a parameter, and eight processes of a 34B on one machine would want
1.1 TB for that moment. ``shell`` and ``fill`` hold embedding and lm_head, or a block, beside the shards.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ...fusion_lm.layers import Block, initialize
from ...fusion_lm.model import FusionLM, FusionLMConfig
from ...tokenizers.documents import TOKENIZER, DocumentTokenizer
from ...tokenizers.same_tokens import same_tokens
from ...tokenizers.tensor_files import TensorFiles
from ..loop.resume import check_config

WEIGHTS = "model.safetensors"


def shell(config: FusionLMConfig) -> FusionLM:
    """The network without its weights (on the device "meta").

    Raises:
        ValueError: The config ties embedding and lm_head.
    """
    if config.tie_embeddings:
        raise ValueError("build_in_shards cannot tie embedding and lm_head: leave one of the two at false")
    with torch.device("meta"):
        return FusionLM(config)


@torch.no_grad()
def start_from_codebook(net: FusionLM, tokenizer: DocumentTokenizer) -> None:
    """Begin the rows of codes in embedding and lm_head with a random projection of their codebook.

    Codes that look alike then begin alike, so that what is learned of a common one helps its rare neighbors.
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
    """Give ``net``, a shell that was sharded or not, its memory on ``device`` and its weights.

    All processes must come here with the same ``parts``; what counts are those of the first.
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
    """New weights, in their order; with a tokenizer, image codes' rows as by ``start_from_codebook``."""
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
    """The weights of a model folder, a tensor at a time.

    Raises:
        ValueError: The config, the tokenizer or the tensors differ.
    """
    folder = Path(folder)
    theirs = folder / TOKENIZER
    if theirs.is_dir() and not same_tokens(theirs, tokenizer_folder):
        raise ValueError(
            f"init_from={folder} has another tokenizer, for which its vocabulary would have to grow: train a "
            "step without build_in_shards first, and begin with that model"
        )
    check_config(str(folder), FusionLM.read_config(folder), config)
    files = TensorFiles([folder / WEIGHTS])
    with torch.device("meta"):
        wanted = {name: p.shape for name, p in FusionLM(config).named_parameters()}
    if {name: files.spec(name).shape for name in files} != {name: tuple(s) for name, s in wanted.items()}:
        raise ValueError(f"{folder / WEIGHTS} does not hold the tensors of its config")
    for name in wanted:
        yield name, files[name].float()
