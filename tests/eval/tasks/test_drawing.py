"""Drawing, with drawings that are known."""

import numpy as np
import pytest
from PIL import Image

from earlyfusion.data.render.openmoji import render_drawing
from earlyfusion.data.render.split import DRAW, demo_concepts, sentence
from earlyfusion.eval.tasks import drawing
from earlyfusion.eval.tasks.drawing import evaluate_drawing
from earlyfusion.eval.tasks.naming import SIDE
from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.tokenizers.documents import split
from earlyfusion.tokenizers.pixels import to_pil


def test_drawings_are_judged_by_the_nearest_picture(model, document_tokenizer, monkeypatch) -> None:
    things = demo_concepts().train[:12]
    real = [render_drawing(thing.drawings[0], SIDE) for thing in things]
    drawn = [*real[:9], real[0], None, real[11]]
    monkeypatch.setattr(drawing, "pictures_after", lambda *args, **options: drawn)
    result, pictures = evaluate_drawing(model, document_tokenizer, things)
    assert pictures == drawn and result["items"] == 12 and result["unfinished"] == 1
    right = [row["text"] == row["nearest"] for row in result["rows"]]
    assert right[:9] == [True] * 9 and right[9] is False and right[11] is True
    assert result["nearest"] == sum(right) / 12 <= result["nearest_5"]
    assert result["chance"] == 1 / 12
    assert 0 <= result["ceiling"]["nearest"] <= result["ceiling"]["nearest_5"] <= 1
    with pytest.raises(ValueError, match="things is empty"):
        evaluate_drawing(model, document_tokenizer, [])


def test_a_drawing_is_what_the_model_draws_after_the_name(model, document_tokenizer) -> None:
    """The pictures are those of ``generate``, and their ranks those of plain lines."""
    things, vocab = demo_concepts().train[:5], document_tokenizer.vocab
    result, pictures = evaluate_drawing(model, document_tokenizer, things, batch_size=2, seed=3)
    prompts = [document_tokenizer.encode([sentence(DRAW, t.name)], eos=False).tokens for t in things]
    order = sorted(range(5), key=lambda i: -len(prompts[i]))
    gallery = [(t.name, stem) for t in things for stem in t.drawings]
    for place, i in enumerate(order):
        [drawn] = generate(
            model, vocab, [prompts[i]], max_new_tokens=96, then="image", max_blocks=1, stop_after="image",
            sampling={"text": Sampling(0), "image": Sampling(0.4)}, seed=3 + place,
        )  # fmt: skip
        image, row = pictures[i], result["rows"][i]
        assert (image is not None) == (drawn.stop == "image")
        if image is not None:
            codes = split(drawn.tokens[len(prompts[i]) :], vocab)[0].values
            expected = to_pil(document_tokenizer.decode_codes("image", [codes])[0])
            assert (
                np.abs(np.asarray(expected, np.int16) - np.asarray(image, np.int16)).max() <= 1
            )  # batches round differently
        pixels = np.asarray((image or Image.new("RGB", (SIDE, SIDE), "white")).resize((SIDE, SIDE)), float)
        errors = [
            ((pixels - np.asarray(render_drawing(stem, SIDE), float)) ** 2).mean() for _, stem in gallery
        ]
        ranked = [gallery[k][0] for k in np.argsort(errors, kind="stable")]
        assert row["rank"] == ranked.index(things[i].name) + 1 and row["nearest"] == ranked[0]
    assert result["nearest"] == sum(row["rank"] == 1 for row in result["rows"]) / 5
    assert result["nearest_5"] == sum(row["rank"] <= 5 for row in result["rows"]) / 5
