"""The log p that alignment computes is the one that generation drew with."""

from typing import Any

import pytest
import torch
from torch import Tensor

from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.grammar import Grammar
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.fusion_lm.policy import Draws, draw, log_probabilities
from earlyfusion.fusion_lm.prompts import Options, read_prompts
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.tokenizers.documents import interleave
from earlyfusion.tokenizers.vocab import SharedVocab

CONTEXT = 64


def vocab_of(n: int = 1, **fields: Any) -> SharedVocab:
    grids = {"max_grid": 4, **fields}
    return SharedVocab.build(text=(6, (0,)), codebook_size=5, codes_per_position=n, **grids)


AUDIO = vocab_of().extended("audio", codebook_size=7, max_size=6)
"""Text, images of two axes, and sequences of one axis."""


def prompts_of(vocab: SharedVocab) -> list[Tensor]:
    """Only bos, text, text after an image, and images that are cut short."""
    n = vocab["image"].slots
    grid = torch.arange(6 * n).view((2, 3, n) if n > 1 else (2, 3)) % 5
    words = "text", torch.tensor([1, 2, 3])
    begun = interleave([words, ("image", grid)], vocab, eos=False)
    return [
        torch.tensor([vocab.bos]),
        interleave([words], vocab, eos=False),
        interleave([("image", grid), words], vocab, eos=False),
        begun[: -2 * n],
        begun[:6],
    ]


LOUD = {"audio": Sampling(0.5)}
MIXED = {"text": Sampling(0.7), "image": Sampling(1.3, top_k=4)}
SETTINGS: dict[str, tuple[SharedVocab, dict[str, Any]]] = {
    "plain": (vocab_of(), {}),
    "temperature": (vocab_of(), {"sampling": Sampling(0.6)}),
    "filters": (vocab_of(), {"sampling": Sampling(0.8, top_k=9, top_p=0.9, min_p=0.02)}),
    "by modality": (vocab_of(), {"sampling": MIXED}),
    "greedy text": (vocab_of(), {"sampling": {"text": Sampling(0)}}),
    "an image first": (vocab_of(), {"then": "image", "max_blocks": 1, "stop_after": "image"}),
    "only text": (vocab_of(), {"then": "text", "max_blocks": 0}),
    "given shapes": (vocab_of(), {"then": "image", "shapes": {"image": (2, 2)}}),
    "slots": (vocab_of(3), {"sampling": MIXED}),
    "columns": (vocab_of(2, scan="columns"), {"then": "image"}),
    "one size": (vocab_of(1, fixed_grid=(2, 3), max_grid=None), {"then": "image"}),
    "guidance": (vocab_of(), {"guidance": Guidance(2.5), "sampling": MIXED}),
    "guidance of slots": (vocab_of(2), {"guidance": Guidance(0.3)}),
    "negative": (vocab_of(), {"guidance": Guidance(2.0), "negative": [4, 5]}),
    "guidance of images": (
        vocab_of(),
        {"guidance": Guidance(2.0, 1.5), "sampling": Sampling(0.8, top_p=0.95)},
    ),
    "a third modality": (AUDIO, {"then": "audio", "sampling": LOUD, "guidance": Guidance(1.5)}),
}


def drawn(
    build, name: str, dtype: torch.dtype, **fields: Any
) -> tuple[FusionLM, SharedVocab, Draws, Options]:
    vocab, options = SETTINGS[name]
    if "negative" in options:
        ids = torch.tensor(options["negative"])
        options = {**options, "negative": interleave([("text", ids)], vocab, eos=False)}
    options = {"max_new_tokens": 40, **options}
    model = build(vocab_size=vocab.size, context_length=CONTEXT, **fields).to(dtype)
    prompts = prompts_of(vocab)
    if options.get("max_blocks") == 0:
        prompts = prompts[:3]
    return model, vocab, draw(model, vocab, prompts * 3, seed=1, **options), Options(**options)


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_the_samplers(build, name: str) -> None:
    model, vocab, draws, options = drawn(build, name, torch.float32)
    with torch.no_grad():
        again = log_probabilities(model, vocab, draws, options)
    assert len(again) == sum(draws.counts) > 60
    torch.testing.assert_close(again, draws.log_p, rtol=0, atol=1e-5)
    assert float(draws.log_p.min()) < -0.5  # something was drawn that was not certain
    pairs = torch.cat([row[n:] for row, n in zip(draws.documents, draws.prompt_lengths)])
    if name not in ("only text", "greedy text"):
        assert bool(vocab.is_(options.then if options.then != "any" else "image", pairs).any())


