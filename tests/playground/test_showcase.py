"""What a model's folder says about it: hints, fits, edits, and answers as commands."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from earlyfusion.cli.main import main
from earlyfusion.fusion_lm.folder import Model
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.fusion_lm.stream import sample
from earlyfusion.playground import api, edits
from earlyfusion.playground.app import build
from earlyfusion.playground.compose import ROWS, Ask, compose
from earlyfusion.playground.fit import best_fit, fits
from earlyfusion.playground.limits import MASK_SIDE, Refused, read_mask
from earlyfusion.playground.recipes import as_command, as_python
from earlyfusion.playground.showcase import FILE, PICTURES, Showcase, showcase_of
from earlyfusion.storage.hub import PRETRAINED

BEST = Ask(then="image", image=Sampling(0.5), guidance=Guidance(1.5), best_of=3, best_by="both", seed=4)


@pytest.fixture(scope="module")
def show() -> Showcase:
    return showcase_of(PRETRAINED)


@pytest.fixture(scope="module")
def apple(model: Model) -> torch.Tensor:
    """The tokens of an answer: "A red apple:" and its picture."""
    *_, [written] = compose(model, ["A red apple:"], BEST)
    assert written.tokens is not None
    return written.tokens


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("A dog:", "dog face"),
        ("pizza", None),
        ("a tigr:", "tiger"),
        ("green turtle:", "green apple"),
        ("cat", "cat"),
    ],
)
def test_an_unknown_name_gets_known_ones_to_click(show: Showcase, text: str, near: str | None):
    hint = show.hint(text)
    assert hint is not None and hint.names and set(hint.names) <= set(show.things)
    assert near is None or near in hint.names


@pytest.mark.parametrize("text", ["A red apple:", "house", "", "A cat and a dog face:", ":"])
def test_other_prompts_get_no_hint(show: Showcase, text: str):
    assert show.hint(text) is None and Showcase().hint(text) is None


def test_a_damaged_showcase_is_refused(tmp_path: Path):
    assert showcase_of(tmp_path) == Showcase()
    for text in (
        "{",
        "[]",
        '{"abuot": "x"}',
        '{"examples": [{"label": "x"}]}',
        '{"examples": [{"prompt": [{"picture": "../../README.md"}], "label": ""}]}',
        '{"examples": [{"prompt": [{"text": 1}], "label": ""}]}',
        json.dumps({"examples": [{"prompt": [{"picture": "word.png"}] * 100_000, "label": ""}]}),
        json.dumps({"things": {str(number): "x" for number in range(5000)}}),
        '{"things": {"a": 1}}',
        '{"things": "abc"}',
        '{"about": ["x"]}',
        '{"guidance": "2"}',
        '{"guidance": NaN}',
        '{"views": 1000}',
        '{"preset": "none"}',
        '{"fits": {"words": [[24, 4, 1, 1e9]]}}',
        json.dumps({"fits": {"drawings": [[48, 48]] * 1000}}),
        json.dumps({"about": "x" * 5_000_000}),
    ):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ValueError, match=FILE):
            showcase_of(tmp_path)


def test_settings_of_a_showcase_are_those_of_the_page(model: Model):
    with pytest.raises(ValueError, match="tempratur"):
        build(model, {}, {}, Path("runs"), Showcase(draw={"tempratur": 1}))
    with pytest.raises(ValueError, match="temperature.*1e999|temperature.*inf"):
        build(model, {}, {}, Path("runs"), Showcase(presets={"balanced": {"temperature": float("inf")}}))


@pytest.mark.parametrize("word", ["anchor", "winter"])
def test_a_word_that_another_program_rendered_is_fitted_and_read(model: Model, show: Showcase, word: str):
    """In colors, on a ground, off the center, at another size: none of these is read as it is."""
    font = ImageFont.truetype("DejaVuSans.ttf", 40) if word != "winter" else ImageFont.load_default(36)
    picture = Image.new("RGB", (320, 90), (214, 230, 245))
    ImageDraw.Draw(picture).text((30, 12), word, fill=(60, 20, 60), font=font)
    fitted = best_fit(model, picture, show.fits)
    assert fitted.height in (16, 24)
    assert edits.read_it(model, [fitted], Ask(), show.views).segments == [word]


def test_a_drawing_from_elsewhere_is_cut_out(model: Model, show: Showcase):
    carrot = Image.open(PICTURES / "drawing.png").convert("RGB")
    assert fits(carrot, show.fits) == []  # it is as the model knows it
    ground = Image.new("RGB", (300, 200), "white")
    ground.paste(carrot.resize((120, 120), Image.Resampling.LANCZOS), (150, 60))
    assert edits.read_it(model, [best_fit(model, ground, show.fits)], Ask(), 1).segments == ["A carrot."]
    for empty in (Image.new("RGB", (300, 200), "pink"), Image.new("RGB", (1, 1))):
        assert fits(empty, show.fits) == []
    line = Image.new("RGB", (4000, 60), "white")
    ImageDraw.Draw(line).line((10, 30, 3990, 30), fill="black", width=3)
    assert fits(line, show.fits) == []  # it would become a picture of 20,000 px


def test_the_best_of_several_tries_is_the_same_as_in_python(model: Model):
    *_, shown = compose(model, ["A tiger:"], BEST)
    [one] = shown
    options: dict[str, Any] = {
        "sampling": {"text": BEST.text, "image": BEST.image},
        "guidance": BEST.guidance,
    }
    [expected] = sample(model, [["A tiger:"]], best_of=3, best_by="both", then="image", seed=4, **options)
    assert [s.tobytes() for s in one.segments] == [s.tobytes() for s in expected]
    assert len(one.others) == 2 and one.score >= max(other.score for other in one.others)
    assert sorted([one.seed, *(other.seed for other in one.others)]) == [4, 5, 6]


@pytest.mark.parametrize(
    "settings",
    [
        {"best_of": 0},
        {"best_of": 9},
        {"samples": 8, "best_of": 8},
        {"best_by": "looks"},
        {"negative": "a dog"},  # without guidance
        {"negative": "x" * 20_001, "guidance": 2},
        {"negative": "\ud800", "guidance": 2},
    ],
)
def test_tries_and_negative_prompts_are_bounded(settings: dict[str, Any]):
    with pytest.raises(Refused) as raised:
        api.ask_of(**settings)
    assert len(str(raised.value)) < 200


def test_work_is_bounded(model: Model, apple: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    most = Ask(samples=8, best_of=ROWS // 8, guidance=Guidance(2))
    for module in ("compose", "edits"):
        monkeypatch.setattr(f"earlyfusion.playground.{module}.WORK", 4096)
    mask = torch.ones(1, 1, dtype=torch.bool)
    for action in (
        lambda: next(compose(model, ["a"], most)),
        lambda: edits.redraw(model, apple, 0, mask, most),
        lambda: next(edits.fork(model, apple, 3, int(apple[3]), most)),
        lambda: next(compose(model, ["a"], Ask(guidance=Guidance(2), negative="b" * 300))),
    ):
        with pytest.raises(Refused):
            action()


def test_masks_are_bounded():
    assert read_mask([[0, 1], [0, 0]]).tolist() == [[False, True], [False, False]]
    rows = MASK_SIDE + 1
    for value in (
        None,
        [],
        [[]],
        [[0, 0]],
        [[1], [1, 1]],
        [[2]],
        [[True]],
        [[1.0]],
        ["11"],
        [[1]] * rows,
        [[1] * rows],
    ):
        with pytest.raises(Refused):
            read_mask(value)


def test_a_region_is_redrawn_and_the_rest_stays(model: Model, apple: torch.Tensor):
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[2:4, 2:4] = True
    ask = Ask(samples=2, best_of=2, image=Sampling(1.5))
    first, second = edits.redraw(model, apple, 0, mask, ask)
    assert len(first.others) == 2 and first.prompt == ["A red apple:"] and first.segments[0].size == (48, 48)
    for one in (first, second):
        assert one.tokens is not None and one.prompt_length == len("A red apple:") + 1
        same = one.tokens[one.prompt_length :] == apple[one.prompt_length : len(one.tokens)]
        assert 4 <= int(same.logical_not().sum() + mask.sum()) and int(same.logical_not().sum()) <= int(
            mask.sum()
        )
    for block in (1, -1):
        with pytest.raises(Refused):
            edits.redraw(model, apple, block, mask, ask)


def test_a_document_is_forked_at_a_rival(model: Model, apple: torch.Tensor):
    place = 20
    found = edits.candidates(model, apple, place)
    assert [one.p for one in found] == sorted((one.p for one in found), reverse=True)
    assert [one.token for one in found if one.chosen] == [int(apple[place])]
    codes = [one for one in found if one.says.startswith("code ")]
    assert len(codes) >= 2 and all(one.picture is not None and one.picture.size == (8, 8) for one in codes)
    other = next(one.token for one in found if one.legal and not one.chosen)
    *_, [forked] = edits.fork(model, apple, place, other, Ask(image=Sampling(0)))
    assert forked.tokens is not None and forked.segments[0].size == (48, 48)
    assert forked.tokens[: place + 1].tolist() == [*apple[:place].tolist(), other]
    for at, token in ((0, other), (len(apple), other), (place, model.tokenizer.vocab.bos)):
        with pytest.raises(Refused):
            next(edits.fork(model, apple, at, token, Ask()))


@pytest.mark.parametrize(
    "request_",
    [
        None,
        [],
        {"do": "delete"},
        {"do": "redraw"},
        {"do": "fork", "tokens": [1], "place": "1"},
        {"do": "read", "segments": []},
    ],
)
def test_invalid_requests_of_the_page_are_refused(model: Model, show: Showcase, request_: Any):
    with pytest.raises(ValueError):
        next(api.acted(model, request_, Ask(), show))


def test_an_answer_is_made_again_by_its_command_and_its_python(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    *_, [shown] = compose(model, ["A tiger's:"], BEST)
    words = shlex.split(as_command(["A tiger's:"], BEST))
    monkeypatch.chdir(tmp_path)
    assert words[:2] == ["earlyfusion", "sample"] and main(["sample", "--out", "made", *words[2:]]) in (
        0,
        None,
    )
    record = json.loads(Path("made/sample.json").read_text())
    assert Image.open(Path("made") / record["segments"][-1]["file"]).tobytes() == shown.segments[0].tobytes()
    space: dict[str, Any] = {}
    exec(as_python(["A tiger's:"], BEST), space)
    assert space["documents"][0][0].tobytes() == shown.segments[0].tobytes()
