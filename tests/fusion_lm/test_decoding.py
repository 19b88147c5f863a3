"""Batches, the cache and guidance: a row does not depend on the other rows."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from earlyfusion.fusion_lm import generate as module
from earlyfusion.fusion_lm.generate import generate, generate_steps
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.inputs import Inputs
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.fusion_lm.sampling import Sampling, penalize
from earlyfusion.tokenizers.documents import interleave
from earlyfusion.tokenizers.vocab import SharedVocab

# bos 0, eos 1, pad 2, begin_image 3, end_image 4, "1" to "4" at 5..8, text at 9..13, codes at 14..18
VOCAB = SharedVocab.build(text=(6, (0,)), codebook_size=5, max_grid=4)
TEXT, IMAGE = Sampling(0.9, top_p=0.95, min_p=0.01), Sampling(1.1, top_k=4)
BOTH, GREEDY = {"text": TEXT, "image": IMAGE}, Sampling(0)


def prompt(*parts: int | tuple[int, int], cut: int = 0) -> Tensor:
    """A number N is N text tokens, a pair an image of that grid; the last ``cut`` tokens are removed."""
    made: list[tuple[str, Tensor]] = []
    for part in parts:
        if isinstance(part, tuple):
            made.append(("image", torch.arange(part[0] * part[1]).view(part) % 5))
        else:
            made.append(("text", 1 + torch.arange(part) % 5))
    tokens = interleave(made, VOCAB, eos=False)
    return tokens[: len(tokens) - cut]


PROMPTS = [
    prompt(),
    prompt(7),
    prompt((2, 2), 1),
    prompt(3, (3, 3), cut=5),
    prompt((2, 2), cut=5),
    prompt(1, (1, 2), 2, (4, 4)),
]


@pytest.fixture
def model(build) -> FusionLM:
    return build(vocab_size=VOCAB.size, context_length=64, n_kv_heads=2)


def logits_seen(model: FusionLM, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The logits (B, V) of every step that follows."""
    steps: list[Tensor] = []
    read = module._logits
    monkeypatch.setattr(module, "_logits", lambda logits: steps.append(read(logits)) or steps[-1])
    return steps


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(2.0), Guidance(2.0, 1.5)], ids=str)
def test_in_float64_a_batch_draws_what_its_rows_draw_alone(model: FusionLM, guidance: Guidance) -> None:
    model = model.double()
    seeds = [5, 2**63, 0, 7, -3, 5]
    together = generate(
        model,
        VOCAB,
        PROMPTS,
        max_new_tokens=30,
        sampling=BOTH,
        seed=seeds,
        guidance=guidance,
    )
    for row, seed in enumerate(seeds):
        (alone,) = generate(
            model,
            VOCAB,
            [PROMPTS[row]],
            max_new_tokens=30,
            sampling=BOTH,
            seed=[seed],
            guidance=guidance,
        )
        assert alone.tokens.tolist() == together[row].tokens.tolist()
        assert (alone.prompt_length, alone.stop) == (together[row].prompt_length, together[row].stop)
        assert alone.log_likelihood == pytest.approx(together[row].log_likelihood)
    assert len({one.stop for one in together}) > 1 and len({len(one.tokens) for one in together}) > 2


def test_one_seed_means_consecutive_seeds(model: FusionLM) -> None:
    rows = generate(model, VOCAB, PROMPTS[:3], max_new_tokens=20, seed=4)
    same = generate(model, VOCAB, PROMPTS[:3], max_new_tokens=20, seed=[4, 5, 6])
    assert [r.tokens.tolist() for r in rows] == [r.tokens.tolist() for r in same]
    with pytest.raises(ValueError, match="2 seeds for 3 prompts"):
        generate(model, VOCAB, PROMPTS[:3], max_new_tokens=20, seed=[4, 5])


