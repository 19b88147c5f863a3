"""`earlyfusion eval lm`: naming, drawing, form and bits, with models whose answers are known."""

import json
import math
from argparse import Namespace

import pytest
import torch
from PIL import Image

from earlyfusion.cli import evaluate as commands
from earlyfusion.data.render.openmoji import render_drawing
from earlyfusion.data.render.split import NAME, demo_concepts, sentence
from earlyfusion.eval.items import Item
from earlyfusion.eval.tasks import drawing, naming
from earlyfusion.eval.tasks.drawing import evaluate_drawing
from earlyfusion.eval.tasks.everything import documents, evaluate_bits
from earlyfusion.eval.tasks.naming import (
    HELD_OUT,
    KNOWN,
    SIDE,
    evaluate_naming,
    naming_items,
    nearest_of,
    said,
    token_f1,
)
from earlyfusion.eval.tasks.well_formed import evaluate_form, free_sequences, is_document
from earlyfusion.fusion_lm.folder import save_model
from earlyfusion.fusion_lm.generate import Generated
from earlyfusion.tokenizers.documents import interleave

# naming


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
    assert said(text) == thing


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
    gallery = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("white", "red", "black")]
    order = nearest_of([Image.new("RGB", (8, 8), "#ff1010"), gallery[2]], gallery)
    assert order.tolist() == [[1, 2, 0], [2, 1, 0]] or order.tolist() == [[1, 0, 2], [2, 1, 0]]


def test_right_names_are_counted_right(model, document_tokenizer, monkeypatch) -> None:
    """Three known things and one held-out one; the model says two of them."""
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

    def told(model, tokenizer, prompts, **options):
        assert options["then"] == "text" and options["max_images"] == 0
        texts = [torch.tensor(tokenizer.text.encode(answer)) for answer in answers]
        rows = [
            torch.cat([p, tokenizer.vocab.text_to_tokens(t)]) for p, t in zip(prompts, texts, strict=True)
        ]
        return [Generated(row, len(p), "eos", 0.0) for row, p in zip(rows, prompts, strict=True)]

    monkeypatch.setattr(naming, "continue_prompts", told)
    result = evaluate_naming(model, tokenizer, items, things.train)
    assert result["items"] == 4 and result["exact_match"] == 0.5
    assert result["by_kind"][KNOWN]["exact_match"] == pytest.approx(1 / 3)
    assert result["by_kind"][KNOWN]["nearest"]["exact_match"] == 1.0  # as training shows them
    assert result["by_kind"][HELD_OUT]["exact_match"] == 1.0
    assert result["by_kind"][HELD_OUT]["nearest"]["exact_match"] == 0.0
    with pytest.raises(ValueError, match="no pictures to name"):
        evaluate_naming(model, tokenizer, [], things.train)


# drawing


def test_drawings_are_judged_by_the_nearest_picture(model, document_tokenizer, monkeypatch) -> None:
    things = demo_concepts().train[:12]
    real = [render_drawing(thing.drawings[0], SIDE) for thing in things]
    drawn = [*real[:9], real[0], None, real[11]]
    monkeypatch.setattr(drawing, "draw_after", lambda *args, **options: drawn)
    result, pictures = evaluate_drawing(model, document_tokenizer, things)
    assert pictures == drawn and result["items"] == 12 and result["unfinished"] == 1
    right = [row["text"] == row["nearest"] for row in result["rows"]]
    assert right[:9] == [True] * 9 and right[9] is False and right[11] is True
    assert result["nearest"] == sum(right) / 12 <= result["nearest_5"]
    assert result["chance"] == 1 / 12
    assert 0 <= result["ceiling"]["nearest"] <= result["ceiling"]["nearest_5"] <= 1
    with pytest.raises(ValueError, match="nothing to draw"):
        evaluate_drawing(model, document_tokenizer, [])


# form


def test_what_is_a_document(vocab) -> None:
    slots = (n,) if (n := vocab.codes_per_position) > 1 else ()
    image = ("image", torch.zeros(2, 2, *slots, dtype=torch.int64))
    ids = torch.tensor([i for _, first, count in vocab.text for i in range(first, first + count)][:3])
    whole = interleave([("text", ids), image], vocab)
    assert is_document(whole, vocab) and is_document(whole[:-1], vocab) and is_document(whole[:8], vocab)
    assert is_document(torch.tensor([vocab.bos]), vocab) and is_document(
        torch.tensor([vocab.bos, vocab.eos]), vocab
    )
    cut = torch.cat([whole[:-3], whole[-1:]])
    for wrong in (
        cut,  # eos inside the image
        torch.cat([whole[:-1], torch.tensor([vocab.end_image])]),
        torch.cat([whole[:2], torch.tensor([vocab.pad]), whole[2:]]),
        torch.cat([whole, whole[1:]]),
        torch.cat([whole[:-1], whole]),
    ):
        assert not is_document(wrong, vocab)


