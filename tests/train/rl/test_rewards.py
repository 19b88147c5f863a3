"""Rewards, with samples whose scores are known, and every way to name one wrongly."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from earlyfusion.data.render.fonts import render_word, train_fonts
from earlyfusion.fusion_lm import scores
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.tokenizers.documents import DocumentTokenizer, interleave
from earlyfusion.tokenizers.vocab import SharedVocab
from earlyfusion.train.image.recognizer import Recognizer
from earlyfusion.train.rl.rewards import REWARDS, named_rewards, score
from earlyfusion.train.rl.samples import Kind, Prompt, Sample

Values = list[float | None]


def sample(
    kind: Kind, answer: str, text: str = "", picture: Image.Image | None = None, stop: str = "eos"
) -> Sample:
    tokens = torch.tensor([0])
    return Sample(Prompt(tokens, kind, answer), tokens, stop, text, picture)


@pytest.fixture
def values(model: FusionLM, document_tokenizer: DocumentTokenizer) -> Callable[..., Values]:
    """The values of one reward."""

    def values(name: str, samples: Sequence[Sample]) -> Values:
        return score(samples, named_rewards({name: 1}), model, document_tokenizer)[1][name]

    return values


def test_a_written_word_is_read(model: FusionLM, document_tokenizer, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("font_roboto")
    strips: list[int] = []
    read = Recognizer.read
    monkeypatch.setattr(Recognizer, "read", lambda net, some: strips.append(len(some)) or read(net, some))
    fonts = train_fonts()
    picture = render_word("garden", fonts[0], 21, 24)
    samples = [
        sample("write", "garden", picture=picture),
        sample("write", "garden", picture=render_word("garden", fonts[1], 14)),
        sample("write", "garden", picture=ImageOps.invert(picture)),
        sample("write", "garden", picture=picture.resize((2 * picture.width, 48))),
        sample("write", "gardem", picture=picture),
        sample("write", "quick", picture=picture),
        sample("write", "garden", picture=Image.new("RGB", (64, 24), "white")),
        sample("write", "garden", picture=Image.new("RGB", (1, 1))),
        sample("write", "garden"),
        sample("read", "garden", text="garden", picture=picture),
    ]
    rewards = named_rewards({"writing": 2, "writing_letters": 1})
    totals, found = score(samples, rewards, model, document_tokenizer)
    assert found["writing"] == [1, 1, 1, 1, 0, 0, 0, 0, 0, None]
    letters = found["writing_letters"]
    assert letters[:5] == [1, 1, 1, 1, pytest.approx(5 / 6)] and letters[6:] == [0, 0, 0, None]
    assert letters[5] is not None and letters[5] < 0.3
    assert totals[:5] == [3, 3, 3, 3, pytest.approx(5 / 6)] and totals[-1] == 0
    assert sum(strips) == 6  # each picture once, for both
    score(samples[:1], rewards, model, document_tokenizer)
    assert sum(strips) == 7  # other samples are read again


@pytest.mark.parametrize(
    ("name", "answer", "text", "value"),
    [
        ("reading", "garden", "garden", 1),
        ("reading", "garden", "Garden", 0),
        ("reading_letters", "garden", "gorden", 5 / 6),
        ("reading_letters", "cat", "a long answer", 0),
        ("reading_letters", "cat", "", 0),
        ("naming", "A red apple.", "This is a red apple. Here is an ant:", 1),
        ("naming", "A red apple.", "A red", 0),
    ],
)
def test_a_picture_is_read(values: Callable[..., Values], name: str, answer: str, text: str, value: float):
    samples = [sample("read", answer, text), sample("write", answer, text)]
    assert values(name, samples) == [pytest.approx(value), None]


@pytest.fixture
def documents(vocab: SharedVocab, text_tokenizer) -> list[Tensor]:
    """Texts with pictures of several sizes, in both orders."""
    made = []
    for text, (rows, columns) in (("cat", (2, 3)), ("a red house", (1, 1)), ("bird", (4, 4))):
        ids = torch.tensor(text_tokenizer.encode(text))
        codes = torch.arange(rows * columns).view(rows, columns)
        parts = [("text", ids), ("image", codes)]
        made += [interleave(parts, vocab), interleave(parts[::-1], vocab)]
    return made


def continued(document: Tensor, vocab: SharedVocab, stop: str = "eos", left_out: int = 0) -> Sample:
    """A document of two parts as a sample: a prompt and its continuation, without its last tokens."""
    layout = vocab.layout("image")
    kind: Kind = "read" if document[1] == layout.begin else "write"
    border = int((document == (layout.begin if kind == "write" else layout.end)).nonzero()[0])
    prompt = Prompt(document[: border + (kind == "read")], kind, "")
    return Sample(prompt, document[: len(document) - left_out], stop, "", None)


def test_what_is_well_formed(values: Callable[..., Values], documents: list[Tensor], vocab: SharedVocab):
    written, read = documents[:2]
    samples = [
        continued(written, vocab),
        continued(written, vocab, "image", left_out=1),
        continued(written, vocab, "image", left_out=2),  # without the end of the picture
        continued(written, vocab, "context", left_out=1),
        continued(written, vocab, "not finite", left_out=3),
        continued(read, vocab),
        continued(read, vocab, "length", left_out=1),
    ]
    assert values("well_formed", samples) == [1, 1, 0, 0, 0, 1, 0]


def test_both_ways_in_batches(
    network: Callable[..., FusionLM],
    model: FusionLM,
    documents: list[Tensor],
    vocab: SharedVocab,
    document_tokenizer: DocumentTokenizer,
):
    net = network(vocab)
    samples = [continued(document, vocab) for document in documents]
    samples += [continued(documents[0], vocab, "context", left_out=3)]
    samples += [replace(samples[0], tokens=samples[0].prompt.tokens)]  # an empty continuation
    rows = [(s.tokens, len(s.prompt.tokens)) for s in samples]
    found = scores.both_ways_many(net, vocab, rows, batch_size=5)
    assert net.training
    alone = [scores.both_ways(net, vocab, *row) for row in rows]
    assert found[:-2] == pytest.approx(alone[:-2], rel=1e-5) and len({round(v, 3) for v in found}) == 4
    assert alone[-2:] == found[-2:] == [-math.inf] * 2
    floor = -2 * math.log(vocab.size)
    rewards = REWARDS["both_ways"](samples, model, document_tokenizer)
    alone = [scores.both_ways(model, vocab, *row) for row in rows]
    assert rewards == pytest.approx([max(floor, value) for value in alone], rel=1e-5)
    assert floor not in rewards[:-2]
    assert set(REWARDS["both_ways"](samples, net, document_tokenizer)) == {floor}  # worse than a guess


@pytest.fixture
def my_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the current folder, which is not on the path."""
    code = "number = 3\n\n\ndef length(samples, net, tokenizer):\n    return [len(s.text) for s in samples]\n"
    (tmp_path / "my_rewards.py").write_text(code)
    (tmp_path / "my_broken.py").write_text("import json\n\n1 / 0\n")
    (tmp_path / "my_half.py").write_text("import not_installed_here\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield tmp_path
    for name in ("my_rewards", "my_broken", "my_half"):
        sys.modules.pop(name, None)


def test_a_reward_of_ones_own(my_rewards: Path, model: FusionLM, document_tokenizer: DocumentTokenizer):
    rewards = named_rewards({"my_rewards:length": 0.5, "reading": 1, "naming": 0})
    samples = [sample("read", "cat", "cat"), sample("read", "cat", "bird"), sample("write", "cat", "")]
    totals, found = score(samples, rewards, model, document_tokenizer)
    assert found["my_rewards:length"] == [3, 4, 0] and found["naming"] == [1, 0, None]
    assert totals == [2.5, 2.0, 0.0]


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ({}, ["rewards", "writing"]),
        ({"writting": 1}, ["'writting'", "did you mean 'writing'", "my_module:function"]),
        ({"my_rewards:lenght": 1}, ["'my_rewards:lenght'", "did you mean 'length'"]),
        ({"my_rewards:number": 1}, ["'my_rewards:number'", "int"]),
        ({"my_reward:length": 1}, ["'my_reward:length'", "no module 'my_reward'"]),
        ({"my_broken:length": 1}, ["'my_broken:length'", "ZeroDivisionError", "my_broken.py, line 3"]),
        ({"my_half:length": 1}, ["'my_half:length'", "not_installed_here"]),
        ({"folder/file.py:length": 1}, ["folder/file.py:length", "import path"]),
        ({"my_rewards:": 1}, ["'my_rewards:'", "import path"]),
        ({"writing": math.nan}, ["'writing'", "nan"]),
        ({"writing": "1"}, ["'writing'", "'1'"]),
        ({"writing": 0, "reading": 0.0}, ["writing, reading", "0"]),
    ],
)
def test_a_reward_that_is_not_found(my_rewards: Path, weights: dict[str, Any], parts: list[str]):
    with pytest.raises(ValueError) as failed:
        named_rewards(weights)
    message = str(failed.value)
    assert all(part in message for part in parts) and "\n" not in message, message


