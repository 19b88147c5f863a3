"""Single blocks: causal, bidirectional and mixed attention compared with plain float64 PyTorch."""
# pyright: reportIndexIssue=false

import math
import shutil

import pytest
import torch
from torch import Tensor

from earlyfusion.fusion_lm.layers import (
    Attention,
    Block,
    Context,
    LayerConfig,
    RMSNorm,
    attend,
    initialize,
    rotate,
)
from earlyfusion.fusion_lm.masks import attention_blocks, document_mask, mixed_mask
from earlyfusion.fusion_lm.positions import rope_tables

B, T = 2, 13
DOCUMENTS = torch.tensor([[0] * 9 + [1] * 4, [3] * 13])
SPANS = torch.tensor(
    [[-1, 0, 0, 0, -1, 1, 1, -1, 2, 2, -1, 3, 3], [0, 0, 0, 0, -1, -1, -1, 8, 8, 8, 8, 8, -1]]
)
"""Span 2 of the first window crosses the border of its documents, which must not connect them."""


def layer(**fields) -> LayerConfig:
    return LayerConfig(**{"width": 32, "n_heads": 4, "n_kv_heads": 2, "ffn_width": 48, **fields})


def attention(**fields) -> Attention:
    torch.manual_seed(0)
    made = Attention(layer(**fields)).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.shape[-1] == 8), std=0.3)
    return made.eval()


def witness(made: Attention, x: Tensor, visible: Tensor, rotated: bool) -> Tensor:
    """Attention in plain PyTorch, one query of one head at a time; visible (B, T, T)."""
    c, w = made.config, dict(made.named_parameters())
    H, Hkv, D = c.n_heads, c.n_kv_heads, c.head_width
    out = torch.zeros(B, T, H * D, dtype=torch.float64)

    def turned(head: Tensor, name: str, number: int, position: int) -> Tensor:
        if c.qk_norm == "layer":
            head = (head - head.mean()) / (head.var(correction=0) + c.norm_eps).sqrt()
            head = head * w[f"{name}.weight"][number] + w[f"{name}.bias"][number]
        elif c.qk_norm == "rms":
            head = head / (head.square().mean() + c.norm_eps).sqrt() * w[f"{name}.weight"][number]
        if not rotated:
            return head
        angles = position * 10_000.0 ** (-torch.arange(0, D, 2).double() / D)
        a, b = head.chunk(2)
        return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()])

    for row in range(B):
        q, k, v = (x[row] @ w["qkv.weight"].T).split([H * D, Hkv * D, Hkv * D], dim=1)
        for head in range(H):
            shared = head * Hkv // H
            mine, theirs = slice(head * D, head * D + D), slice(shared * D, shared * D + D)
            keys = [turned(k[j, theirs], "k_norm", shared, j) for j in range(T)]
            for i in range(T):
                query = turned(q[i, mine], "q_norm", head, i)
                seen = [j for j in range(T) if visible[row, i, j]]
                scores = torch.stack([query @ keys[j] / math.sqrt(D) for j in seen]).softmax(0)
                out[row, i, mine] = sum(p * v[j, theirs] for p, j in zip(scores, seen))
    return out @ w["out.weight"].T


def mixed(row: int, query: int, key: int) -> bool:
    together = int(SPANS[row, query]) >= 0 and SPANS[row, query] == SPANS[row, key]
    return bool(DOCUMENTS[row, query] == DOCUMENTS[row, key] and (key <= query or together))


