"""Naming, with answers that are known."""

import pytest
import torch
from PIL import Image

from earlyfusion.data.render.openmoji import render_drawing
from earlyfusion.data.render.split import NAME, demo_concepts, sentence
from earlyfusion.eval.items import Item
from earlyfusion.eval.tasks import continuations
from earlyfusion.eval.tasks.continuations import image_prompts
from earlyfusion.eval.tasks.naming import (
    HELD_OUT,
    KNOWN,
    SIDE,
    evaluate_naming,
    naming_items,
    nearest_of,
    thing_of,
    token_f1,
)
from earlyfusion.fusion_lm.generate import Generated, generate
from earlyfusion.fusion_lm.sampling import Sampling


@pytest.mark.parametrize(
    ("text", "thing"),
    [
        ("A red apple.", "a red apple"),
        (" This is a red apple. Here is an ant:", "a red apple"),
        ("Grapes", "grapes"),
        ("", ""),
        ("This is A T-Rex.", "a t-rex"),
    ],
)
def test_the_thing_that_a_caption_names(text: str, thing: str) -> None:
    assert thing_of(text) == thing


@pytest.mark.parametrize(
    ("reference", "hypothesis", "f1"),
    [
        ("a red apple", "a red apple", 1.0),
        ("a red apple", "a green apple", 0.5),
        ("a red apple", "an apple", 2 / 3),
        ("a red apple", "an ant", 0.0),
        ("a red apple", "", 0.0),
        ("a fish fish", "a fish", 2 / 3),
    ],
)
def test_token_f1(reference: str, hypothesis: str, f1: float) -> None:
    assert token_f1(reference, hypothesis) == pytest.approx(f1)
    assert token_f1(hypothesis, reference) == pytest.approx(f1)


def test_pictures_to_name_are_unlike_those_of_training() -> None:
    items, split = naming_items(3), demo_concepts()
    assert [i.text for i in items if i.kind == KNOWN] == [thing.name for thing in split.train]
    assert [i.text for i in items if i.kind == HELD_OUT] == [thing.name for thing in split.held_out]
    assert all(item.image.size == (SIDE, SIDE) for item in items)
    numbers = [[int(n) for n in item.name.replace(" px at", ",").split(",")] for item in items]
    assert all(n % 2 == 1 for row in numbers for n in row)
    assert len({tuple(row) for row in numbers}) > 50
    assert [i.image.tobytes() for i in naming_items(3)] == [i.image.tobytes() for i in items]


def test_the_nearest_picture() -> None:
    gallery = [Image.new("RGB", (SIDE, SIDE), color) for color in ("white", "red", "black")]
    order = nearest_of([Image.new("RGB", (8, 8), "#ff1010"), gallery[2]], gallery)
    assert order.tolist() == [[1, 2, 0], [2, 1, 0]] or order.tolist() == [[1, 0, 2], [2, 1, 0]]


def test_right_names_are_counted_right(model, document_tokenizer, monkeypatch) -> None:
    """Three known things and one held-out one; the model, here a table of prompts, says two of them."""
    things, tokenizer = demo_concepts(), document_tokenizer
    items = [Item(render_drawing(t.drawings[0], SIDE), t.name, kind=KNOWN) for t in things.train[:3]]
    items.append(
        Item(render_drawing(things.held_out[0].drawings[0], SIDE), things.held_out[0].name, kind=HELD_OUT)
    )
    answers = [
        sentence(NAME, things.train[0].name),
        "Something else.",
        sentence(NAME, things.train[0].name),
        sentence(NAME, things.held_out[0].name),
    ]

    prompts = image_prompts(tokenizer, [item.image for item in items])
    said = {tuple(prompt.tolist()): answer for prompt, answer in zip(prompts, answers, strict=True)}
    assert len(said) == 4, "the pictures must differ in their codes"

    def generate(model, vocab, prompts, **options):
        assert options["then"] == "text" and options["max_blocks"] == 0
        results = []
        for prompt in prompts:
            ids = torch.tensor(tokenizer.text.encode(said[tuple(prompt.tolist())]))
            new = torch.cat([vocab.to_tokens("text", ids), torch.tensor([vocab.eos])])
            results.append(Generated(torch.cat([prompt, new]), len(prompt), "eos", 0.0))
        return results

    monkeypatch.setattr(continuations, "generate", generate)
    result = evaluate_naming(model, tokenizer, items, things.train)
    assert result["items"] == 4 and result["exact_match"] == 0.5
    assert result["by_kind"][KNOWN]["exact_match"] == pytest.approx(1 / 3)
    assert result["by_kind"][KNOWN]["nearest"]["exact_match"] == 1.0  # as training shows them
    assert result["by_kind"][HELD_OUT]["exact_match"] == 1.0
    assert result["by_kind"][HELD_OUT]["nearest"]["exact_match"] == 0.0
    with pytest.raises(ValueError, match="items is empty"):
        evaluate_naming(model, tokenizer, [], things.train)


def test_a_name_is_what_the_model_writes_after_the_picture(model, document_tokenizer) -> None:
    things, vocab = demo_concepts().train[:3], document_tokenizer.vocab
    items = [Item(render_drawing(t.drawings[0], SIDE), t.name, kind=KNOWN) for t in things]
    result = evaluate_naming(model, document_tokenizer, items, things, batch_size=2)
    for item, row in zip(items, result["rows"], strict=True):
        [prompt] = image_prompts(document_tokenizer, [item.image])
        [written] = generate(
            model, vocab, [prompt], max_new_tokens=48, then="text", max_blocks=0, sampling=Sampling(0)
        )
        assert row["named"] == thing_of(continuations.written_text(document_tokenizer, written))
        assert row["nearest"] == item.text
