import json

import pytest
import torch
from rich.console import Console

from earlyfusion.eval.items import Item
from earlyfusion.eval.report.page.tables import reading_table
from earlyfusion.eval.tasks import continuations, reading
from earlyfusion.eval.tasks.continuations import image_prompts
from earlyfusion.fusion_lm.generate import Generated


def reads_as(tokenizer, texts):
    """A stand-in for ``generate`` that answers each of its prompts, known by their tokens, with a text."""

    def generate(model, vocab, prompts, *, max_new_tokens, then, max_blocks, **_):
        assert then == "text" and max_blocks == 0
        results = []
        for prompt in prompts:
            ids = torch.tensor(tokenizer.text.encode(texts[tuple(prompt.tolist())]), dtype=torch.int64)
            new = torch.cat([vocab.to_tokens("text", ids), torch.tensor([vocab.eos])])
            assert len(new) <= max_new_tokens
            results.append(Generated(torch.cat([prompt, new]), len(prompt), "eos", 0.0))
        return results

    return generate


def test_scores_of_known_answers(model, document_tokenizer, shades, monkeypatch):
    prompts = image_prompts(document_tokenizer, [item.image for item in shades])
    answers = ["red", " green\n", "xQ", "brd", "zz", ""]
    texts = {tuple(prompt.tolist()): answer for prompt, answer in zip(prompts, answers)}
    assert len(texts) == 6, "the images must differ in their codes"
    monkeypatch.setattr(continuations, "generate", reads_as(document_tokenizer, texts))
    steps = []
    result = reading.evaluate_reading(
        model, document_tokenizer, shades, batch_size=2, progress=lambda *step: steps.append(step)
    )
    assert [row["read"] for row in result["rows"]] == ["red", "green", "xQ", "brd", "zz", ""]
    assert [row["correct"] for row in result["rows"]] == [True, True, False, False, True, False]
    assert (result["exact_match"], result["items"]) == (0.5, 6)
    assert result["cer"] == pytest.approx((0 + 0 + 1 + 1 + 0 + 3) / 19)
    assert result["by_kind"]["random"] == {"items": 2, "exact_match": 0.5, "cer": 0.25}
    assert {n: row["items"] for n, row in result["by_length"].items()} == {"2": 2, "3": 2, "4": 1, "5": 1}
    assert steps == [("reading", 2, 6), ("reading", 4, 6), ("reading", 6, 6)]
    json.dumps(result, allow_nan=False)
    console = Console(width=100)
    with console.capture() as printed:
        console.print(reading_table(result))
    assert "0.500" in printed.get() and "3 characters" in printed.get()


def test_views_are_moved_sideways():
    row = torch.arange(6.0).expand(3, 2, 6)
    moved = [reading.shifted(row, view)[0, 0].tolist() for view in range(4)]
    assert moved == [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 5], [0, 0, 0, 1, 2, 3]]


def test_the_reading_that_fits_all_views_wins(model, document_tokenizer, photo, monkeypatch):
    """Each view is answered with a different text; the scores are known."""
    tokenizer = document_tokenizer
    pixels = tokenizer.prepare("image", photo)
    prompts = [image_prompts(tokenizer, [reading.shifted(pixels, view)])[0] for view in range(3)]
    texts = {tuple(prompt.tolist()): answer for prompt, answer in zip(prompts, ("rad", "red", ""))}
    assert len(texts) == 3, "the views must differ in their codes"
    monkeypatch.setattr(continuations, "generate", reads_as(tokenizer, texts))
    asked = []

    def worth(lm, vocab, tokens, prompt_length):
        text = tokenizer.text.decode(vocab.to_codes("text", tokens[prompt_length:]).tolist())
        asked.append((tuple(tokens[:prompt_length].tolist()), text))
        return {"rad": -1.0, "red": -0.9, "": -9.0}[text]

    monkeypatch.setattr(reading, "both_ways", worth)
    result = reading.evaluate_reading(model, tokenizer, [Item(photo, "red")], views=3)
    assert (result["rows"][0]["read"], result["views"], result["exact_match"]) == ("red", 3, 1)
    assert set(asked) == {(view, text) for view in texts for text in ("rad", "red", "")}
    console = Console(width=100)
    with console.capture() as printed:
        console.print(reading_table(result))
    assert "3 views" in printed.get()
    with pytest.raises(ValueError, match="views.*99.* 8 "):
        reading.evaluate_reading(model, tokenizer, [Item(photo, "red")], views=99)


def test_views_of_an_untrained_model(model, document_tokenizer, shades):
    result, again = (
        reading.evaluate_reading(model, document_tokenizer, shades, views=2, max_new_tokens=8)
        for _ in range(2)
    )
    assert result == again
    assert len(result["rows"]) == 6


def test_an_untrained_model_reads_something_and_twice_the_same(model, document_tokenizer, shades):
    first = reading.evaluate_reading(model, document_tokenizer, shades, max_new_tokens=8)
    assert 0 <= first["exact_match"] <= 1 and first["cer"] >= 0
    assert len(first["rows"]) == 6 and first["skipped"] == []
    assert first == reading.evaluate_reading(model, document_tokenizer, shades, max_new_tokens=8)


def test_prompts_are_the_documents_without_their_end(document_tokenizer, shades):
    for item, prompt in zip(shades, image_prompts(document_tokenizer, [i.image for i in shades])):
        assert torch.equal(prompt, document_tokenizer.encode([item.image], eos=False).tokens)


def test_what_cannot_be_read_is_skipped_with_a_reason(model, document_tokenizer, shades, photo):
    large = Item(photo.resize((96, 96)), "large", name="large.png")  # 144 codes in a context of 96
    items = [shades[0], Item(photo, None, name="mute.png"), large, Item(photo, "  ", name="blank.png")]
    result = reading.evaluate_reading(model, document_tokenizer, items, max_new_tokens=4)
    assert [row["name"] for row in result["rows"]] == ["0.png"]
    assert [line.split(":")[0] for line in result["skipped"]] == ["mute.png", "blank.png", "large.png"]
    assert "96" in result["skipped"][2]
    with pytest.raises(ValueError, match="large.png"):
        reading.evaluate_reading(model, document_tokenizer, [large])
    with pytest.raises(ValueError, match="items is empty"):
        reading.evaluate_reading(model, document_tokenizer, [])