def test_neighbors_leave_every_bit_as_it_is(model: FusionLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """At equal shape, with other rows that differ in content, state and end."""
    found = []
    for others in ([prompt(7), prompt(2, (1, 4))], [prompt((3, 3), cut=3), prompt(3)]):
        steps = logits_seen(model, monkeypatch)
        results = generate(model, VOCAB, [others[0], prompt(7), others[1]], max_new_tokens=40, seed=[9, 1, 8])
        count = len(results[1].tokens) - 8
        found.append((results[1].tokens, torch.stack(steps)[:count, 1]))
    (tokens, logits), (again, other) = found
    assert torch.equal(tokens, again) and torch.equal(logits, other) and len(tokens) > 12


def test_logits_of_a_batch_are_those_of_the_whole_row(
    model: FusionLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32, against one forward pass without cache over each row's tokens alone."""
    steps = logits_seen(model, monkeypatch)
    results = generate(model, VOCAB, PROMPTS, max_new_tokens=40, sampling=BOTH)
    cached = torch.stack(steps)
    for row, result in enumerate(results):
        with torch.no_grad():
            whole = model(result.tokens[None, :-1])
        assert isinstance(whole, Tensor)
        expected = whole[0, result.prompt_length - 1 :]
        scale = float(expected.abs().max())
        torch.testing.assert_close(cached[: len(expected), row], expected, atol=1e-5 * scale, rtol=0)


def test_the_likelihood_is_that_of_the_legal_tokens(model: FusionLM) -> None:
    """Where only text is legal: the mean of log p among text and eos, of the unchanged logits."""
    options: dict[str, Any] = {"max_new_tokens": 6, "max_blocks": 0, "sampling": Sampling(3.0)}
    result = max(generate(model, VOCAB, [prompt(3)] * 4, seed=3, **options), key=lambda one: len(one.tokens))
    assert len(result.tokens) > 6  # a mean of several
    with torch.no_grad():
        logits = model(result.tokens[None, :-1])
    assert isinstance(logits, Tensor)
    legal = [*range(9, 14), VOCAB.eos]
    log_p = logits[0, 3:, legal].log_softmax(-1)
    chosen = torch.tensor([legal.index(int(token)) for token in result.tokens[4:]])
    assert result.log_likelihood == pytest.approx(float(log_p.gather(1, chosen[:, None]).mean()), abs=1e-5)


# guidance, compared with forward passes over what each branch must see


def without_text(tokens: Tensor) -> Tensor:
    """bos and the images, the last of them as far as it goes."""
    kept, inside = [int(tokens[0])], False
    for token in tokens[1:].tolist():
        inside |= token == VOCAB.layout("image").begin
        if inside:
            kept.append(token)
        inside &= token != VOCAB.layout("image").end
    return torch.tensor(kept)


def last_image(tokens: Tensor) -> Tensor:
    return tokens[int((tokens == VOCAB.layout("image").begin).nonzero()[-1]) :]


STARTS = [prompt(4), prompt((2, 1), 3), prompt(2, (2, 2), cut=3), prompt(1, (1, 2), 2, (2, 3), cut=2)]


@pytest.mark.parametrize("image_scale", [None, 1.5, 0.0])
@pytest.mark.parametrize("negative", [None, prompt(2)], ids=["nothing", "a negative prompt"])
def test_guided_codes_are_those_of_the_formula(
    model: FusionLM, negative: Tensor | None, image_scale: float | None
) -> None:
    """Images with text between them: each code is the best of the combined logits."""
    model = model.double()
    guidance = Guidance(3.0, image_scale)
    greedy = Sampling(temperature=0)
    results = generate(
        model,
        VOCAB,
        STARTS * 3,
        max_new_tokens=45,
        sampling={"text": Sampling(), "image": greedy},
        guidance=guidance,
        negative=negative,
        shapes={"image": (2, 3)},
    )

    def logits(row: Tensor) -> Tensor:
        with torch.no_grad():
            found = model(row[None])
        assert isinstance(found, Tensor)
        return found[0, -1, 14:]

    beginning = torch.tensor([VOCAB.bos]) if negative is None else negative
    guided = plain = 0
    of_starts = [0] * len(STARTS)
    written = [
        (row, r.tokens, n) for row, r in enumerate(results) for n in range(r.prompt_length, len(r.tokens))
    ]
    for row, tokens, n in written:
        if not 14 <= int(tokens[n]) < 19:
            continue
        before = tokens[:n]
        f, u = logits(before), logits(torch.cat([beginning, last_image(before)]))
        expected = u + 3.0 * (f - u)
        if image_scale is not None:
            i = logits(without_text(before))
            expected = u + image_scale * (i - u) + 3.0 * (f - i)
        assert int(tokens[n]) == 14 + int(expected.argmax())
        guided += 1
        of_starts[row % len(STARTS)] += 1
        plain += int(tokens[n]) == 14 + int(f.argmax())
    assert min(of_starts) >= 4 and guided >= 48 and plain < guided


def test_guidance_of_1_is_none(model: FusionLM) -> None:
    assert [Guidance().branches, Guidance(2.0).branches, Guidance(1.0, 1.0).branches] == [1, 2, 3]
    model = model.double()
    plain = generate(model, VOCAB, PROMPTS, max_new_tokens=30, seed=1)
    three = generate(model, VOCAB, PROMPTS, max_new_tokens=30, seed=1, guidance=Guidance(1.0, 1.0))
    assert [r.tokens.tolist() for r in three] == [r.tokens.tolist() for r in plain]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_text_is_not_guided(model: FusionLM, temperature: float) -> None:
    model = model.double()
    options = {"max_new_tokens": 20, "max_blocks": 0, "seed": 3, "sampling": Sampling(temperature)}
    plain = generate(model, VOCAB, PROMPTS[:3], **options)  # type: ignore[arg-type]
    guided = generate(model, VOCAB, PROMPTS[:3], guidance=Guidance(5.0), **options)  # type: ignore[arg-type]
    assert [r.tokens.tolist() for r in guided] == [r.tokens.tolist() for r in plain]


@pytest.mark.parametrize(
    ("guidance", "negative", "message"),
    [
        ((-1.0, None), None, "guidance text is -1.0, expected 0 to 100"),
        ((1.0, float("inf")), None, "guidance image is inf, expected 0 to 100"),
        ((1e38, None), None, "guidance text is 1e+38, expected 0 to 100"),
        ((float("nan"), None), None, "guidance text is nan, expected 0 to 100"),
        ((2.0, None), [9, 9], "negative must be the beginning of a document without images"),
        ((2.0, None), [0, 3], "negative must be the beginning of a document without images"),
        ((2.0, None), [0, *[9] * 60], "image: 8 prompt tokens leave 3;"),
    ],
)
def test_guidance_that_cannot_be(model: FusionLM, guidance, negative, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(
            model,
            VOCAB,
            [prompt(7)],
            max_new_tokens=20,
            then="image",
            guidance=Guidance(*guidance),
            negative=None if negative is None else torch.tensor(negative),
        )


# the penalty


def test_penalized_logits() -> None:
    logits, seen = torch.tensor([[2.0, -2.0, 4.0, -4.0]]), torch.tensor([[True, True, False, False]])
    assert penalize(logits, seen, 2.0).tolist() == [[1.0, -4.0, 4.0, -4.0]]


def test_a_penalty_keeps_text_from_coming_again(model: FusionLM) -> None:
    """So strong that every text token comes once before one comes twice; codes do not change."""
    text = Sampling(temperature=0, repetition_penalty=100)
    (result,) = generate(
        model, VOCAB, [prompt(2)], max_new_tokens=3, then="text", max_blocks=0, sampling={"text": text}
    )
    written = result.tokens[3:].tolist()
    assert (
        sorted(t for t in written if t != VOCAB.eos) == [11, 12, 13][: len(written)] or VOCAB.eos in written
    )
    assert not {9, 10} & set(written)
    options = {
        "max_new_tokens": 30,
        "then": "image",
        "stop_after": "image",
        "shapes": {"image": (4, 4)},
    }
    rows = [
        generate(model, VOCAB, [prompt()], sampling={"text": s, "image": Sampling(0)}, **options)[0]
        for s in (text, Sampling(0))
    ]  # type: ignore[arg-type]
    assert torch.equal(rows[0].tokens, rows[1].tokens)


def test_a_loop_that_is_left_leaves_the_model_as_it_was(model: FusionLM) -> None:
    model.train()
    for number, _ in enumerate(generate_steps(model, VOCAB, PROMPTS, max_new_tokens=20)):
        if number == 2:
            break
    assert model.training


# the cache


def random_tokens(*shape: int) -> Tensor:
    return torch.randint(50, shape, generator=torch.Generator().manual_seed(0))


def logits_of(model: FusionLM, tokens: Tensor, documents: Tensor | None = None, **kwargs) -> Tensor:
    """Logits (B, T, V) without gradients."""
    with torch.no_grad():
        logits = model(Inputs(tokens, documents), **kwargs)
    assert isinstance(logits, Tensor)
    return logits


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("pieces", [[24], [1] * 24, [5, 1, 1, 9, 1, 7], [23, 1], [1, 23]], ids=str)
def test_cached_is_uncached(build, n_kv_heads: int, pieces: list[int]) -> None:
    model = build(n_kv_heads=n_kv_heads).double()
    tokens = random_tokens(3, 24)
    whole = logits_of(model, tokens)
    cache = model.new_cache(3, 30)
    parts = [logits_of(model, piece, cache=cache) for piece in tokens.split(pieces, dim=1)]
    assert cache.lengths.tolist() == [24, 24, 24] and cache.length == 30
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-12, rtol=0)


def test_the_cache_holds_the_grouped_heads_alone(build) -> None:
    model = build(n_kv_heads=2)
    assert model.new_cache(3, 5).store.shape == (2, 2, 3, 2, 5, 8)  # layers, k and v, B, heads, T, D


def test_a_cache_has_limits(build) -> None:
    model = build()
    cache = model.new_cache(1, 4)
    logits_of(model, random_tokens(1, 3), cache=cache)
    with pytest.raises(ValueError, match="5 tokens do not fit the cache's 4"):
        logits_of(model, random_tokens(1, 2), cache=cache)
    for filled in (cache, model.new_cache(1, 4)):
        with pytest.raises(ValueError, match="documents.*cache"):
            logits_of(model, random_tokens(1, 1), torch.zeros(1, 1, dtype=torch.int64), cache=filled)
    long = model.new_cache(1, 100)
    logits_of(model, random_tokens(1, 60), cache=long)
    with pytest.raises(ValueError, match="65 tokens do not fit the context length 64"):
        logits_of(model, random_tokens(1, 5), cache=long)
    with pytest.raises(ValueError, match="65 tokens do not fit the context length 64"):
        logits_of(model, random_tokens(1, 65))
