"""Drawing, with drawings that are known."""

import pytest

from earlyfusion.data.render.openmoji import render_drawing
from earlyfusion.data.render.split import demo_concepts
from earlyfusion.eval.tasks import drawing
from earlyfusion.eval.tasks.drawing import evaluate_drawing
from earlyfusion.eval.tasks.naming import SIDE


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
