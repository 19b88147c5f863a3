"""Redrawing a region: the rest stays, and the likeliest drawing comes first."""

import re
from typing import Any

import pytest
import torch
from PIL import Image

from earlyfusion.fusion_lm.folder import Model, load_model
from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.infill import infill
from earlyfusion.tokenizers.documents import interleave, split

PICTURE = Image.effect_noise((32, 24), 90).convert("RGB")
BOX = (0.3, 0.4, 0.6, 0.6)


@pytest.fixture
def model(model_folder) -> Model:
    return load_model(model_folder)


def codes_of(model: Model, image: Image.Image) -> torch.Tensor:
    (part,) = split(model.tokenizer.encode([image]).tokens, model.tokenizer.vocab)
    return part[1]


def test_codes_outside_of_the_region_stay(model: Model) -> None:
    before = codes_of(model, PICTURE)
    rows, columns = before.shape[:2]
    drawings = infill(model, ["A picture:", PICTURE], BOX, candidates=6, seed=2)
    touched = torch.zeros(rows, columns, dtype=torch.bool)
    for y in range(rows):
        for x in range(columns):
            across = x / columns < BOX[2] and (x + 1) / columns > BOX[0]
            touched[y, x] = across and y / rows < BOX[3] and (y + 1) / rows > BOX[1]
    assert 0 < int(touched.sum()) < touched.numel() and len(drawings) == 6
    for drawing in drawings:
        assert torch.equal(drawing.codes[~touched], before[~touched])
        assert drawing.image.size == PICTURE.size
    assert len({tuple(d.codes[touched].flatten().tolist()) for d in drawings}) > 1


def test_a_mask_redraws_what_it_touches(model: Model) -> None:
    before = codes_of(model, PICTURE)
    rows, columns = before.shape[:2]
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[0, 1] = mask[-1, -1] = True
    (drawing,) = infill(model, [PICTURE], mask, candidates=1, seed=3)
    assert torch.equal(drawing.codes[~mask], before[~mask])
    fine = mask.repeat_interleave(3, 0).repeat_interleave(5, 1)
    (again,) = infill(model, [PICTURE], fine, candidates=1, seed=3)
    assert torch.equal(again.codes, drawing.codes)
    with pytest.raises(ValueError, match=r"\(2, 2\).* 0 marks"):
        infill(model, [PICTURE], torch.zeros(2, 2, dtype=torch.bool))


def test_the_likelihood_is_that_of_the_region_and_of_the_codes_after_it(model: Model) -> None:
    """Against one forward pass over each drawing; the best one comes first."""
    drawings = infill(model, ["ab", PICTURE], BOX, candidates=5, seed=7)
    found = [d.log_likelihood for d in drawings]
    assert found == sorted(found, reverse=True) and found[0] > found[-1]
    vocab, lm = model.tokenizer.vocab, model.lm
    legal = vocab.ids_to_tokens("image", torch.arange(vocab["image"].codebook_size))
    text = model.tokenizer.encode(["ab"], eos=False).tokens
    for drawing in drawings:
        tokens = torch.cat([text, interleave([("image", drawing.codes)], vocab, bos=False, eos=False)])
        with torch.no_grad():
            log_p = lm(tokens[None, :-1])[0][:, legal].log_softmax(-1)
        scan = drawing.codes if vocab.layout("image").scan == "rows" else drawing.codes.T
        first = len(tokens) - 1 - scan.numel()
        assert tokens[-1] == vocab.layout("image").end
        expected, seen_region = 0.0, False
        again = torch.zeros(drawing.codes.shape, dtype=torch.bool)
        rows, columns = drawing.codes.shape
        again[int(0.4 * rows) : -int(-0.6 * rows // 1), int(0.3 * columns) : -int(-0.6 * columns // 1)] = True
        for n, free in enumerate(
            (again if vocab.layout("image").scan == "rows" else again.T).flatten().tolist()
        ):
            seen_region |= free
            if seen_region:
                place = int((legal == tokens[first + n]).nonzero())
                expected += float(log_p[first + n - 1, place])
        assert drawing.log_likelihood == pytest.approx(expected, abs=1e-3)


def test_a_region_that_is_all_is_a_new_image(model: Model) -> None:
    rows, columns = codes_of(model, PICTURE).shape
    (drawing,) = infill(model, ["a", PICTURE], (0, 0, 1, 1), candidates=1, seed=4)
    tokenizer = model.tokenizer
    head = tokenizer.encode(["a", PICTURE], eos=False).tokens[: -1 - rows * columns]
    (drawn,) = generate(model.lm, tokenizer.vocab, [head], max_new_tokens=100, stop_after="image", seed=4)
    (_, part) = split(drawn.tokens, tokenizer.vocab)
    assert torch.equal(part[1], drawing.codes)
    tokens = len(drawn.tokens) - drawn.prompt_length
    assert drawing.log_likelihood == pytest.approx(tokens * drawn.log_likelihood, abs=1e-3)


@pytest.mark.parametrize(
    ("segments", "box", "message"),
    [
        (["a"], BOX, "last segment must be the image"),
        ([], BOX, "last segment must be the image"),
        ([PICTURE], (0.5, 0, 0.5, 1), "invalid region 0.5, 0, 0.5, 1"),
        ([PICTURE], (0, 0, 2, 1), "invalid region 0, 0, 2, 1"),
        ([PICTURE] * 30, BOX, "but the context is"),
    ],
)
def test_a_region_that_cannot_be(model: Model, segments, box, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        infill(model, segments, box)
    with pytest.raises(ValueError, match="candidates is 0, expected"):
        infill(model, [PICTURE], BOX, candidates=0)


def test_what_is_given_is_written(model: Model) -> None:
    vocab = model.tokenizer.vocab
    prompt = model.tokenizer.encode(["a"], eos=False).tokens
    words = model.tokenizer.encode(["bcd"], bos=False, eos=False).tokens
    holes = torch.cat([words[:1], torch.tensor([-1]), words[2:]])
    options: dict[str, Any] = {"max_new_tokens": 6, "max_blocks": 0, "seed": 3}
    (row, free) = generate(
        model.lm, vocab, [prompt, prompt], given=[holes, torch.tensor([], dtype=torch.int64)], **options
    )
    assert row.tokens[len(prompt)] == words[0]
    if len(row.tokens) > len(prompt) + 2:
        assert row.tokens[len(prompt) + 2] == words[2]
    options["seed"] = [4]
    (alone,) = generate(model.lm, vocab, [prompt], **options)
    assert torch.equal(free.tokens, alone.tokens)
    options["seed"] = 3
    with pytest.raises(ValueError, match="given for 1 rows.* 2"):
        generate(model.lm, vocab, [prompt, prompt], given=[holes], **options)
