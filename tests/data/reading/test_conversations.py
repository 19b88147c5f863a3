"""Conversations: what of them is learned, how their images come, and that a model answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage

from earlyfusion.cli.main import main
from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.data.reading.cells import RawImage, Unusable
from earlyfusion.data.reading.conversations import answer_modalities, balanced, conversation
from earlyfusion.data.windows import Windows
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.model import FusionLMConfig
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.tokenizers.documents import END_OF_TURN, DocumentTokenizer, split
from earlyfusion.tokenizers.pixels import contain, cover, to_pil
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.lm.targets import targets_of
from earlyfusion.train.loop.fit import fit

RED = PilImage.new("RGB", (32, 16), (255, 0, 0))
PART = {"type": Value("string"), "text": Value("string"), "image": Image()}
MESSAGE = {"role": Value("string"), "content": List(PART)}
ROWS: list[list[tuple[str, list[Any]]]] = [
    [("user", ["A red apple?"]), ("assistant", ["The cat."])],
    [("system", ["The house"]), ("user", [" sees", RED]), ("assistant", ["birds", RED])],
    [("user", ["two"]), ("assistant", ["cat"]), ("user", ["green"]), ("assistant", [RED]), ("user", ["?"])],
]


def messages_of(row: list[tuple[str, list[Any]]]) -> list[dict[str, Any]]:
    def part(value: Any) -> dict[str, Any]:
        text = isinstance(value, str)
        return {
            "type": "text" if text else "image",
            "text": value if text else None,
            "image": None if text else value,
        }

    return [{"role": role, "content": [part(value) for value in content]} for role, content in row]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chats") / "set"
    rows = {"messages": [messages_of(row) for row in ROWS]}
    Dataset.from_dict(rows, Features(messages=List(MESSAGE))).save_to_disk(str(folder))
    return folder


def prepared(documents: Path, folders: tuple[Path, Path], out: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "context_length": 64,
        "validation_share": 0.0,
        "separator": True,
        "max_grid": 16,
    }
    text, image = map(str, folders)
    prepare(PrepareConfig(str(documents), str(out), text, image, **{**settings, **changes}), lambda *_: None)
    return out


def documents_of(folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens of each document, and which of them are learned."""
    windows = Windows(folder / "train")
    rows = windows.load(np.arange(windows.length))
    found = []
    pad = DocumentTokenizer.load(folder / "tokenizer").vocab.pad
    for tokens, numbers, learned in zip(rows["tokens"], rows["documents"], rows["learned"]):
        for number in numbers.unique():
            here = numbers == number
            if int(tokens[here][0]) != pad:
                found.append((tokens[here], learned[here] == 1))
    return found


def test_documents_are_what_the_tokenizer_makes_and_answers_are_learned(chats, tokenizer_folders, tmp_path):
    folder = prepared(chats, tokenizer_folders, tmp_path / "tokens")
    tokenizer = DocumentTokenizer.load(folder / "tokenizer")
    vocab = tokenizer.vocab
    found = {tuple(tokens.tolist()): learned for tokens, learned in documents_of(folder)}
    turns: list[list[list[Any]]] = [
        [["A red apple?"], ["The cat."]],
        [["The house", " sees", RED], ["birds", RED]],
        [["two"], ["cat"], ["green"], [RED]],  # what is asked last has no answer
    ]
    for row in turns:
        segments = [s for turn in row for s in [*turn, END_OF_TURN]][:-1]
        tokens = tokenizer.encode(segments).tokens
        learned = found.pop(tuple(tokens.tolist()))
        expected: list[bool] = [False]
        for number, turn in enumerate(row):
            length = len(tokenizer.encode(turn, bos=False, eos=False).tokens) + 1  # and what ends it
            expected += [number % 2 == 1] * length
        assert learned.tolist() == expected
        assert int(tokens[-1]) == vocab.eos and int((tokens == vocab.sep).sum()) == len(row) - 1
        targets = targets_of(tokens[None], torch.zeros(1, len(tokens)), vocab, learned[None])[0]
        assert targets[:-1].tolist() == torch.where(learned[1:], tokens[1:], -100).tolist()
        assert len(split(tokens, vocab)) == len(segments) - len(row) + 1 - (row is turns[1])
    assert not found