VISIBLE = {
    "causal": torch.ones(B, T, T).tril().bool(),
    "bidirectional": torch.ones(B, T, T).bool(),
    "documents": torch.ones(B, T, T).tril().bool() & (DOCUMENTS[:, :, None] == DOCUMENTS[:, None]),
    "mixed": torch.tensor([[[mixed(b, q, k) for k in range(T)] for q in range(T)] for b in range(B)]),
}
CONTEXTS = {
    "causal": Context(),
    "bidirectional": Context(causal=False),
    "documents": Context(mask=document_mask(DOCUMENTS)),
    "mixed": Context(mask=mixed_mask(DOCUMENTS, SPANS)),
}


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("qk_norm", ["layer", "rms", "none"])
@pytest.mark.parametrize("policy", VISIBLE)
def test_attention_is_the_witness(policy: str, qk_norm: str, rotated: bool) -> None:
    made = attention(qk_norm=qk_norm)
    x = torch.randn(B, T, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    context = CONTEXTS[policy]
    if rotated:
        cos, sin = rope_tables(torch.arange(T)[None, None], 8, 10_000.0)
        context = context._replace(cos=cos, sin=sin)
    with torch.no_grad():
        found, expected = made(x, context), witness(made, x, VISIBLE[policy], rotated)
    tolerance = 1e-5 if rotated else 1e-10  # angles are float32
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_a_mixed_mask_without_spans_is_causal() -> None:
    none = torch.full_like(SPANS, -1)
    assert torch.equal(mixed_mask(DOCUMENTS, none), document_mask(DOCUMENTS))
    assert torch.equal(mixed_mask(DOCUMENTS, SPANS)[:, 0], VISIBLE["mixed"])


def test_a_span_sees_its_future_and_nothing_else_does() -> None:
    """Through a whole block: a change reaches earlier tokens of its span only."""
    torch.manual_seed(0)
    block, context = Block(layer(dropout=0.1)).double().eval(), CONTEXTS["mixed"]
    x = torch.randn(B, T, 32, dtype=torch.float64)
    with torch.no_grad():
        before = block(x, context)
        for place in range(T):
            changed = x.clone()
            changed[:, place] += 1
            differs = (block(changed, context) != before).any(-1)
            assert torch.equal(differs, VISIBLE["mixed"][:, :, place])


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler: no g++ here")
def test_flex_attention_has_the_mixed_mask() -> None:
    """Masks of documents alone are in test_model.py."""
    q, k, v = (torch.randn(B, heads, T, 16) for heads in (4, 2, 2))
    found = attend(q, k, v, Context(blocks=attention_blocks(DOCUMENTS, SPANS)))
    expected = attend(q, k, v, Context(mask=mixed_mask(DOCUMENTS, SPANS)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("placement", ["pre", "reordered"])
def test_a_block_is_two_residual_branches(placement: str) -> None:
    torch.manual_seed(0)
    block = Block(layer(norm_placement=placement)).eval()
    x, context = torch.randn(B, T, 32), Context(causal=False)
    with torch.no_grad():
        found = block(x, context)
        if placement == "pre":
            x = x + block.attention(block.attention_norm(x), context)
            x = x + block.ffn(block.ffn_norm(x))
        else:
            x = x + block.attention_norm(block.attention(x, context))
            x = x + block.ffn_norm(block.ffn(x))
    assert torch.equal(found, x)


def test_initialize_scales_residual_projections_by_the_depth() -> None:
    block = Block(LayerConfig(width=256, n_heads=4, n_kv_heads=4, ffn_width=256))
    initialize(block, 8)
    for module, deviation in (
        (block.attention.out, 0.005),
        (block.ffn.down, 0.005),
        (block.ffn.gate_up, 0.02),
    ):
        assert float(module.weight.detach().std()) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width.*0"),
        ({"width": 36}, "width.*n_heads.*36"),
        ({"n_heads": 0}, "n_heads.*0"),
        ({"n_kv_heads": 3}, "n_kv_heads.*3"),
        ({"dropout": -0.1}, r"dropout.*-0\.1"),
    ],
)
def test_bad_settings_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(**fields)


def test_rotation_has_the_gradient_of_plain_torch() -> None:
    """In float64; in bfloat16 the tables stay float32 and the result is rounded once."""
    torch.manual_seed(0)
    x, g = (torch.randn(B, T, 4, 8).double().transpose(1, 2).requires_grad_() for _ in range(2))
    cos, sin = (table.double() for table in rope_tables(torch.arange(T)[None, None], 8, 10_000.0))

    def plain(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        c, s = cos[..., :4], sin[..., 4:]
        return torch.cat([first * c - second * s, second * c + first * s], dim=-1)

    torch.testing.assert_close(rotate(x, cos, sin), plain(x), rtol=1e-13, atol=1e-13)
    found, wanted = (torch.autograd.grad(f, x, g)[0] for f in (rotate(x, cos, sin), plain(x)))
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    half = rotate(x.detach().bfloat16(), cos.float(), sin.float())
    assert torch.equal(half, plain(x.detach().bfloat16().double()).bfloat16())


def test_rms_norm_has_the_gradient_of_plain_torch() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(6, eps=1e-5).double()
    torch.nn.init.normal_(norm.weight)
    x, g = torch.randn(B, T, 6).double().requires_grad_(), torch.randn(B, T, 6).double()
    plain = x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    found = torch.autograd.grad(norm(x), (x, norm.weight), g)
    for mine, wanted in zip(found, torch.autograd.grad(plain, (x, norm.weight), g), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), plain.detach(), rtol=1e-12, atol=1e-12)
