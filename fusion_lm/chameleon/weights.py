"""The transformer of Chameleon as others store it, exactly, in both directions.

Two layouts: that of ``transformers`` (its ``Chameleon`` model), and Meta's own, in one file for each shard of
model parallelism. Meta rotates neighbouring pairs of a head where this project, like ``transformers``,
rotates its two halves; so rows of queries and keys change places, and with them the gains and biases of
QK-norm. There Meta has one LayerNorm for all heads of a shard.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...tokenizers.tensor_files import Spec, TensorFiles
from ..model import FusionLMConfig

QK_EPS = 1e-5
"""Epsilon of Chameleon's QK-norm, which no config tells."""
IMAGE_TOKENIZER = "model.vqmodel."
"""Prefix of the image tokenizer among the tensors of ``transformers``."""


class Part(NamedTuple):
    """A tensor of ours, as those of another layout that stand one below the other in it."""

    name: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    """Of each of them."""
    rest: tuple[int, ...] = ()
    """Their shape behind the rows."""


def config_from_transformers(values: Mapping[str, Any], where: str = "the config") -> FusionLMConfig:
    """The config of a ``ChameleonConfig`` as JSON.

    :raises ValueError: it is another model's, or asks for what this transformer does not have.
    """
    if values.get("model_type") != "chameleon":
        raise ValueError(f"{where} has the model_type {values.get('model_type')!r}, expected 'chameleon'")
    for name, wanted in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if values.get(name, wanted) not in (wanted, None):
            raise ValueError(f"{where} has {name} {values[name]!r}; only {wanted!r} can be imported")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"{where} has rotary positions of type {kind!r}; only the default can be imported")
    if values.get("rms_norm_eps", QK_EPS) != QK_EPS:
        raise ValueError(
            f"{where} has rms_norm_eps {values['rms_norm_eps']}; only {QK_EPS} can be imported, which "
            "QK-norm always has there"
        )
    try:
        return FusionLMConfig(
            vocab_size=values["vocab_size"],
            context_length=values["max_position_embeddings"],
            n_layers=values["num_hidden_layers"],
            width=values["hidden_size"],
            n_heads=values["num_attention_heads"],
            n_kv_heads=values.get("num_key_value_heads") or values["num_attention_heads"],
            ffn_width=values["intermediate_size"],
            qk_norm="layer",
            norm_placement="reordered" if values.get("swin_norm") else "pre",
            tie_embeddings=bool(values.get("tie_word_embeddings", False)),
            rope_theta=float(rope.get("rope_theta", values.get("rope_theta", 10_000.0))),
            norm_eps=QK_EPS,
        )
    except KeyError as error:
        raise ValueError(f"{where} lacks {error.args[0]!r}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def config_to_transformers(config: FusionLMConfig) -> dict[str, Any]:
    """The fields of ``ChameleonConfig`` that are about the transformer.

    :raises ValueError: the format cannot say what ``config`` is.
    """
    if config.qk_norm != "layer":
        raise ValueError(f"qk_norm is {config.qk_norm!r}, and Chameleon's format has only 'layer'")
    if config.logit_soft_cap is not None:
        raise ValueError(f"logit_soft_cap is {config.logit_soft_cap}, and Chameleon's format has none")
    if config.norm_eps != QK_EPS:
        raise ValueError(f"norm_eps is {config.norm_eps}, and Chameleon's QK-norm has always {QK_EPS}")
    return {
        "model_type": "chameleon",
        "architectures": ["ChameleonForConditionalGeneration"],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.n_layers,
        "hidden_size": config.width,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "intermediate_size": config.ffn_width,
        "swin_norm": config.norm_placement == "reordered",
        "tie_word_embeddings": config.tie_embeddings,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "model_parallel_size": 1,
    }


def parts(config: FusionLMConfig) -> list[Part]:
    """Every tensor of :class:`FusionLM`, in the names of ``transformers``."""
    C, H, Hkv, D, F = config.width, config.n_heads, config.n_kv_heads, config.head_width, config.ffn_width
    V = config.vocab_size
    found = [Part("embedding.weight", ("model.embed_tokens.weight",), (V,), (C,))]
    for n in range(config.n_layers):
        ours, theirs = f"blocks.{n}.", f"model.layers.{n}."
        qkv = tuple(f"{theirs}self_attn.{x}_proj.weight" for x in "qkv")
        gate_up = tuple(f"{theirs}mlp.{x}_proj.weight" for x in ("gate", "up"))
        found += [
            Part(ours + "attention_norm.weight", (theirs + "input_layernorm.weight",), (C,)),
            Part(ours + "attention.qkv.weight", qkv, (H * D, Hkv * D, Hkv * D), (C,)),
            Part(ours + "attention.out.weight", (theirs + "self_attn.o_proj.weight",), (C,), (H * D,)),
            *(
                Part(f"{ours}attention.{x}_norm.{kind}", (f"{theirs}self_attn.{x}_norm.{kind}",), (h,), (D,))
                for x, h in (("q", H), ("k", Hkv))
                for kind in ("weight", "bias")
            ),
            Part(ours + "ffn_norm.weight", (theirs + "post_attention_layernorm.weight",), (C,)),
            Part(ours + "ffn.gate_up.weight", gate_up, (F, F), (C,)),
            Part(ours + "ffn.down.weight", (theirs + "mlp.down_proj.weight",), (C,), (F,)),
        ]
    found.append(Part("norm.weight", ("model.norm.weight",), (C,)))
    if not config.tie_embeddings:
        found.append(Part("lm_head.weight", ("lm_head.weight",), (V,), (C,)))
    return found


def from_transformers(config: FusionLMConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the names of ``transformers`` -> the state dict of :class:`FusionLM`."""
    return {part.name: torch.cat([state[name] for name in part.theirs]) for part in parts(config)}


def to_transformers(config: FusionLMConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse, bit for bit."""
    return {
        name: tensor
        for part in parts(config)
        for name, tensor in zip(part.theirs, state[part.name].split(part.rows), strict=True)
    }


def check_names(config: FusionLMConfig, files: TensorFiles, where: str) -> dict[str, Spec]:
    """What each tensor of ours will be, from files in the names of ``transformers``.

    :raises ValueError: a tensor is missing, unknown, or of another shape or type than its neighbours.
    """
    specs: dict[str, Spec] = {}
    for part in parts(config):
        for name, rows in zip(part.theirs, part.rows, strict=True):
            if name not in files:
                raise ValueError(f"{where} lacks the tensor {name!r} that its config asks for")
            if (shape := files.spec(name).shape) != (rows, *part.rest):
                raise ValueError(
                    f"{where}: {name} has the shape {shape}, its config asks for {(rows, *part.rest)}"
                )
        types = {files.spec(name).dtype for name in part.theirs}
        if len(types) > 1:
            raise ValueError(f"{where}: {', '.join(part.theirs)} are of different types: {types}")
        specs[part.name] = Spec((sum(part.rows), *part.rest), types.pop())
    known = {name for part in parts(config) for name in part.theirs}
    if config.tie_embeddings:
        known.add("lm_head.weight")  # the embedding once more
    for name in sorted(set(files) - known):
        if not name.startswith(IMAGE_TOKENIZER) and not name.endswith("rotary_emb.inv_freq"):
            raise ValueError(f"{where} holds the tensor {name!r}, for which Chameleon has no place")
    return specs


# Meta's layout


def config_from_meta(
    params: Mapping[str, Any], vocab_size: int, where: str = "params.json"
) -> FusionLMConfig:
    """The config of a model as Meta's params.json tells it.

    :raises ValueError: it lacks something, or asks for what this transformer does not have.
    """
    values = params.get("model", params)
    try:
        width, multiple = values["dim"], values.get("multiple_of", 256)
        ffn_width = int((values.get("ffn_dim_multiplier") or 1) * int(8 * width / 3))
        if not values.get("qk_normalization", True):
            raise ValueError("qk_normalization is off; only models with it can be imported")
        if values.get("norm_eps", QK_EPS) != QK_EPS:
            raise ValueError(f"norm_eps is {values['norm_eps']}, expected {QK_EPS}")
        return FusionLMConfig(
            vocab_size=vocab_size,
            context_length=4096,
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


def from_meta(config: FusionLMConfig, shards: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Meta's tensors, one mapping for each shard -> the state dict of :class:`FusionLM`."""
    return {part.name: meta_tensor(config, shards, part.name) for part in parts(config)}


def meta_tensor(config: FusionLMConfig, shards: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """The tensor ``name`` of :class:`FusionLM`, of Meta's.

    Matrices whose outputs are split stand below each other, those whose inputs are split (``wo``, ``w2``, and
    the embedding, by its width) beside each other; norms are in every shard, and QK-norm is each shard's own.
    """
    H, Hkv, D, S = config.n_heads, config.n_kv_heads, config.head_width, len(shards)

    def below(theirs: str) -> Tensor:
        return torch.cat([shard[theirs] for shard in shards])

    def beside(theirs: str) -> Tensor:
        return torch.cat([shard[theirs] for shard in shards], dim=1)

    def halves(rows: Tensor, heads: int) -> Tensor:
        """Neighbouring pairs of each head -> its two halves."""
        return rows.view(heads, D // 2, 2, -1).transpose(1, 2).reshape(rows.shape)

    if name == "embedding.weight":
        return beside("tok_embeddings.weight")
    if name == "lm_head.weight":
        return below("output.weight")
    if name == "norm.weight":
        return shards[0][name]
    _, layer, kind = name.split(".", 2)
    attention, ffn = f"layers.{layer}.attention.", f"layers.{layer}.feed_forward."
    if kind in ("attention_norm.weight", "ffn_norm.weight"):
        return shards[0][f"layers.{layer}.{kind}"]
    if kind == "attention.qkv.weight":
        q, k, v = (below(f"{attention}w{x}.weight") for x in "qkv")
        return torch.cat([halves(q, H), halves(k, Hkv), v])
    if kind == "attention.out.weight":
        return beside(f"{attention}wo.weight")
    if kind == "ffn.gate_up.weight":
        return torch.cat([below(f"{ffn}w1.weight"), below(f"{ffn}w3.weight")])
    if kind == "ffn.down.weight":
        return beside(f"{ffn}w2.weight")
    which, value = kind.removeprefix("attention.").split(
        "_norm."
    )  # q or k; weight or bias, (D,) of each shard
    own = torch.stack([shard[f"{attention}{which}_normalization.{value}"] for shard in shards])
    own = own.view(S, D // 2, 2).transpose(1, 2).reshape(S, D)
    return own.repeat_interleave((H if which == "q" else Hkv) // S, dim=0)