def test_images_of_prompts_are_padded_and_those_of_answers_cut(chats, tokenizer_folders, tmp_path):
    fixed = {"fixed_grid": (2, 2), "max_grid": 64}
    folder = prepared(chats, tokenizer_folders, tmp_path / "tokens", **fixed)
    tokenizer = DocumentTokenizer.load(folder / "tokenizer")
    wide = PilImage.linear_gradient("L").resize((48, 16)).convert("RGB")
    whole, cut = contain(wide, 16, 16), cover(wide, 16, 16)
    assert whole.size == (16, 16) and whole.getpixel((8, 0)) == (255, 255, 255)
    assert to_pil(tokenizer.prepare("image", wide, whole=True)).tobytes() == whole.tobytes()
    assert to_pil(tokenizer.prepare("image", wide)).tobytes() == cut.tobytes()
    middle = [("user", ["x", RED]), ("assistant", [RED])]
    Dataset.from_dict({"messages": [messages_of(middle)]}, Features(messages=List(MESSAGE))).save_to_disk(
        str(tmp_path / "one")
    )
    folder = prepared(tmp_path / "one", tokenizer_folders, tmp_path / "again", **fixed)
    tokens, _ = documents_of(folder)[0]
    shown, drawn = (part.values for part in split(tokens, tokenizer.vocab) if part.kind == "image")
    inputs = [tokenizer.prepare("image", RED, whole=whole) for whole in (True, False)]
    expected = tokenizer.encode_inputs("image", inputs)
    assert torch.equal(shown, expected[0]) and torch.equal(drawn, expected[1])
    assert not torch.equal(shown, drawn)


def test_only_answers_teach(chats, tokenizer_folders, tmp_path: Path):
    folder = prepared(chats, tokenizer_folders, tmp_path / "tokens")
    config = FusionLMConfig(context_length=64, n_layers=1, width=32, n_heads=2, n_kv_heads=2, ffn_width=32)
    training = FusionLMTraining(
        LMSettings(tokenizer=str(folder), config=config, lr=1e-2, max_steps=80, warmup_steps=5)
    )
    data = TokenData(str(folder), batch_size=2)
    model = fit(training, data, tmp_path / "run", progress=False, tensorboard=False)
    lm, tokenizer = load_model(model)
    vocab = tokenizer.vocab
    first = tokenizer.encode(["A red apple?", END_OF_TURN], eos=False)
    second = tokenizer.encode(["two", END_OF_TURN], eos=False)
    plain = tokenizer.encode(["two"], eos=False)
    greedy = Sampling(temperature=0)
    results = generate(lm, vocab, [first, second, plain], max_new_tokens=20, sampling=greedy)
    assert tokenizer.decode(results[0].tokens[results[0].prompt_length :]) == ["The cat."]
    assert results[0].stop == "eos"
    assert tokenizer.decode(results[1].tokens[results[1].prompt_length :]) == ["cat"]
    assert results[1].stop == "turn"
    assert vocab.sep not in results[2].tokens  # no conversation, no turns

    out = tmp_path / "samples"
    words = ["sample", "two", "--answer", "--model", str(model), "--temperature", "0", "--out", str(out)]
    assert main(words) == 0
    assert "the model ended its turn" in (out / "index.html").read_text()


def test_what_prepare_refuses(chats, tokenizer_folders, tmp_path: Path, documents: Path):
    with pytest.raises(ValueError, match="separator: true"):
        prepared(chats, tokenizer_folders, tmp_path / "tokens", separator=False)
    with pytest.raises(ValueError, match="balance_answers.*messages"):
        prepared(documents, tokenizer_folders, tmp_path / "tokens", balance_answers=True)
    rows = {"messages": [messages_of([("user", ["x" * 200]), ("assistant", ["y"])]), messages_of(ROWS[0])]}
    Dataset.from_dict(rows, Features(messages=List(MESSAGE))).save_to_disk(str(tmp_path / "long"))
    folder = prepared(tmp_path / "long", tokenizer_folders, tmp_path / "short")
    assert len(documents_of(folder)) == 1


def test_a_conversation_that_is_too_long_loses_its_last_answers(tokenizer_folders, tmp_path: Path):
    row = [("user", ["cat"]), ("assistant", ["birds"]), ("user", ["x" * 100]), ("assistant", ["y"])]
    Dataset.from_dict({"messages": [messages_of(row)]}, Features(messages=List(MESSAGE))).save_to_disk(
        str(tmp_path / "set")
    )
    folder = prepared(tmp_path / "set", tokenizer_folders, tmp_path / "tokens")
    tokenizer = DocumentTokenizer.load(folder / "tokenizer")
    ((tokens, learned),) = documents_of(folder)
    expected = tokenizer.encode(["cat", END_OF_TURN, "birds", END_OF_TURN], eos=False)
    assert torch.equal(tokens, expected.tokens)
    assert bool(learned[-1])