@pytest.mark.parametrize("name", ["plain", "guidance of images", "slots"])
def test_rows_chunks_and_packing_change_nothing(build, name: str) -> None:
    model, vocab, draws, options = drawn(build, name, torch.float64, n_kv_heads=2, logit_soft_cap=10.0)
    whole = log_probabilities(model, vocab, draws, options)
    torch.testing.assert_close(whole.detach(), draws.log_p, rtol=0, atol=1e-10)
    weights = torch.randn(len(whole), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = list(model.parameters())
    wanted = torch.autograd.grad((whole * weights).sum(), parameters)
    in_chunks = log_probabilities(model, vocab, draws, options, chunk=7 * vocab.size)
    torch.testing.assert_close(in_chunks, whole, rtol=0, atol=1e-12)
    for found, expected in zip(torch.autograd.grad((in_chunks * weights).sum(), parameters), wanted):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    order = list(range(len(draws.documents)))[::-1]
    alone = [log_probabilities(model, vocab, draws.rows([row]), options) for row in order]
    torch.testing.assert_close(torch.cat(alone[::-1]), whole, rtol=0, atol=1e-10)
    joined = Draws.joined([draws.rows(order[:4]), draws.rows(order[4:])]).rows(order)
    assert joined.stops == draws.stops and torch.equal(joined.room, draws.room)
    assert all(torch.equal(a, b) for a, b in zip(joined.documents, draws.documents))


def test_its_gradient_is_that_of_a_plain_softmax(build) -> None:
    """Token by token: the whole network on each prefix, the grammar's mask, the temperature."""
    vocab, temperature = vocab_of(), 0.7
    model = build(vocab_size=vocab.size, context_length=CONTEXT).double()
    options = {"max_new_tokens": 20, "sampling": Sampling(temperature), "then": "image"}
    draws = draw(model, vocab, prompts_of(vocab)[1:4], seed=3, **options)
    found = log_probabilities(model, vocab, draws, Options(**options))
    plain = []
    grammar = Grammar(vocab)
    for document, length in zip(draws.documents, draws.prompt_lengths):
        state = grammar.state(read_prompts(vocab, [document[:length]], CONTEXT))
        first = state.mode == 0  # outside of a block
        for place in range(length, len(document)):
            logits = model(document[None, :place])[0, -1] / temperature
            allowed = grammar.allowed(state, torch.tensor([min(length + 20, CONTEXT) - place]))[0]
            if place == length and bool(first):
                allowed = allowed & grammar.first_token("image")
            plain.append(logits.masked_fill(~allowed, -torch.inf).log_softmax(0)[document[place]])
            state = grammar.advance(state, document[place : place + 1])
    expected = torch.stack(plain)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    sides = [torch.autograd.grad(side.square().sum(), list(model.parameters())) for side in (found, expected)]
    for one, other in zip(*sides):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_the_draws_are_those_of_generate(build) -> None:
    vocab, options = vocab_of(), {"max_new_tokens": 30, "sampling": MIXED, "seed": 5}
    model = build(vocab_size=vocab.size, context_length=CONTEXT)
    draws = draw(model, vocab, prompts_of(vocab), **options)
    for row, result in enumerate(generate(model, vocab, prompts_of(vocab), **options)):
        assert result.tokens.tolist() == draws.documents[row].tolist() and result.stop == draws.stops[row]


def test_a_row_without_finite_logits_ends_and_the_others_count(build) -> None:
    vocab = vocab_of()
    model = build(vocab_size=vocab.size, context_length=CONTEXT)
    with torch.no_grad():
        model.embedding.weight[vocab.to_tokens("text", torch.tensor(3))] = torch.nan
    options = {"max_new_tokens": 12, "then": "image"}
    draws = draw(model, vocab, prompts_of(vocab)[:2], seed=0, **options)
    assert draws.stops[1] == "not finite" and draws.counts[1] == 0 < draws.counts[0]
    again = log_probabilities(model, vocab, draws.rows([0]), Options(**options))
    torch.testing.assert_close(again.detach(), draws.log_p, rtol=0, atol=1e-5)


def test_settings_that_it_does_not_know_are_refused(build) -> None:
    vocab = vocab_of()
    model = build(vocab_size=vocab.size, context_length=CONTEXT)
    prompts = prompts_of(vocab)[:1]
    with pytest.raises(ValueError, match="repetition_penalty is 1.2"):
        draw(model, vocab, prompts, max_new_tokens=5, sampling=Sampling(repetition_penalty=1.2))
    with pytest.raises(ValueError, match="given"):
        draw(model, vocab, prompts, max_new_tokens=5, given=[torch.tensor([1])])
