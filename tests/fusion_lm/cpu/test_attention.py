"""Attention by products has the values and gradients of plain float64 PyTorch; the rule that chooses it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from earlyfusion.fusion_lm.cpu import attention
from earlyfusion.fusion_lm.cpu.attention import blocked_attention, causal_attention, first_keys
from earlyfusion.fusion_lm.masks import document_mask
from earlyfusion.fusion_lm.positions import document_starts


def tensors(H: int, Hkv: int, T: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k and v as a layer makes them, (B, T, heads, D) seen as (B, heads, T, D), and a gradient."""
    torch.manual_seed(0)
    made = [torch.randn(2, T, heads, 8, dtype=dtype).transpose(1, 2) for heads in (H, Hkv, Hkv, H)]
    return [*(x.requires_grad_() for x in made[:3]), made[3]]


def plain(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Attention as it is written down; visible (B or 1, 1, T, T)."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~visible, float("-inf"))
    return scores.softmax(dim=-1) @ v


def documents(T: int) -> Tensor:
    """Documents of 1 to 40 tokens in two windows (2, T)."""
    lengths = torch.randint(1, 40, (2, T), generator=torch.Generator().manual_seed(1))
    return torch.stack([torch.arange(T).repeat_interleave(row)[:T] for row in lengths])


@pytest.mark.parametrize(("H", "Hkv"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_by_products_are_those_of_plain_attention(
    packed: bool, H: int, Hkv: int, monkeypatch
) -> None:
    """In float64, with a last block that is not full."""
    monkeypatch.setattr(attention, "QUERIES", 16)
    monkeypatch.setattr(attention, "PRODUCTS_FROM", 0)
    monkeypatch.setattr(attention, "PRODUCTS_OF", 0)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)  # not used
    T = 70
    q, k, v, gradient = tensors(H, Hkv, T)
    windows = documents(T) if packed else torch.zeros(2, T, dtype=torch.int64)
    visible, firsts = document_mask(windows), first_keys(document_starts(windows))
    assert packed == any(firsts)
    out = blocked_attention(q, k, v, visible, firsts) if packed else causal_attention(q, k, v)
    expected = plain(q, k, v, visible)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(out, (q, k, v), gradient)
    for mine, theirs in zip(found, torch.autograd.grad(expected, (q, k, v), gradient), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_in_float32_it_is_as_exact_as_torchs(monkeypatch) -> None:
    monkeypatch.setattr(attention, "PRODUCTS_OF", 0)
    q, k, v, gradient = tensors(4, 2, 300, torch.float32)
    by_products = causal_attention(q, k, v)
    assert by_products.grad_fn is not None and "Products" in by_products.grad_fn.name()
    torchs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    Q, K, V = (x.detach().double().requires_grad_() for x in (q, k, v))
    witness = plain(Q, K, V, document_mask(torch.zeros(1, 300, dtype=torch.int64)))
    right = [witness, *torch.autograd.grad(witness, (Q, K, V), gradient.double())]
    errors = []
    for out in (by_products, torchs):
        every = [out, *torch.autograd.grad(out, (q, k, v), gradient)]
        errors.append(
            [
                float((x.detach().double() - y.detach()).norm() / y.detach().norm())
                for x, y in zip(every, right, strict=True)
            ]
        )
    assert max(errors[0]) < 1e-6 and all(mine < 2 * theirs for mine, theirs in zip(*errors, strict=True))


@pytest.mark.parametrize(
    ("T", "gradients", "dtype", "smallest", "chosen"),
    [
        (300, True, torch.float32, 2400, True),
        (300, False, torch.float32, 2400, False),  # torch's forward pass is as fast
        (300, True, torch.bfloat16, 2400, False),
        (300, True, torch.float32, 2401, False),
        (256, True, torch.float32, 2400, False),
        (800, True, torch.float32, 2400, False),  # 416 keys per query
    ],
)
def test_products_are_for_training_in_float32_on_short_windows(
    T: int, gradients: bool, dtype: torch.dtype, smallest: int, chosen: bool, monkeypatch
) -> None:
    monkeypatch.setattr(attention, "PRODUCTS_OF", smallest)
    q, k, v, _ = tensors(1, 1, T, dtype)
    with torch.set_grad_enabled(gradients):
        if not gradients:
            q, k, v = (x.detach() for x in (q, k, v))
        out = causal_attention(q, k, v)
    assert (out.grad_fn is not None and "Products" in out.grad_fn.name()) == chosen