def test_a_model_of_its_own_vocabulary(chats, tokenizer_folders, tmp_path: Path):
    first = prepared(chats, tokenizer_folders, tmp_path / "first")
    DocumentTokenizer.load(first / "tokenizer").save(tmp_path / "model" / "tokenizer")
    again = PrepareConfig(
        str(chats),
        str(tmp_path / "again"),
        model=str(tmp_path / "model"),
        context_length=64,
        validation_share=0,
    )
    prepare(again, lambda *_: None)
    pairs = zip(documents_of(first), documents_of(tmp_path / "again"), strict=True)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)
    with pytest.raises(ValueError, match="leave out scan"):
        PrepareConfig("x", "y", model="z", scan="columns")
    unclear: list[dict[str, Any]] = [{"model": "z", "text_tokenizer": "t"}, {"text_tokenizer": "t"}]
    for words in unclear:
        with pytest.raises(ValueError, match="text_tokenizer and image_tokenizer.*model"):
            PrepareConfig("x", "y", **words)


def test_messages_with_images_of_their_row():
    one, two = b"one", b"two"
    image = {"type": "image"}
    ask = {"role": "user", "content": [{"type": "text", "text": "a"}, image]}
    draw = {"role": "assistant", "content": [image]}
    assert conversation({"messages": [ask, draw], "image": [one, two]}) == [
        "a", RawImage(one, None), END_OF_TURN, RawImage(two, None)
    ]  # fmt: skip
    notes: list[str] = []
    row = {"messages": [ask, draw, ask, ask], "image": [one, two, one, one]}
    assert conversation(row, note=notes.append)[-1] == RawImage(two, None)
    assert len(notes) == 2  # both questions that nobody answers
    numbered = [{"role": "user", "content": [{**image, "index": 1}, {**image, "index": 0}]}, said("x")]
    assert conversation({"messages": numbered, "image": [one, two]})[:2] == [
        RawImage(two, None), RawImage(one, None)
    ]  # fmt: skip