@pytest.mark.parametrize(
    ("reward", "parts"),
    [
        (lambda samples, *_: [1 / len(s.text) for s in samples], ["ZeroDivisionError", "sample 1", "line"]),
        (lambda samples, *_: [1.0, math.nan], ["sample 1 (read 'dog')", "nan"]),
        (lambda samples, *_: [-math.inf, 0.0], ["sample 0", "-inf"]),
        (lambda samples, *_: ["1", 0.0], ["sample 0", "'1'"]),
        (lambda samples, *_: torch.zeros(2, 2), ["sample 0", "tensor"]),
        (lambda samples, *_: [1.0], ["1 values", "2 numbers"]),
        (lambda samples, *_: None, ["NoneType", "2 numbers"]),
        (lambda samples: [0.0, 0.0], ["TypeError"]),
    ],
)
def test_a_reward_that_fails(reward: Any, parts: list[str], model: FusionLM, document_tokenizer: Any):
    samples = [sample("read", "cat", "cat"), sample("read", "dog", "")]
    with pytest.raises(ValueError) as failed:
        score(samples, {"mine": (1.0, reward)}, model, document_tokenizer)
    message = str(failed.value)
    assert "'mine'" in message and all(part in message for part in parts) and "\n" not in message, message


def test_numbers_of_other_libraries_count(model: FusionLM, document_tokenizer: DocumentTokenizer):
    rewards: Any = {"mine": (2.0, lambda samples, *_: torch.tensor([0.5, 1.0]))}
    samples = [sample("read", "cat"), sample("read", "dog")]
    assert score(samples, rewards, model, document_tokenizer) == ([1.0, 2.0], {"mine": [0.5, 1.0]})
