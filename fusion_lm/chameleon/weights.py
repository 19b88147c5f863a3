"""The transformer of Chameleon in the layout of ``transformers``, exactly, in both directions.

``parts`` lists which tensors of ``transformers``, concatenated along their rows, form each tensor of
``FusionLM``. Importer and exporter both follow that list. Meta's own layout is in ``meta.py``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...storage.tensor_files import Spec, TensorFiles
from ..model import FusionLMConfig

QK_EPS = 1e-5
"""Epsilon of Chameleon's QK-norm, hard-coded in Chameleon and not part of its config."""
IMAGE_TOKENIZER = "model.vqmodel."
"""Prefix of the image tokenizer's tensors."""


class Part(NamedTuple):
    """One tensor of ``FusionLM`` as a concatenation of tensors of ``transformers``."""

    name: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    """Rows of each of ``theirs``."""
    rest: tuple[int, ...] = ()
    """The shape after the rows, the same for all."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(self.rows), *self.rest)


def parts(config: FusionLMConfig) -> list[Part]:
    """Every tensor of ``FusionLM(config)``, in order."""
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


def check_tensors(config: FusionLMConfig, files: TensorFiles, where: str) -> dict[str, Spec]:
    """Check that ``files`` have the tensors of ``config``, under their names in ``transformers``.

    Args:
        config: The expected model.
        files: The tensors.
        where: Name of the files in error messages.

    Returns:
        Shape and type of each tensor of ``FusionLM``.

    Raises:
        ValueError: A tensor is missing, unknown, or has the wrong shape or another type than its neighbors.
    """
    specs: dict[str, Spec] = {}
    for part in parts(config):
        for name, rows in zip(part.theirs, part.rows, strict=True):
            if name not in files:
                raise ValueError(f"{where} lacks the tensor {name!r}, which its config requires")
            if (shape := files.spec(name).shape) != (expected := (rows, *part.rest)):
                raise ValueError(f"{where}: {name} has shape {shape}, its config requires {expected}")
        types = {files.spec(name).dtype for name in part.theirs}
        if len(types) > 1:
            raise ValueError(f"{where}: {', '.join(part.theirs)} have different types: {types}")
        specs[part.name] = Spec(part.shape, types.pop())
    known = {name for part in parts(config) for name in part.theirs}
    if config.tie_embeddings:
        known.add("lm_head.weight")  # a second copy of the embedding
    for name in sorted(set(files) - known):
        if not name.startswith(IMAGE_TOKENIZER) and not name.endswith("rotary_emb.inv_freq"):
            raise ValueError(f"{where} holds the tensor {name!r}, which Chameleon does not have")
    return specs


def config_from_transformers(values: Mapping[str, Any], where: str = "the config") -> FusionLMConfig:
    """Read a ``ChameleonConfig``.

    Args:
        values: The content of its config.json.
        where: Name of the config in error messages.

    Raises:
        ValueError: It describes another model, or something that ``FusionLM`` does not have.
    """
    if values.get("model_type") != "chameleon":
        raise ValueError(f"{where} has model_type {values.get('model_type')!r}, expected 'chameleon'")
    for name, wanted in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if values.get(name, wanted) not in (wanted, None):
            raise ValueError(f"{where} has {name} {values[name]!r}; only {wanted!r} can be imported")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"{where} has rope_type {kind!r}; only 'default' can be imported")
    if values.get("rms_norm_eps", QK_EPS) != QK_EPS:
        raise ValueError(
            f"{where} has rms_norm_eps {values['rms_norm_eps']}; only {QK_EPS}, the fixed epsilon of "
            "Chameleon's QK-norm, can be imported"
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
    """The fields of ``ChameleonConfig`` that describe the transformer.

    Raises:
        ValueError: The format cannot express ``config``.
    """
    if config.qk_norm != "layer":
        raise ValueError(
            f"qk_norm is {config.qk_norm!r}, expected 'layer', the only one in Chameleon's format"
        )
    if config.logit_soft_cap is not None:
        raise ValueError(f"logit_soft_cap is {config.logit_soft_cap}, expected null for Chameleon's format")
    if config.norm_eps != QK_EPS:
        raise ValueError(f"norm_eps is {config.norm_eps}, expected {QK_EPS} for Chameleon's format")
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