def asked(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def said(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def text(value: Any) -> dict[str, Any]:
    return {"type": "text", "text": value}


A, B = RawImage(None, "a.png"), RawImage(None, "b.png")


def llava(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": side, "value": value} for side, value in turns]


IMAGE_URL = {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}
SOURCE = {"type": "image", "source": {"type": "url", "url": "a.png"}}
RESPONSES = [{"type": "input_text", "text": "Q"}, {"type": "input_image", "image_url": "a.png"}]
FOUR = "<image><image>\n\nWhat\n<image>\nis?"


@pytest.mark.parametrize(
    ("row", "segments"),
    [
        (
            {"messages": llava(("human", "<image>\nQ"), ("gpt", "A")), "image": "a.png"},
            [A, "Q", END_OF_TURN, "A"],
        ),
        (
            {
                "messages": llava(("system", "S"), ("user", "Q\n<image>"), ("chatgpt", "A\n")),
                "image": ["a.png"],
            },
            ["S", "Q", A, END_OF_TURN, "A\n"],
        ),
        (  # LLaMA-Factory
            {"messages": [asked(FOUR), said("A <image>.")], "image": ["a.png", "b.png", "a.png", "b.png"]},
            [A, B, "\nWhat\n", A, "\nis?", END_OF_TURN, "A ", B, "."],
        ),
        (  # TRL: pictures that nothing places come before the user's first message
            {
                "messages": [system("S"), asked("Q"), said("A"), asked("R"), said("B")],
                "image": ["a.png", "b.png"],
            },
            ["S", A, B, "Q", END_OF_TURN, "A", END_OF_TURN, "R", END_OF_TURN, "B"],
        ),
        (
            {"messages": [asked({"type": "image"}, text("Q")), said("A")], "image": "a.png"},
            [A, "Q", END_OF_TURN, "A"],
        ),
        (  # beside parts that hold the pictures, a placeholder is text
            {"messages": [asked({"type": "image"}, text("a <image>")), said("A")], "image": "a.png"},
            [A, "a <image>", END_OF_TURN, "A"],
        ),
        ({"messages": [asked("a <image>"), said("A")], "image": None}, ["a <image>", END_OF_TURN, "A"]),
        # OpenAI, Anthropic, and the templates of transformers
        ({"messages": [asked(text("Q"), IMAGE_URL), said([text("A")])]}, ["Q", A, END_OF_TURN, "A"]),
        ({"messages": [asked(*RESPONSES), said("A")]}, ["Q", A, END_OF_TURN, "A"]),
        ({"messages": [asked(text("Q"), SOURCE), said("A")]}, ["Q", A, END_OF_TURN, "A"]),
        (
            {"messages": [asked("Q", {"type": "image", "path": "a.png"}), said("A")]},
            ["Q", A, END_OF_TURN, "A"],
        ),
        # roles and contents
        (
            {"messages": [{"role": "developer", "content": "S"}, asked("Q"), said(None), said("A")]},
            ["S", "Q", END_OF_TURN, "A"],
        ),
        (
            {"messages": [asked([{"type": "text", "content": "Q"}]), said([text(""), text("A")])]},
            ["Q", END_OF_TURN, "A"],
        ),
        ({"messages": json.dumps([asked("Q"), said("3.50")])}, ["Q", END_OF_TURN, "3.50"]),
        ({"messages": {"from": ["human", "gpt"], "value": ["Q", "A"]}}, ["Q", END_OF_TURN, "A"]),
        (
            {"messages": [{**asked("Q"), "name": "x", "weight": 1, "tool_calls": None}, said(7)]},
            ["Q", END_OF_TURN, "7"],
        ),
        ({"messages": [asked("Q"), said("A")], "system": "S"}, ["S", "Q", END_OF_TURN, "A"]),
        # prompt and completion
        ({"prompt": "Q <image>", "completion": "A", "image": "a.png"}, ["Q ", A, END_OF_TURN, "A"]),
        ({"prompt": "Q", "completion": 7, "image": "a.png"}, [A, "Q", END_OF_TURN, "7"]),
        (
            {"prompt": [asked("Q"), said("A"), asked("R")], "completion": [said("B")]},
            ["Q", END_OF_TURN, "A", END_OF_TURN, "R", END_OF_TURN, "B"],
        ),
        ({"prompt": "Q", "input": "I", "completion": "A", "system": "S"}, ["S", "Q\nI", END_OF_TURN, "A"]),
        ({"prompt": "Q", "input": "", "completion": "A"}, ["Q", END_OF_TURN, "A"]),
    ],
)
def test_formats_of_the_neighborhood(row: dict[str, Any], segments: list[Any]):
    assert conversation(row) == segments


@pytest.mark.parametrize(
    "answer",
    ["A box.", "7", "true", "[1, 2]", '{"count": 3}', "null", "3.50", '"quoted"', " a\r\n", "<image>"],
)
def test_answers_stay_as_written(answer: str):
    for content in (answer, [text(answer)]):
        messages = [asked([text("What?"), {"type": "image", "image": b"i"}]), said(content)]
        for stored in (messages, json.dumps([asked("What?"), said(content)])):
            assert conversation({"messages": stored})[-1] == answer


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": "hello"}, "messages are not"),
        ({"messages": None, "image": b"i"}, "messages are not"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role.*'tool'"),
        ({"messages": [{"content": "x"}]}, "role.*None"),
        ({"messages": [asked("x")]}, "without an answer"),
        ({"messages": [said("x")]}, "starts with an answer"),
        ({"messages": [asked("x"), said("")]}, "empty answer"),
        ({"messages": [asked("x"), said(None), asked("y"), said("z")]}, "empty answer"),
        ({"messages": [asked({"video": 3}), said("x")]}, "type of part.*None"),
        ({"messages": [asked([{"type": "video"}])]}, "part.*'video'"),
        ({"messages": [asked([{"type": "text"}])]}, "part without its text.*type"),
        ({"messages": [{**asked("x"), "images": ["a.png"]}, said("y")]}, "field of a message.*'images'"),
        (
            {"messages": [asked("x"), {**said("y"), "tool_calls": [{"f": 1}]}]},
            "field of a message.*'tool_calls'",
        ),
        ({"messages": [asked([{**text("x"), "audio": "a.wav"}]), said("y")]}, "field of a part.*'audio'"),
        ({"messages": [asked([{"type": "image"}]), said("x")]}, "do not match: 1 placeholders, 0 images"),
        (
            {"messages": [asked("<image> <image>"), said("x")], "image": b"i"},
            "match: 2 placeholders, 1 images",
        ),
        (
            {"messages": [asked("<image>"), said("x")], "image": [b"i", b"j"]},
            "match: 1 placeholders, 2 images",
        ),
        ({"messages": [asked([text("x")]), said("x")], "image": b"i"}, "match: 0 placeholders, 1 images"),
        ({"messages": [asked([{"type": "image_url", "image_url": "http://a"}]), said("x")]}, "web address"),
        ({"prompt": {}, "completion": "x"}, "not a text"),
    ],
)
def test_conversations_that_cannot_be_read(row: dict[str, Any], reason: str):
    with pytest.raises(Unusable, match=reason):
        conversation(row)


def test_answers_are_balanced_by_modality():
    names = ("structure", "text", "image")
    kinds = [answer_modalities({"messages": messages_of(row)}, names) for row in ROWS]
    assert kinds == [{"text"}, {"text", "image"}, {"image", "text"}]
    assert answer_modalities({"prompt": "draw", "completion": "<image>", "image": b"i"}, names) == {"image"}
    assert answer_modalities({"messages": [said("x")]}, names) == frozenset()
    only_text, only_image = frozenset({"text"}), frozenset({"image"})
    rows = balanced([only_text] * 10 + [only_image] * 4, np.random.default_rng(0))
    counts = np.bincount(rows, minlength=14)
    assert counts[:10].tolist() == [1] * 10 and counts[10:].sum() == 10
    assert set(counts[10:]) == {2, 3}
    assert rows.tolist() != sorted(rows.tolist())
