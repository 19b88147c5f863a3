"""Conversations: what of them is learned, how their images come, and that a model answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage

from earlyfusion.cli.main import main
from earlyfusion.data.conversations import answer_modalities, balanced, conversation
from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.data.sources import RawImage
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
    assert conversation([ask, draw], [one, two]) == [
        "a", RawImage(one, None), END_OF_TURN, RawImage(two, None)
    ]  # fmt: skip
    assert conversation([ask, draw, ask], [one, two, one])[-1] == RawImage(two, None)


@pytest.mark.parametrize(
    ("messages", "images", "message"),
    [
        ("hello", None, "messages"),
        ([{"role": "tool", "content": "x"}], None, "role.*'tool'"),
        ([{"role": "user", "content": "x"}], None, "without an answer"),
        ([{"role": "assistant", "content": "x"}], None, "starts with an answer"),
        ([{"role": "user", "content": 3}], None, "content"),
        ([{"role": "user", "content": [{"type": "video"}]}], None, "part.*'video'"),
        ([{"role": "user", "content": [{"type": "image"}]}], None, "more images"),
        ([{"role": "user", "content": "x"}], [b"i"], "unreferenced images"),
    ],
)
def test_conversations_that_cannot_be_read(messages: Any, images: Any, message: str):
    with pytest.raises(ValueError, match=message):
        conversation(messages, images)


def test_answers_are_balanced_by_modality():
    kinds = [answer_modalities(messages_of(row), ("structure", "text", "image")) for row in ROWS]
    assert kinds == [{"text"}, {"text", "image"}, {"text", "image"}]
    assert answer_modalities([{"role": "assistant", "content": "x"}], ["text"]) == {"text"}
    text, image = frozenset({"text"}), frozenset({"image"})
    rows = balanced([text] * 10 + [image] * 4, np.random.default_rng(0))
    counts = np.bincount(rows, minlength=14)
    assert counts[:10].tolist() == [1] * 10 and counts[10:].sum() == 10
    assert set(counts[10:]) == {2, 3}
    assert rows.tolist() != sorted(rows.tolist())
