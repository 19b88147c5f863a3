"""The best of several continuations: the likeliest, or the one that matches its prompt in both directions."""

from typing import Any

import pytest
import torch
from PIL import Image

from earlyfusion.fusion_lm.folder import Model, load_model
from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.fusion_lm.scores import both_ways
from earlyfusion.fusion_lm.stream import sample

PICTURE = Image.effect_noise((32, 24), 90).convert("RGB")


@pytest.fixture
def model(model_folder) -> Model:
    return load_model(model_folder)


def test_the_best_of_several_is_the_likeliest(model: Model) -> None:
    vocab = model.tokenizer.vocab
    prompts = [model.tokenizer.encode([text], eos=False).tokens for text in ("a", "red")]
    options: dict[str, Any] = {"max_new_tokens": 12, "sampling": {"text": Sampling(1.2)}}
    best = generate(model.lm, vocab, prompts, best_of=5, seed=10, **options)
    for k, prompt in enumerate(prompts):
        each = generate(model.lm, vocab, [prompt] * 5, seed=10 + 5 * k, **options)
        likeliest = max(each, key=lambda result: result.log_likelihood)
        assert torch.equal(best[k].tokens, likeliest.tokens)
        assert len({tuple(r.tokens.tolist()) for r in each}) > 1
    with pytest.raises(ValueError, match="best_of is 0, expected"):
        generate(model.lm, vocab, prompts, best_of=0, **options)


def test_the_best_both_ways_is_the_one_that_explains_its_prompt(model: Model) -> None:
    """Against one plain pass over each of the two orders."""
    lm, tokenizer = model
    vocab = tokenizer.vocab
    prompt = tokenizer.encode(["red"], eos=False).tokens
    options: dict[str, Any] = {"max_new_tokens": 40, "then": "image", "stop_after": "image", "seed": 10}
    each = generate(lm, vocab, [prompt] * 4, **options)
    worth = []
    for result in each:
        new = result.tokens[len(prompt) :]
        bos, eos = torch.tensor([vocab.bos]), torch.tensor([vocab.eos])
        total = 0.0
        for first, second in ((prompt[1:], new), (new, prompt[1:])):
            tokens = torch.cat([bos, first, second, eos])
            with torch.no_grad():
                log_p = lm(tokens[None])[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
            total += float(log_p[len(first) :].mean())
        worth.append(total)
        assert both_ways(lm, vocab, result.tokens, len(prompt)) == pytest.approx(total, rel=1e-5)
        ended = torch.cat([result.tokens, torch.tensor([vocab.eos])])  # an end changes nothing
        assert both_ways(lm, vocab, ended, len(prompt)) == pytest.approx(total, rel=1e-5)
    assert len(set(worth)) > 1
    (best,) = generate(lm, vocab, [prompt], best_of=4, best_by="both", **options)
    assert torch.equal(best.tokens, each[worth.index(max(worth))].tokens)


def test_what_has_no_two_ways(model: Model) -> None:
    vocab, tokenizer = model.tokenizer.vocab, model.tokenizer
    tokens = tokenizer.encode(["ab", PICTURE], eos=False).tokens
    image = int((tokens == vocab.layout("image").begin).nonzero()[0])
    assert both_ways(model.lm, vocab, tokens[:-1], image) == float("-inf")  # the image was cut
    assert both_ways(model.lm, vocab, tokens[:image], image) == float("-inf")  # nothing was written
    with pytest.raises(ValueError, match="best_by.*non-empty"):
        both_ways(model.lm, vocab, tokens, 1)
    with pytest.raises(ValueError, match="best_by.*cut short"):
        both_ways(model.lm, vocab, tokens, len(tokens) - 2)
    cut = tokens[: len(tokens) - 2]
    with pytest.raises(ValueError, match="best_by.*complete"):  # before anything is decoded
        generate(model.lm, vocab, [cut], best_of=2, best_by="both", max_new_tokens=0)
    with pytest.raises(ValueError, match="best_of must be at least 2, got 1"):
        sample(model, [["a"]], best_by="both")
    with pytest.raises(ValueError, match="best_by is 'backward', expected one of forward, both"):
        generate(model.lm, vocab, [tokens], best_of=2, best_by="backward", max_new_tokens=4)  # type: ignore[arg-type]
