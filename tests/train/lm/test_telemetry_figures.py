"""Telemetry's figures, each beside a few lines of plain torch."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.tokenizers.documents import interleave
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.lm import telemetry
from earlyfusion.train.lm.targets import targets_of
from earlyfusion.train.lm.telemetry import (
    WeightsBefore,
    gradient_cosines,
    matrices,
    max_attention_logit,
    observe,
    row_norms,
)

GROUPS = ("embedding", "lm_head", "qkv", "out", "gate_up", "down")
PAIR = ("text", "image")


def each_document(tokens: Tensor, documents: Tensor, vocab: SharedVocab) -> list[Tensor]:
    """The documents (T,), without the padding."""
    found = [t[d == n] for t, d in zip(tokens, documents) for n in d.unique()]
    return [document for document in found if document[0] != vocab.pad]


@pytest.mark.parametrize("changes", [{}, {"norm_placement": "reordered", "qk_norm": "none"}])
def test_figures_are_those_of_the_documents_one_by_one(network, windows, vocab, changes: dict[str, str]):
    net = network(vocab, **changes)
    tokens, documents = windows(vocab)
    with torch.no_grad():
        seen = observe(net, tokens, documents, vocab)
    assert seen.terms.entropy is not None and seen.terms.in_modality is not None
    vocab_modality = vocab.modality(torch.arange(vocab.size))
    net.eval()
    norms, largest = [], torch.full((2,), -torch.inf)
    sums: dict[str, list[list[float]]] = {n: [[], [], []] for n in ("nll", "entropy", "in_modality")}
    log_z = []
    with torch.no_grad():
        for document in each_document(tokens, documents, vocab):
            context = net._context(Inputs(document[None]))
            x = net.embedding(document[None])
            blocks: Any = net.blocks
            for layer, block in enumerate(blocks):
                inside = x if block.reordered else block.attention_norm(x)
                q, k, _ = block.attention.queries_keys_values(inside, context)
                for head in range(4):
                    for i in range(len(document)):
                        for j in range(i + 1):
                            logit = q[0, head, i] @ k[0, head // 2, j] / 8**0.5
                            largest[layer] = max(largest[layer], logit)
                x = block(x, context)
            norms += x[0].square().sum(-1).sqrt().tolist()
            logits = net.lm_head(net.norm(x))[0]
            for row, target in zip(logits, document[1:]):
                modality = int(vocab_modality[target])
                p = row.softmax(-1)
                sums["nll"][modality].append(float(-p[target].log()))
                sums["entropy"][modality].append(float(-(p * p.log()).sum()))
                own = p[vocab_modality == modality].sum()
                sums["in_modality"][modality].append(float(-(p[target] / own).log()))
                log_z.append(float(row.logsumexp(-1)))
    used = tokens != vocab.pad
    assert seen.output_norms[used].tolist() == pytest.approx(norms, rel=1e-4)
    torch.testing.assert_close(seen.attention_logits, largest, rtol=1e-4, atol=1e-5)
    assert largest[0] != largest[1]
    for name, values in (
        ("nll", seen.terms.by_modality),
        ("entropy", seen.terms.entropy),
        ("in_modality", seen.terms.in_modality),
    ):
        expected = [np.mean(sums[name][modality]) for modality in range(3)]
        assert values.tolist() == pytest.approx(expected, rel=1e-4)
    assert float(seen.terms.log_z) == pytest.approx(np.mean(log_z), rel=1e-4)


def test_the_largest_logit_is_one_that_attention_sees():
    q, k = torch.zeros(2, 4, 6, 8), torch.zeros(2, 2, 6, 8)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
    used = torch.ones(2, 6, dtype=torch.bool)
    used[1, 4:] = False
    q[..., 0] = k[0, 1, 1, 0] = 1.0  # head 2 and 3 of the first window look at token 1 ...
    k[0, 0, 5, 0] = 9.0  # ... and at the last one with themselves alone
    k[1, 0, 5, 0] = 99.0  # padding
    largest = max_attention_logit(q, k, documents, used)
    assert float(largest) == pytest.approx(9 / 8**0.5)
    k[0, 0, 5, 0] = 0.0
    q[0, :, :3] = 0.0  # those that see token 1: those behind the border do not
    assert float(max_attention_logit(q, k, documents, used)) == 0.0


def test_attention_logits_come_in_parts(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    q, k = torch.randn(3, 4, 37, 8), torch.randn(3, 2, 37, 8)
    documents = torch.arange(37).div(9, rounding_mode="floor").expand(3, 37)
    used = torch.ones(3, 37, dtype=torch.bool)
    whole = max_attention_logit(q, k, documents, used)
    for scores in (1, 4 * 37 * 5):
        monkeypatch.setitem(telemetry.SCORES, "cpu", scores)
        torch.testing.assert_close(max_attention_logit(q, k, documents, used), whole)


def test_a_row_has_the_norm_of_its_modality(vocab):
    weight = torch.randn(vocab.size, 8)
    modality = vocab.modality(torch.arange(vocab.size))
    norms = row_norms(weight, vocab.table())
    for i in range(3):
        expected = [float(row.square().sum().sqrt()) for row, m in zip(weight, modality) if m == i]
        assert float(norms[i]) == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_cosine_is_that_of_the_two_gradients(network, windows, vocab):
    net = network(vocab)
    tokens, documents = windows(vocab)
    blocks = list(net.blocks.parameters())
    found = gradient_cosines(net, observe(net, tokens, documents, vocab).terms, PAIR)[PAIR]
    assert all(parameter.grad is None for parameter in net.parameters())
    net.eval()
    targets = targets_of(tokens, documents, vocab)
    gradients = []
    for modality in (1, 2):
        net.zero_grad()
        only = torch.where(vocab.modality(tokens.roll(-1, dims=1)) == modality, targets, -100)
        logits = net(Inputs(tokens, documents))
        F.cross_entropy(logits.flatten(0, 1), only.flatten()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in blocks if p.grad is not None]))
    expected = F.cosine_similarity(*gradients, dim=0)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert abs(float(found)) < 0.99


def test_each_two_of_three_modalities_have_a_cosine(network, vocab):
    vocab = vocab.extended("tones", codebook_size=16, max_size=8)
    net, ids = network(vocab), torch.arange(5, 12)
    parts = [("text", ids), ("image", torch.randint(32, (2, 3))), ("tones", torch.randint(16, (4,)))]
    tokens = interleave(parts, vocab)[None]
    seen = [observe(net, tokens, torch.zeros_like(tokens), vocab).terms for _ in range(4)]
    found = gradient_cosines(net, seen.pop(), ("text", "image", "tones"))
    assert list(found) == [("text", "image"), ("text", "tones"), ("image", "tones")]
    for (pair, cosine), terms in zip(found.items(), seen, strict=True):
        torch.testing.assert_close(cosine, gradient_cosines(net, terms, pair)[pair])


def test_flex_attention_is_looked_at_with_masks(network, windows, vocab):
    net, (tokens, documents) = network(vocab), windows(vocab)
    expected = observe(net, tokens, documents, vocab)
    net.attention_backend = "flex"  # which has no backward pass on a CPU
    seen = observe(net, tokens, documents, vocab)
    assert torch.equal(seen.output_norms, expected.output_norms)
    one, other = (gradient_cosines(net, some.terms, PAIR)[PAIR] for some in (seen, expected))
    assert torch.equal(one, other)
    assert net.attention_backend == "flex"


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_the_update_ratio_is_that_of_two_snapshots(network, vocab, tie_embeddings: bool):
    net = network(vocab, tie_embeddings=tie_embeddings)
    groups = [name for name in GROUPS if not (tie_embeddings and name == "lm_head")]
    assert list(matrices(net)) == groups
    before, old = WeightsBefore(net), copy.deepcopy(net)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1 if "out" in name else 0.01)
    moved = before.moved(net)
    assert list(moved) == groups
    for name, (step, size) in moved.items():
        a, b = (torch.cat([w.detach().flatten() for w in matrices(n)[name]]) for n in (old, net))
        assert float((step / size).sqrt()) == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-4)


def test_of_large_matrices_every_so_many_rows_are_kept(network, vocab, monkeypatch: pytest.MonkeyPatch):
    net = network(vocab)
    monkeypatch.setattr(telemetry, "SAMPLE", 32 * 32)  # qkv has 64 rows of 32, the embedding hundreds
    before = WeightsBefore(net)
    old = net.embedding.weight.detach().clone()
    assert before.rows["out"][0].shape == (32, 32)
    assert torch.equal(before.rows["qkv"][1], net.blocks[1].attention.qkv.weight[::3])  # type: ignore[union-attr]
    assert all(len(rows) * 32 <= 1024 for group in before.rows.values() for rows in group if len(rows) > 1)
    with torch.no_grad():
        net.embedding.weight.mul_(1.5)
    step, size = before.moved(net)["embedding"]
    assert float((step / size).sqrt()) == pytest.approx(0.5, rel=1e-5)
    assert not torch.equal(old, net.embedding.weight)
