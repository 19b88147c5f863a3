"""Import and export of Chameleon's weights: logits compared with transformers and with plain torch."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from earlyfusion.fusion_lm.chameleon.meta import meta_tensor
from earlyfusion.fusion_lm.chameleon.weights import (
    check_tensors,
    config_from_transformers,
    config_to_transformers,
    parts,
)
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.storage.tensor_files import TensorFiles

CONFIGS = {
    "pre": FusionLMConfig(96, 64, 2, 32, 4, 4, 48),
    "pre, grouped": FusionLMConfig(96, 64, 3, 64, 8, 2, 80),
    "reordered": FusionLMConfig(96, 64, 2, 32, 4, 4, 48, norm_placement="reordered"),
    "reordered, grouped": FusionLMConfig(96, 64, 2, 64, 8, 4, 48, norm_placement="reordered", rope_theta=5e4),
    "tied": FusionLMConfig(96, 64, 2, 32, 4, 1, 48, tie_embeddings=True),
}
IMAGE_IDS = range(8, 12)
"""Transformers overwrites the logits of these."""
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
LARGE = FusionLMConfig(8192, 64, 6, 768, 12, 12, 2048)
"""55 million parameters."""


def vocabulary() -> dict[str, int]:
    """What ``ChameleonConfig`` needs of a vocabulary: four codes, and a placeholder."""
    return {**{f"IMGIMG{letter}Z": IMAGE_IDS[n] for n, letter in enumerate("ABCD")}, "<image>": 20}


def theirs_of(config: FusionLMConfig) -> Any:
    """A model of transformers with random weights, gains and biases of QK-norm different in every head."""
    transformers = pytest.importorskip("transformers")
    vq = {"embed_dim": 4, "num_embeddings": 4, "base_channels": 32, "latent_channels": 4, "resolution": 16}
    values = config_to_transformers(config)
    theirs = transformers.ChameleonForConditionalGeneration(
        transformers.ChameleonConfig(
            **values,
            vocabulary_map=vocabulary(),
            vq_config={**vq, "channel_multiplier": [1, 1]},
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
        )  # fmt: skip
    ).eval()
    generator = torch.Generator().manual_seed(1)
    scale = 0.15 * min(1.0, (64 / config.width) ** 0.5)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if not name.startswith("model.vqmodel"):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.3 * noise if "norm" in name else scale * noise)
    return theirs


def ours_of(theirs: Any, config: FusionLMConfig) -> FusionLM:
    ours, state = FusionLM(config), theirs.state_dict()
    joined = {part.name: torch.cat([state[name] for name in part.theirs]) for part in parts(config)}
    ours.load_state_dict(joined, strict=not config.tie_embeddings)
    return ours.eval()


@pytest.mark.parametrize("config", [*CONFIGS.values(), LARGE], ids=[*CONFIGS, "55 M"])
@torch.no_grad()
def test_logits_and_hidden_states_are_those_of_transformers(config: FusionLMConfig) -> None:
    theirs = theirs_of(config)
    ours = ours_of(theirs, config)
    tokens = torch.randint(30, config.vocab_size, (3, 40), generator=torch.Generator().manual_seed(2))
    found = theirs(tokens, output_hidden_states=True)
    logits = ours(tokens)
    kept = [n for n in range(config.vocab_size) if n not in IMAGE_IDS]
    assert isinstance(logits, Tensor) and float(logits.abs().max()) > 1
    assert float((logits - found.logits)[..., kept].abs().max()) < 1e-4
    expected = F.linear(theirs.model(tokens).last_hidden_state, theirs.lm_head.weight)  # the image's too
    assert float((logits - expected).abs().max()) < 1e-4
    hidden: list[Tensor] = []
    hooks = [b.register_forward_hook(lambda *found: hidden.append(found[2])) for b in ours.blocks]  # type: ignore[arg-type]
    ours(tokens)
    for hook in hooks:
        hook.remove()
    for mine, other in zip(
        hidden[:-1], found.hidden_states[1:-1], strict=True
    ):  # the last one is normed there
        assert float((mine - other).abs().max()) < 1e-4


@configs
@torch.no_grad()
def test_greedy_text_is_the_same(config: FusionLMConfig) -> None:
    """96 tokens, in float64, where no tie is decided by rounding."""
    config = replace(config, context_length=112)
    theirs = theirs_of(config).double()
    ours = ours_of(theirs, config).double()
    tokens = torch.randint(30, config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(3))
    written = theirs.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=96, eos_token_id=None
    )
    mine, last, cache = tokens, tokens, ours.new_cache(2, 112)
    for _ in range(96):
        logits = ours(last, cache=cache)
        assert isinstance(logits, Tensor)
        logits[..., list(IMAGE_IDS)] = -torch.inf
        last = logits[:, -1:].argmax(-1)
        mine = torch.cat([mine, last], dim=1)
    assert mine.tolist() == written.tolist()


@configs
def test_config_and_names_are_those_of_transformers(config: FusionLMConfig) -> None:
    assert config_from_transformers(config_to_transformers(config)) == config
    ours = {name: tuple(tensor.shape) for name, tensor in FusionLM(config).state_dict().items()}
    if config.tie_embeddings:
        del ours["lm_head.weight"]
    assert {part.name: part.shape for part in parts(config)} == ours
    theirs = {n: tuple(t.shape) for n, t in theirs_of(config).state_dict().items() if "vqmodel" not in n}
    if config.tie_embeddings:
        theirs.pop("lm_head.weight", None)
    assert tensors_of(config).keys() == theirs.keys()
    assert {name: tuple(tensor.shape) for name, tensor in tensors_of(config).items()} == theirs


def tensors_of(config: FusionLMConfig) -> dict[str, Tensor]:
    """A state dict in the names of transformers."""
    return {
        name: torch.zeros(rows, *part.rest)
        for part in parts(config)
        for name, rows in zip(part.theirs, part.rows, strict=True)
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, r"model_type.*'llama'.*'chameleon'"),
        ({"hidden_act": "gelu"}, r"hidden_act.*'gelu'.*'silu'"),
        ({"attention_bias": True}, r"attention_bias.*True.*False"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2}}, r"rope_type.*'linear'"),
        ({"rms_norm_eps": 1e-6}, r"rms_norm_eps.*1e-06.*1e-05"),
        ({"hidden_size": 30}, r"width.*n_heads.*4.*30"),
        ({"hidden_size": None}, "config.json"),
    ],
)
def test_what_cannot_be_imported(change: dict, message: str) -> None:
    values = {**config_to_transformers(CONFIGS["pre"]), **change}
    with pytest.raises(ValueError, match=message):
        config_from_transformers(values, "config.json")


def test_what_is_missing_is_named() -> None:
    values = config_to_transformers(CONFIGS["pre"])
    del values["intermediate_size"]
    with pytest.raises(ValueError, match="intermediate_size"):
        config_from_transformers(values)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"qk_norm": "rms"}, r"qk_norm.*'rms'.*'layer'"),
        ({"logit_soft_cap": 30.0}, r"logit_soft_cap.*30\.0"),
        ({"norm_eps": 1e-6}, r"norm_eps.*1e-06.*1e-05"),
    ],
)
def test_what_cannot_be_exported(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_to_transformers(FusionLMConfig(96, **fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.norm.weight"), "lacks.*model.norm.weight"),
        (
            lambda s: s.update(other=torch.zeros(2)),
            "tensor 'other'",
        ),
        (
            lambda s: s.update({"model.layers.1.self_attn.k_proj.weight": torch.zeros(4, 32)}),
            r"layers.1.self_attn.k_proj.weight.*4, 32.*32, 32",
        ),
        (
            lambda s: s.update(
                {"model.layers.0.mlp.up_proj.weight": torch.zeros(48, 32, dtype=torch.float16)}
            ),
            "up_proj.*different types.*float16",
        ),
    ],
)
def test_files_that_do_not_fit_their_config(tmp_path, change, message: str) -> None:
    config = CONFIGS["pre"]
    state = tensors_of(config)
    save_file(state, tmp_path / "model.safetensors")
    specs = check_tensors(config, TensorFiles.of_folder(tmp_path), "a")
    assert {n: s.shape for n, s in specs.items()} == {
        n: tuple(t.shape) for n, t in FusionLM(config).state_dict().items()
    }
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        check_tensors(config, TensorFiles.of_folder(tmp_path), "a")


# Meta's layout, against a forward pass in that layout


def meta_shards(config: FusionLMConfig, shards: int) -> list[dict[str, Tensor]]:
    """A random checkpoint as Meta writes it: outputs split, inputs of wo and w2 split, the embedding by its
    width, every norm in all shards, QK-norm of each shard its own."""
    generator = torch.Generator().manual_seed(4)
    C, D, Fs = config.width, config.head_width, config.ffn_width // shards
    H, Hkv = config.n_heads // shards, config.n_kv_heads // shards

    def random(*shape: int) -> Tensor:
        return 0.15 * torch.randn(shape, generator=generator)

    def gain(width: int) -> Tensor:
        return 1 + 2 * random(width)

    common = {"norm.weight": gain(C)}
    for n in range(config.n_layers):
        common |= {f"layers.{n}.{name}.weight": gain(C) for name in ("attention_norm", "ffn_norm")}
    found = []
    for _ in range(shards):
        shard = {
            **common,
            "tok_embeddings.weight": random(config.vocab_size, C // shards),
            "output.weight": random(config.vocab_size // shards, C),
        }
        for n in range(config.n_layers):
            a, f = f"layers.{n}.attention.", f"layers.{n}.feed_forward."
            shard |= {f"{a}wq.weight": random(H * D, C), f"{a}wk.weight": random(Hkv * D, C)}
            shard |= {f"{a}wv.weight": random(Hkv * D, C), f"{a}wo.weight": random(C, H * D)}
            shard |= {
                f"{f}w1.weight": random(Fs, C),
                f"{f}w3.weight": random(Fs, C),
                f"{f}w2.weight": random(C, Fs),
            }
            for x in "qk":
                shard |= {f"{a}{x}_normalization.weight": gain(D), f"{a}{x}_normalization.bias": random(D)}
        found.append(shard)
    return found


def rotate_pairs(x: Tensor, theta: float) -> Tensor:
    """Rotary positions of neighboring pairs, as complex numbers, x (B, T, H, D)."""
    T, D = x.shape[1], x.shape[3]
    angles = torch.arange(T)[:, None] * theta ** -(torch.arange(0, D, 2) / D)
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)


def meta_logits(config: FusionLMConfig, shards: list[dict[str, Tensor]], tokens: Tensor) -> Tensor:
    """Plain torch: every shard does its part, and the parts are added up."""
    B, T = tokens.shape
    D, S = config.head_width, len(shards)
    H, Hkv = config.n_heads // S, config.n_kv_heads // S

    def rms(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight

    def attention(x: Tensor, n: int) -> Tensor:
        total = torch.zeros_like(x)
        for shard in shards:
            p = f"layers.{n}.attention."
            heads = {}
            for name, count in (("q", H), ("k", Hkv), ("v", Hkv)):
                heads[name] = F.linear(x, shard[f"{p}w{name}.weight"]).view(B, T, count, D)
            for name in "qk":
                weight, bias = (shard[f"{p}{name}_normalization.{kind}"] for kind in ("weight", "bias"))
                heads[name] = rotate_pairs(F.layer_norm(heads[name], (D,), weight, bias), config.rope_theta)
            q, k, v = (heads[name].transpose(1, 2) for name in "qkv")
            k, v = (t.repeat_interleave(H // Hkv, dim=1) for t in (k, v))
            scores = (q @ k.mT / D**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
            y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, H * D)
            total = total + F.linear(y, shard[f"{p}wo.weight"])
        return total

    def feed_forward(x: Tensor, n: int) -> Tensor:
        p = f"layers.{n}.feed_forward.w"
        return sum(
            F.linear(
                F.silu(F.linear(x, s[f"{p}1.weight"])) * F.linear(x, s[f"{p}3.weight"]), s[f"{p}2.weight"]
            )
            for s in shards
        )  # type: ignore[return-value]

    x = torch.cat([F.embedding(tokens, shard["tok_embeddings.weight"]) for shard in shards], dim=-1)
    for n in range(config.n_layers):
        first, second = (shards[0][f"layers.{n}.{name}.weight"] for name in ("attention_norm", "ffn_norm"))
        if config.norm_placement == "reordered":
            x = x + rms(attention(x, n), first)
            x = x + rms(feed_forward(x, n), second)
        else:
            x = x + attention(rms(x, first), n)
            x = x + feed_forward(rms(x, second), n)
    x = rms(x, shards[0]["norm.weight"])
    return torch.cat([F.linear(x, shard["output.weight"]) for shard in shards], dim=-1)


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("placement", ["pre", "reordered"])
@torch.no_grad()
def test_metas_layout_gives_metas_logits(shards: int, placement: Any) -> None:
    config = FusionLMConfig(96, 64, 2, 64, 8, 4, 48, norm_placement=placement)
    checkpoint = meta_shards(config, shards)
    ours = FusionLM(config)
    ours.load_state_dict({p.name: meta_tensor(config, checkpoint, p.name) for p in parts(config)})
    tokens = torch.randint(96, (2, 30), generator=torch.Generator().manual_seed(5))
    logits, expected = ours(tokens), meta_logits(config, checkpoint, tokens)
    assert isinstance(logits, Tensor) and float(expected.abs().max()) > 1
    assert float((logits - expected).abs().max()) < 1e-4
    if shards > 1:  # every shard's norm is its own
        gains = ours.get_parameter("blocks.0.attention.q_norm.weight").chunk(shards)
        assert not torch.equal(gains[0][0], gains[1][0]) and torch.equal(gains[0][0], gains[0][-1])
