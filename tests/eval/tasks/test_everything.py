"""``earlyfusion eval lm``: bits, and all measurements in one command."""

import json
import math

import pytest
import torch

from earlyfusion.cli.main import main
from earlyfusion.data.render.split import NAME, sentence
from earlyfusion.eval.tasks.everything import documents, evaluate_bits
from earlyfusion.eval.tasks.naming import naming_items
from earlyfusion.fusion_lm.folder import save_model


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
            tokens = document_tokenizer.encode(row).tokens
            nll = -model(tokens[None, :-1])[0].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
            nats += float(nll[vocab.is_text(tokens[1:])].sum())
            codes += float(nll[vocab.is_("image", tokens[1:])].sum())
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


def test_the_command_writes_figures_and_a_page(model, document_tokenizer, tmp_path, capsys) -> None:
    pytest.importorskip("rapidocr")
    save_model(tmp_path / "model", model, document_tokenizer)
    out, sheet = tmp_path / "lm.json", tmp_path / "lm.html"
    options = ["--limit", "4", "--sequences", "20", "--sheet", str(sheet)]
    assert main(["eval", "lm", str(tmp_path / "model"), "--out", str(out), *options]) == 0
    result = json.loads(out.read_text())
    assert set(result["reading"]) == set(result["views"]) == {"training fonts", "held-out fonts"}
    assert result["views"]["training fonts"]["views"] == 3 and result["best"]["sampling"]["best_of"] == 8
    assert "ceiling" in result["writing"] and "ceiling" not in result["best"]
    assert result["writing"]["items"] == result["naming"]["items"] == result["drawing"]["items"] == 4
    assert result["form"]["grammar"] == {**result["form"]["grammar"], "items": 20, "well_formed": 1.0}
    assert result["form"]["free"]["items"] == 2 and result["bits"]["reading"]["documents"] == 4
    html = sheet.read_text()
    assert html.count("<figure") == 20 and html.count("<h2>") == 5 and "best of 8" in html
    printed = capsys.readouterr().out
    assert "well-formed" in printed and str(sheet) in printed
