# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportMissingImports=false
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from earlyfusion.fusion_lm import layers
from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.fusion_lm.layers import Attention, Context
from earlyfusion.fusion_lm.loss import IGNORE, LossTerms, next_token_loss
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.fusion_lm.positions import rope_tables
from earlyfusion.tokenizers.modality import ModalityTable

HEADS = [pytest.param(4, id="all heads"), pytest.param(2, id="grouped"), pytest.param(1, id="one")]


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(50, shape, generator=torch.Generator().manual_seed(seed))


def logits_of(model: FusionLM, tokens: Tensor, documents: Tensor | None = None, **kwargs) -> Tensor:
    """Logits (B, T, V) without gradients."""
    with torch.no_grad():
        logits = model(Inputs(tokens, documents), **kwargs)
    assert isinstance(logits, Tensor)
    return logits


# an independent implementation: the same network in a few plain lines, one head and one document at a time


def reference(model: FusionLM, tokens: Tensor) -> Tensor:
    """Logits (T, V) of one document (T,)."""
    c, w = model.config, dict(model.named_parameters())
    H, D, T = c.n_heads, c.head_width, len(tokens)
    angles = torch.arange(T)[:, None] * c.rope_theta ** (-torch.arange(0, D, 2).double() / D)
    turn = torch.polar(torch.ones_like(angles), angles)  # (T, D / 2)

    def rms(x: Tensor, gain: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + c.norm_eps).sqrt() * gain

    def normed(x: Tensor, name: str, head: int) -> Tensor:
        if c.qk_norm == "none":
            return x
        if c.qk_norm == "rms":
            return rms(x, w[f"{name}.weight"][head])
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + c.norm_eps).sqrt()
        return x * w[f"{name}.weight"][head] + w[f"{name}.bias"][head]

    def residual(x: Tensor, norm: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        return x + (branch(rms(x, norm)) if c.norm_placement == "pre" else rms(branch(x), norm))

    def rotated(x: Tensor) -> Tensor:
        pairs = torch.complex(x[:, : D // 2].double(), x[:, D // 2 :].double()) * turn
        return torch.cat([pairs.real, pairs.imag], 1).to(x.dtype)

    x = w["embedding.weight"][tokens]  # (T, C)
    for layer in range(c.n_layers):
        at = f"blocks.{layer}."

        def attention(x: Tensor, at: str = at) -> Tensor:
            heads = x @ w[at + "attention.qkv.weight"].T
            q, k, v = heads.split([H * D, c.n_kv_heads * D, c.n_kv_heads * D], 1)
            results = []
            for head in range(H):
                shared = head * c.n_kv_heads // H
                mine, theirs = slice(head * D, head * D + D), slice(shared * D, shared * D + D)
                query = rotated(normed(q[:, mine], at + "attention.q_norm", head))
                key = rotated(normed(k[:, theirs], at + "attention.k_norm", shared))
                scores = query @ key.T / math.sqrt(D)
                scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
                results.append(scores.softmax(-1) @ v[:, theirs])
            return torch.cat(results, 1) @ w[at + "attention.out.weight"].T

        def ffn(x: Tensor, at: str = at) -> Tensor:
            gate, up = (x @ w[at + "ffn.gate_up.weight"].T).chunk(2, 1)
            return (gate * torch.sigmoid(gate) * up) @ w[at + "ffn.down.weight"].T

        x = residual(x, w[at + "attention_norm.weight"], attention)
        x = residual(x, w[at + "ffn_norm.weight"], ffn)
    head = w["embedding.weight" if c.tie_embeddings else "lm_head.weight"]
    logits, cap = rms(x, w["norm.weight"]) @ head.T, c.logit_soft_cap
    return cap * (logits / cap).tanh() if cap else logits


@pytest.mark.parametrize("n_kv_heads", HEADS)
@pytest.mark.parametrize("qk_norm", ["layer", "rms", "none"])
@pytest.mark.parametrize(
    "more", [{}, {"tie_embeddings": True}, {"norm_placement": "reordered"}, {"logit_soft_cap": 2.0}]
)
def test_logits_are_those_of_the_reference(build, n_kv_heads: int, qk_norm: str, more: dict) -> None:
    model = build(n_kv_heads=n_kv_heads, qk_norm=qk_norm, rope_theta=500.0, **more).double()
    tokens = random_tokens(2, 20)
    expected = torch.stack([reference(model, row) for row in tokens])
    assert expected.std() > 0.5  # no mistake is hidden by small numbers
    torch.testing.assert_close(logits_of(model, tokens), expected, atol=1e-5, rtol=1e-5)  # float32 angles


def chameleon(model: FusionLM, tokens: Tensor) -> Tensor:
    """Logits of Hugging Face's Chameleon with the weights of `model`."""
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    c = model.config
    vq = {
        "base_channels": 32,
        "channel_multiplier": [1],
        "resolution": 8,
        "embed_dim": 8,
        "num_embeddings": 4,
    }
    config = ChameleonConfig(
        **shape_of(c),
        swin_norm=c.norm_placement == "reordered",
        vq_config=vq,
        vocabulary_map={"IMGIMGAZ": 0, "<image>": 1},
    )
    other = ChameleonForConditionalGeneration(config)
    other.model.load_state_dict(layers_of(model), strict=False)
    other.lm_head.load_state_dict({"weight": model.lm_head.weight})
    for layer, block in zip(other.model.layers, model.blocks, strict=True):
        for name in ("q_norm", "k_norm"):
            norm = getattr(block.attention, name)
            getattr(layer.self_attn, name).load_state_dict({"weight": norm.weight, "bias": norm.bias})
    with torch.no_grad():
        logits = other.eval().double()(tokens).logits
    logits[:, :, 0] = logits_of(model, tokens)[:, :, 0]  # Chameleon forbids its image codes, here token 0
    return logits


def llama(model: FusionLM, tokens: Tensor) -> Tensor:
    """Logits of Hugging Face's Llama with the weights of `model`, which has no QK-norm."""
    from transformers import LlamaConfig, LlamaForCausalLM

    other = LlamaForCausalLM(LlamaConfig(**shape_of(model.config)))
    other.load_state_dict(
        {"lm_head.weight": model.lm_head.weight, **{f"model.{k}": v for k, v in layers_of(model).items()}}
    )
    with torch.no_grad():
        return other.eval().double()(tokens).logits


def shape_of(c: FusionLMConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "intermediate_size": c.ffn_width,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "max_position_embeddings": c.context_length,
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "pad_token_id": None,
    }


def layers_of(model: FusionLM) -> dict[str, Tensor]:
    """The weights under the names that Llama and Chameleon share."""
    c = model.config
    weights = {"embed_tokens.weight": model.embedding.weight, "norm.weight": model.norm.weight}
    widths = [c.n_heads * c.head_width, c.n_kv_heads * c.head_width, c.n_kv_heads * c.head_width]
    for i, block in enumerate(model.blocks):
        q, k, v = block.attention.qkv.weight.split(widths)
        gate, up = block.ffn.gate_up.weight.chunk(2)
        names = {
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.ffn_norm.weight,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.attention.out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.ffn.down.weight,
        }
        weights |= {f"layers.{i}.{name}.weight": weight for name, weight in names.items()}
    return {name: weight.detach() for name, weight in weights.items()}


@pytest.mark.parametrize("n_kv_heads", HEADS[:2])
@pytest.mark.parametrize("placement", ["pre", "reordered"])
@pytest.mark.parametrize("other", [chameleon, llama])
def test_logits_are_those_of_transformers(build, other, placement: str, n_kv_heads: int) -> None:
    pytest.importorskip("transformers")
    if placement == "reordered" and other is llama:
        pytest.skip("Llama has norms before attention and feed-forward")
    norm = "layer" if other is chameleon else "none"
    model = build(n_kv_heads=n_kv_heads, qk_norm=norm, norm_placement=placement).double()
    tokens = random_tokens(2, 12) % 48 + 2
    torch.testing.assert_close(logits_of(model, tokens), other(model, tokens), atol=1e-5, rtol=1e-5)


# packed windows

DOCUMENTS = [random_tokens(n, seed=n) for n in (7, 1, 12, 9, 3, 14, 2)]
WINDOWS = [[0, 1, 2], [3, 4], [5, 6]]  # 20, 12 and 16 tokens


def pack(windows: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, documents and targets (B, T) of windows of `DOCUMENTS`; what is left of a window is padding."""
    length = max(sum(len(DOCUMENTS[n]) for n in window) for window in windows)
    tokens = torch.zeros(len(windows), length, dtype=torch.int64)
    documents, targets = torch.full_like(tokens, 99), torch.full_like(tokens, IGNORE)
    for row, window in enumerate(windows):
        at = 0
        for number, n in enumerate(window):
            end = at + len(DOCUMENTS[n])
            tokens[row, at:end] = DOCUMENTS[n]
            documents[row, at:end] = number
            targets[row, at : end - 1] = DOCUMENTS[n][1:]
            at = end
    return tokens, documents, targets


@pytest.mark.parametrize("n_kv_heads", HEADS[:2])
@pytest.mark.parametrize("queries", [128, 8, 5])
def test_packed_is_unpacked(build, queries: int, n_kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, loss and gradients in float32; 20 queries attend together, or 8 or 5 at a time."""
    monkeypatch.setattr("earlyfusion.fusion_lm.cpu.attention.QUERIES", queries)
    model = build(n_kv_heads=n_kv_heads).train()
    tokens, documents, targets = pack(WINDOWS)
    logits = model(Inputs(tokens, documents))
    count = 0
    total = torch.zeros(())
    for row, window in enumerate(WINDOWS):
        at = 0
        for n in window:
            alone = model(DOCUMENTS[n][None])[0]
            torch.testing.assert_close(logits[row, at : at + len(alone)], alone, atol=1e-5, rtol=1e-5)
            total = total + F.cross_entropy(alone[:-1], DOCUMENTS[n][1:], reduction="sum")
            at += len(alone)
            count += len(alone) - 1
    (total / count).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(expected) == len(list(model.parameters()))
    model.zero_grad()
    terms = model(Inputs(tokens, documents), targets=targets)
    assert isinstance(terms, LossTerms) and int(terms.counts.sum()) == count
    torch.testing.assert_close(terms.cross_entropy, total / count, atol=1e-5, rtol=1e-5)
    terms.cross_entropy.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_how_documents_are_packed_does_not_matter(build) -> None:
    model = build()
    losses = []
    for windows in (WINDOWS, [[6, 5, 4, 3, 2, 1, 0]], [[n] for n in range(7)]):
        tokens, documents, targets = pack(windows)
        losses.append(model(Inputs(tokens, documents), targets=targets).cross_entropy)
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(losses[2], losses[0], atol=1e-5, rtol=0)


def test_positions_restart_at_each_document(build) -> None:
    """Rotary attention depends only on differences of positions, so this checks the tables."""
    seen: list[Context] = []
    model = build()
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    logits_of(model, random_tokens(2, 8), torch.tensor([[0, 0, 0, 1, 1, 2, 3, 3], [5, 5, 5, 5, 5, 5, 7, 7]]))
    places = torch.tensor([[0, 1, 2, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5, 0, 1]])
    for table, expected in zip(seen[0][:2], rope_tables(places[None], 8, 10_000.0), strict=True):
        assert table is not None and torch.equal(table, expected)
    logits_of(model, random_tokens(2, 8))
    counted = rope_tables(torch.arange(8)[None, None], 8, 1e4)[0]
    assert seen[1].mask is None and seen[1].cos is not None and torch.equal(seen[1].cos, counted)


def test_no_token_sees_another_document_or_the_future(build) -> None:
    model = build()
    tokens, documents, _ = pack(WINDOWS)
    before = logits_of(model, tokens, documents)
    for row, position in ((0, 3), (0, 7), (0, 8), (1, 0), (2, 13), (2, 15)):
        changed = tokens.clone()
        changed[row, position] = (changed[row, position] + 1) % 50
        differs = (logits_of(model, changed, documents) != before).any(-1)
        same_document = documents[row] == documents[row, position]
        may_see = same_document & (torch.arange(tokens.shape[1]) >= position)
        assert torch.equal(differs[row], may_see)
        assert not differs[torch.arange(3) != row].any()


def test_queries_that_attend_together_see_no_more_keys_than_they_need(build, monkeypatch) -> None:
    monkeypatch.setattr("earlyfusion.fusion_lm.cpu.attention.QUERIES", 8)
    model, keys = build(), []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: keys.append(a[1].shape[2]) or attend(*a, **k)
    )
    tokens, documents, _ = pack(WINDOWS)
    logits_of(model, tokens, documents)
    # The documents that queries 0, 8 and 16 belong to begin at 0 in all windows; 8 and 0; 8, 12 and 16.
    assert keys == 2 * [8, 16, 20 - 8]


def test_without_documents_a_row_is_one(build) -> None:
    model = build()
    tokens = random_tokens(3, 11)
    documents = torch.full_like(tokens, 7)
    torch.testing.assert_close(logits_of(model, tokens, documents), logits_of(model, tokens))


# parts


def test_qk_norm_is_a_layer_norm_per_head(build) -> None:
    attention = build(n_kv_heads=2).blocks[1].attention
    assert isinstance(attention, Attention)
    x = torch.randn(2, 6, 32)
    with torch.no_grad():
        normed = attention.queries_keys_values(x, Context())  # not rotated
        plain = attention.qkv(x).split([4 * 8, 2 * 8, 2 * 8], dim=-1)
    for name, heads, before, after in zip(("q_norm", "k_norm"), (4, 2), plain, normed):
        norm = getattr(attention, name)
        assert norm.weight.shape == norm.bias.shape == (heads, 8)
        for head in range(heads):
            part = before[..., head * 8 : head * 8 + 8]
            expected = F.layer_norm(part, (8,), norm.weight[head], norm.bias[head], 1e-5)
            torch.testing.assert_close(after[:, head], expected)
    assert not any("q_norm" in name for name, _ in build(qk_norm="none").named_parameters())


def test_a_new_model_guesses_evenly() -> None:
    torch.manual_seed(0)
    model = FusionLM(FusionLMConfig(vocab_size=200, width=64, n_layers=8, ffn_width=64))
    tokens = torch.randint(200, (4, 65))
    terms = model(tokens[:, :-1], targets=tokens[:, 1:])
    assert isinstance(terms, LossTerms)
    assert float(terms.cross_entropy.detach()) == pytest.approx(math.log(200), abs=0.1)
    for module, deviation in ((model.blocks[3].ffn.down, 0.02 / 4), (model.blocks[3].ffn.gate_up, 0.02)):
        assert float(module.weight.detach().std()) == pytest.approx(deviation, rel=0.1)


def test_with_targets_it_gives_the_loss(build) -> None:
    model = build()
    tokens, targets = random_tokens(2, 9), random_tokens(2, 9, seed=1)
    targets[0, 4:] = IGNORE
    table = ModalityTable(("a", "b", "c"), torch.arange(50) % 3)
    for given, expected in zip(
        model(tokens, targets=targets, modalities=table, statistics=True),
        next_token_loss(logits_of(model, tokens), torch.eye(50), targets, table, statistics=True),
        strict=True,
    ):
        torch.testing.assert_close(given, expected) if isinstance(given, Tensor) else given == expected


def test_dropout_is_for_training(build) -> None:
    model, plain = build(dropout=0.5), build()
    tokens = random_tokens(1, 8)
    assert torch.equal(logits_of(model, tokens), logits_of(plain, tokens))
    model.train()
    assert not torch.equal(logits_of(model, tokens), logits_of(model, tokens))


def test_it_learns() -> None:
    torch.manual_seed(0)
    model = FusionLM(FusionLMConfig(vocab_size=20, context_length=16, n_layers=1, width=32, ffn_width=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.randint(20, (4, 12))
    for _ in range(40):
        terms = model(tokens[:, :-1], targets=tokens[:, 1:])
        optimizer.zero_grad()
        terms.cross_entropy.backward()
        optimizer.step()
    assert terms.cross_entropy < 0.5


# weights


def test_tied_embeddings_are_one(build) -> None:
    model = build(tie_embeddings=True)
    assert len([name for name, _ in model.named_parameters() if "lm_head" in name]) == 0
    model(random_tokens(1, 6), targets=random_tokens(1, 6, seed=1)).cross_entropy.backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None and (gradient.abs().sum(1) > 0).all()  # every token through the output
    assert model.double().lm_head.weight is model.embedding.weight


# FlexAttention


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("n_kv_heads", HEADS[:2])
def test_flex_attention_is_the_same_attention(build, n_kv_heads: int, monkeypatch) -> None:
    """Forward on the CPU, not compiled: test_layers.py compiles it; its gradients are tested on a GPU."""
    monkeypatch.setattr(layers, "_compiled_flex", lambda: flex_attention)
    model = build(n_kv_heads=n_kv_heads)
    tokens, documents, _ = pack(WINDOWS)
    expected = logits_of(model, tokens, documents)
    model.attention_backend = "flex"
    torch.testing.assert_close(logits_of(model, tokens, documents), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.xfail(
    not torch.cuda.is_available(),
    raises=NotImplementedError,
    strict=True,
    reason="torch has no gradients of FlexAttention on CPUs",
)
def test_gradients_of_flex_attention(build, monkeypatch) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        monkeypatch.setattr(layers, "_compiled_flex", lambda: flex_attention)
    gradients = []
    for backend in ("sdpa", "flex"):
        model = build(width=64, n_heads=4, n_kv_heads=2).to(device).train()
        model.attention_backend = backend
        tokens, documents, targets = (t.to(device) for t in pack(WINDOWS))
        terms = model(Inputs(tokens, documents), targets=targets)
        terms.cross_entropy.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-3, msg=name)


# saving memory


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing_changes_nothing(build, dropout: float) -> None:
    tokens, documents, targets = pack(WINDOWS)
    results = []
    for checkpointing in (False, True):
        model = build(dropout=dropout).train()
        model.activation_checkpointing = checkpointing
        torch.manual_seed(3)
        terms = model(Inputs(tokens, documents), targets=targets)
        terms.cross_entropy.backward()
        results.append([terms.cross_entropy, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_activation_checkpointing_keeps_less(build) -> None:
    tokens = random_tokens(4, 60)
    kept = {}
    for checkpointing in (False, True):
        model = build(n_layers=4).train()
        model.activation_checkpointing = checkpointing
        sizes = []

        def save(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
            model(tokens, targets=tokens)
        kept[checkpointing] = sum(sizes)
    assert kept[True] < 0.4 * kept[False]


@pytest.mark.parametrize("qk_norm", ["layer", "rms", "none"])
def test_bfloat16_by_autocast(build, qk_norm: str) -> None:
    """Products in bfloat16, weights, gradients and the loss in float32, close to float32's own."""
    model = build(qk_norm=qk_norm, n_kv_heads=2).train()
    tokens, documents, targets = pack(WINDOWS)
    exact = model(Inputs(tokens, documents), targets=targets).cross_entropy
    kinds = []
    model.blocks[1].attention.out.register_forward_hook(lambda _, x, y: kinds.append((x[0].dtype, y.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        terms = model(Inputs(tokens, documents), targets=targets)
    assert kinds == [(torch.bfloat16, torch.bfloat16)]
    assert terms.cross_entropy.dtype == torch.float32
    assert 0 < float((terms.cross_entropy - exact).detach().abs()) < 0.1
    terms.cross_entropy.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