def test_form_with_the_grammar_and_without(model, vocab) -> None:
    result = evaluate_form(model, vocab, sequences=30, without=20, batch_size=16, seed=1)
    assert result["grammar"]["items"] == 30 and result["grammar"]["well_formed"] == 1.0
    assert result["free"]["items"] == 20 and result["free"]["well_formed"] < 1.0  # an untrained model


def test_free_sequences_are_draws_of_single_rows(model, vocab) -> None:
    """Of which each depends on its seed alone; the first one that says eos ends there."""
    rows = free_sequences(model, vocab, 12, 5)
    assert all(1 < len(row) <= model.config.context_length and row[0] == vocab.bos for row in rows)
    assert all(vocab.eos not in row[:-1] for row in rows)
    assert any(row[-1] == vocab.eos for row in rows) and len({len(row) for row in rows}) > 1
    (alone,) = free_sequences(model, vocab, 1, 8)
    assert alone.tolist() == rows[3].tolist()


# bits


@torch.no_grad()
def test_bits_are_those_of_each_document(model, document_tokenizer, shades) -> None:
    some = {"reading": [[item.image, item.text] for item in shades], "text": [["red"], ["a green one"]]}
    result = evaluate_bits(model, document_tokenizer, some, batch_size=4)
    assert {kind: row["documents"] for kind, row in result.items()} == {"reading": 6, "text": 2}
    assert "bits_per_pixel" not in result["text"]
    vocab = document_tokenizer.vocab
    for kind, rows in some.items():
        nats = codes = 0.0
        for row in rows:
            tokens = document_tokenizer.encode(row)
            nll = -model(tokens[None, :-1])[0].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
            nats += float(nll[vocab.is_text(tokens[1:])].sum())
            codes += float(nll[vocab.is_image(tokens[1:])].sum())
        n_bytes = sum(len(part.encode()) for row in rows for part in row if isinstance(part, str))
        assert result[kind]["bits_per_byte"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-4)
        if kind == "reading":
            pixels = sum(item.image.width * item.image.height for item in shades)
            assert result[kind]["bits_per_pixel"] == pytest.approx(codes / math.log(2) / pixels, rel=1e-4)


def test_four_kinds_of_documents(shades) -> None:
    pictures = naming_items()[:2] + naming_items()[-1:]
    made = documents(shades, pictures)
    assert [len(made[kind]) for kind in ("reading", "writing", "naming", "drawing")] == [6, 6, 2, 2]
    assert made["reading"][0] == made["writing"][0][::-1]
    assert made["naming"][0] == [pictures[0].image, sentence(NAME, pictures[0].text or "")]
    assert made["drawing"][0][1] != pictures[0].image


# the command


def test_the_command_writes_figures_and_a_page(model, document_tokenizer, tmp_path, capsys) -> None:
    pytest.importorskip("rapidocr")
    save_model(tmp_path / "model", model, document_tokenizer)
    out, sheet = tmp_path / "lm.json", tmp_path / "lm.html"
    args = {"limit": 4, "seed": 0, "heights": (16,), "sequences": 20, "sheet": str(sheet)}
    commands.lm(Namespace(model=str(tmp_path / "model"), out=str(out), **args))
    result = json.loads(out.read_text())
    assert set(result["reading"]) == set(result["views"]) == {"training fonts", "held-out fonts"}
    assert result["views"]["training fonts"]["views"] == 3 and result["best"]["sampling"]["best_of"] == 8
    assert "ceiling" in result["writing"] and "ceiling" not in result["best"]
    assert result["writing"]["items"] == result["naming"]["items"] == result["drawing"]["items"] == 4
    assert result["form"]["grammar"] == {**result["form"]["grammar"], "items": 20, "well_formed": 1.0}
    assert result["form"]["free"]["items"] == 2 and result["bits"]["reading"]["documents"] == 4
    html = sheet.read_text()
    titles = ("Read", "Written", "Written with guidance, the best of 8", "Named", "Drawn")
    assert html.count("<figure") == 20 and all(f"<h2>{title}</h2>" in html for title in titles)
    printed = capsys.readouterr().out
    assert "Sampled from nothing" in printed and f"sheet written to {sheet}" in printed
