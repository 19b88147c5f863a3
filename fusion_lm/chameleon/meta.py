"""The transformer of Chameleon in Meta's own layout: one file per shard of model parallelism.

A shard has part of the heads and part of the feed-forward units. RoPE in Meta's code rotates neighboring
channels of a head; here, as in ``transformers``, it rotates the two halves of a head. So the rows of queries
and keys are reordered, and with them the gains and biases of QK-norm, which Meta shares among all heads of a
shard.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...storage.tensor_files import Spec, TensorFiles
from ..model import FusionLMConfig
from .weights import QK_EPS, parts

CONTEXT_LENGTH = 4096
"""Tokens; params.json does not say."""


def config_from_meta(
    params: Mapping[str, Any], vocab_size: int, where: str = "params.json"
) -> FusionLMConfig:
    """Read Meta's params.json.

    Raises:
        ValueError: A field is missing, or describes something that ``FusionLM`` does not have.
    """
    values = params.get("model", params)
    try:
        width, multiple = values["dim"], values.get("multiple_of", 256)
        ffn_width = int((values.get("ffn_dim_multiplier") or 1) * int(8 * width / 3))
        if not values.get("qk_normalization", True):
            raise ValueError("qk_normalization is off, expected on: only models with it can be imported")
        if values.get("norm_eps", QK_EPS) != QK_EPS:
            raise ValueError(f"norm_eps is {values['norm_eps']}, expected {QK_EPS}")
        return FusionLMConfig(
            vocab_size=vocab_size,
            context_length=CONTEXT_LENGTH,
            n_layers=values["n_layers"],
            width=width,
            n_heads=values["n_heads"],
            n_kv_heads=values.get("n_kv_heads") or values["n_heads"],
            ffn_width=multiple * -(-ffn_width // multiple),
            qk_norm="layer",
            norm_placement="reordered" if values.get("swin_norm") else "pre",
            rope_theta=float(values.get("rope_theta", 10_000.0)),
            norm_eps=QK_EPS,
        )
    except KeyError as error:
        raise ValueError(f"{where} lacks {error.args[0]!r}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def read_meta(
    params: Mapping[str, Any], folder: Path, paths: Sequence[Path]
) -> tuple[FusionLMConfig, dict[str, Spec], list[TensorFiles]]:
    """Open the shards of a model and check that they fit its params.json.

    Args:
        params: The content of params.json.
        folder: Its folder, for error messages.
        paths: The shards, in order.

    Returns:
        The config, shape and type of each tensor of ``FusionLM``, and the shards.

    Raises:
        ValueError: A tensor is missing, unknown, or has another shape or type than expected.
    """
    shards = [TensorFiles([path]) for path in paths]
    head = "output.weight"
    for path, shard in zip(paths, shards, strict=True):
        if head not in shard:
            raise ValueError(f"{path} lacks the tensor {head!r}")
    vocab_size = sum(shard.spec(head).shape[0] for shard in shards)
    config = config_from_meta(params, vocab_size, str(folder / "params.json"))
    S = len(shards)
    for name, size in (("n_heads", config.n_heads), ("n_kv_heads", config.n_kv_heads)):
        if size % S:
            raise ValueError(f"{folder}: {name} is {size}, expected a multiple of the number of shards, {S}")
    expected = shard_shapes(config, S)
    for path, shard in zip(paths, shards, strict=True):
        for name in sorted(set(expected) | set(shard)):
            if name not in shard:
                raise ValueError(f"{path} lacks the tensor {name!r}")
            if name not in expected:
                if name.endswith("rope.freqs"):
                    continue
                raise ValueError(f"{path} holds the tensor {name!r}, which Chameleon does not have")
            if (shape := shard.spec(name).shape) != expected[name]:
                raise ValueError(f"{path}: {name} has shape {shape}, expected {expected[name]}")
    types = {shard.spec(name).dtype for shard in shards for name in expected}
    if len(types) > 1:
        raise ValueError(f"{folder} holds tensors of different types: {types}")
    dtype = types.pop()
    return config, {part.name: Spec(part.shape, dtype) for part in parts(config)}, shards


def shard_shapes(config: FusionLMConfig, S: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in one of ``S`` shards."""
    C, D, V, F = config.width, config.head_width, config.vocab_size // S, config.ffn_width // S
    H, Hkv = config.n_heads // S, config.n_kv_heads // S
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (config.vocab_size, C // S),
        "output.weight": (V, C),
        "norm.weight": (C,),
    }
    for n in range(config.n_layers):
        attention, ffn = f"layers.{n}.attention.", f"layers.{n}.feed_forward."
        shapes |= {
            f"layers.{n}.attention_norm.weight": (C,),
            f"layers.{n}.ffn_norm.weight": (C,),
            f"{attention}wq.weight": (H * D, C),
            f"{attention}wk.weight": (Hkv * D, C),
            f"{attention}wv.weight": (Hkv * D, C),
            f"{attention}wo.weight": (C, H * D),
            f"{ffn}w1.weight": (F, C),
            f"{ffn}w2.weight": (C, F),
            f"{ffn}w3.weight": (F, C),
        }
        for x in "qk":
            shapes |= {f"{attention}{x}_normalization.{kind}": (D,) for kind in ("weight", "bias")}
    return shapes


def meta_tensor(config: FusionLMConfig, shards: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """Assemble the tensor ``name`` of ``FusionLM`` from all shards.

    Matrices with split outputs are concatenated along their rows; matrices with split inputs (``wo``, ``w2``,
    and the embedding, split by its width) along their columns. Every shard has all norms; QK-norm is
    different in each.
    """
    H, Hkv, D, S = config.n_heads, config.n_kv_heads, config.head_width, len(shards)

    def rows(theirs: str) -> Tensor:
        return torch.cat([shard[theirs] for shard in shards])

    def columns(theirs: str) -> Tensor:
        return torch.cat([shard[theirs] for shard in shards], dim=1)

    def halves(weight: Tensor, heads: int) -> Tensor:
        """Neighboring pairs of each head -> its two halves."""
        return weight.view(heads, D // 2, 2, -1).transpose(1, 2).reshape(weight.shape)

    if name == "embedding.weight":
        return columns("tok_embeddings.weight")
    if name == "lm_head.weight":
        return rows("output.weight")
    if name == "norm.weight":
        return shards[0][name]
    _, layer, kind = name.split(".", 2)
    attention, ffn = f"layers.{layer}.attention.", f"layers.{layer}.feed_forward."
    if kind in ("attention_norm.weight", "ffn_norm.weight"):
        return shards[0][f"layers.{layer}.{kind}"]
    if kind == "attention.qkv.weight":
        q, k, v = (rows(f"{attention}w{x}.weight") for x in "qkv")
        return torch.cat([halves(q, H), halves(k, Hkv), v])
    if kind == "attention.out.weight":
        return columns(f"{attention}wo.weight")
    if kind == "ffn.gate_up.weight":
        return torch.cat([rows(f"{ffn}w1.weight"), rows(f"{ffn}w3.weight")])
    if kind == "ffn.down.weight":
        return columns(f"{ffn}w2.weight")
    # "q" or "k"; "weight" or "bias"
    which, value = kind.removeprefix("attention.").split("_norm.")
    own = torch.stack([shard[f"{attention}{which}_normalization.{value}"] for shard in shards])  # (S, D)
    own = own.view(S, D // 2, 2).transpose(1, 2).reshape(S, D)
    return own.repeat_interleave((H if which == "q" else Hkv) // S, dim=0)  # (heads, D)
