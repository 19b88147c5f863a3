"""Extreme prompts: empty, only images, a hundred images, a full context."""

import pytest
import torch
from torch import Tensor

from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.tokenizers.documents import interleave, split
from earlyfusion.tokenizers.vocab import SharedVocab

# bos 0, eos 1, pad 2, begin_image 3, end_image 4, "1" to "4" at 5..8, text at 9..13, codes at 14..18
VOCAB = SharedVocab.build(text=(6, (0,)), codebook_size=5, max_grid=4)
CONTEXT = 600
GUIDANCES = [Guidance(), Guidance(2.0), Guidance(2.0, 1.5)]


@pytest.fixture
def model(build) -> FusionLM:
    return build(vocab_size=VOCAB.size, context_length=CONTEXT).double()


def images(count: int, grid: tuple[int, int] = (1, 1)) -> Tensor:
    """A prompt of images alone."""
    codes = torch.arange(grid[0] * grid[1]).view(grid) % 5
    return interleave([("image", codes)] * count, VOCAB, eos=False)


def text(length: int) -> Tensor:
    """A prompt of N tokens, including bos."""
    return torch.tensor([VOCAB.bos, *[9] * (length - 1)])


@pytest.mark.parametrize("guidance", GUIDANCES, ids=str)
def test_a_prompt_with_a_hundred_images(model: FusionLM, guidance: Guidance) -> None:
    prompts = [images(100), text(1), images(1, (4, 4)), images(100)[:-2]]
    results = generate(model, VOCAB, prompts, max_new_tokens=40, seed=3, guidance=guidance)
    for number, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        assert torch.equal(result.tokens[: len(prompt)], prompt)
        split(result.tokens, VOCAB, partial="error" if result.stop == "eos" else "drop")
        (alone,) = generate(
            model, VOCAB, [prompt], max_new_tokens=40, guidance=guidance, seed=3 + number,
        )  # fmt: skip
        assert torch.equal(alone.tokens, result.tokens)
    finished = [part for part in split(results[3].tokens, VOCAB, partial="drop") if part.kind == "image"]
    assert len(finished) >= 100  # the cut one too


@pytest.mark.parametrize("guidance", GUIDANCES, ids=str)
def test_a_hundred_images_are_drawn(model: FusionLM, guidance: Guidance) -> None:
    """One after the other, as many as the context holds; text is free in what is left."""
    begun = torch.tensor([VOCAB.layout("image").begin, *[-1] * 4] * 119)
    (row,) = generate(
        model,
        VOCAB,
        [text(1)],
        max_new_tokens=CONTEXT,
        shapes={"image": (1, 1)},
        guidance=guidance,
        given=[begun],
    )
    parts = split(row.tokens, VOCAB)
    assert [part.kind for part in parts[:119]] == ["image"] * 119
    assert len({int(part.values) for part in parts[:119] if part.kind == "image"}) > 2
    assert row.stop in ("eos", "context") and len(row.tokens) <= CONTEXT


@pytest.mark.parametrize("guidance", GUIDANCES, ids=str)
def test_the_last_token_of_the_context(model: FusionLM, guidance: Guidance) -> None:
    """A prompt that leaves one token gets one, in a batch with a row that has more room."""
    prompts = [text(CONTEXT - 1), text(1)]
    full, _ = generate(model, VOCAB, prompts, max_new_tokens=50, seed=2, guidance=guidance)
    assert len(full.tokens) == CONTEXT and full.stop in ("context", "eos")
    assert int(full.tokens[-1]) in (VOCAB.eos, *range(9, 14))  # no image begins there
    with pytest.raises(ValueError, match="600 tokens.* context .* 600"):
        generate(model, VOCAB, [text(CONTEXT)], max_new_tokens=1)
    with pytest.raises(ValueError, match="image: 599 prompt tokens leave 1;"):
        generate(model, VOCAB, [text(CONTEXT - 1)], max_new_tokens=50, then="image")


def test_an_image_that_ends_with_the_context(model: FusionLM) -> None:
    """It is finished with the last token of the context; one token less is an error."""
    unfinished = images(1, (4, 4))[:-6]  # five codes and end_image are missing
    for spare, fits in ((6, True), (5, False)):
        prompt = torch.cat([text(CONTEXT - spare - len(unfinished) + 1), unfinished[1:]])
        assert len(prompt) == CONTEXT - spare
        if fits:
            (row,) = generate(model, VOCAB, [prompt], max_new_tokens=50)
            assert len(row.tokens) == CONTEXT and int(row.tokens[-1]) == VOCAB.layout("image").end
            assert row.stop == "context"
        else:
            with pytest.raises(ValueError, match="room for image"):
                generate(model, VOCAB, [prompt], max_new_tokens=50)
