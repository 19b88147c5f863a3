"""Prompts: of words and of documents, in the same order whenever a run resumes and on any number of ranks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from earlyfusion.data.render.fonts import TypeSample
from earlyfusion.data.render.split import demo_words
from earlyfusion.data.render.words import contains_any
from earlyfusion.eval.suites import measured_strings, word_suite
from earlyfusion.storage.hub import PRETRAINED
from earlyfusion.tokenizers.documents import DocumentTokenizer
from earlyfusion.tokenizers.pixels import to_pil
from earlyfusion.train.rl.prompts import Batch, PromptData, Rollouts
from earlyfusion.train.rl.readings import read
from earlyfusion.train.rl.samples import Prompt
from earlyfusion.train.rl.word_prompts import WordPrompts

CONTEXT = 96


@pytest.fixture
def word_file(tmp_path: Path) -> str:
    path = tmp_path / "words.txt"
    path.write_text("\ufeffcat\n\n  red apple \r\nh\u00e4user\nbird\n \n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def packaged() -> DocumentTokenizer:
    """The tokenizer of the model that ships."""
    return DocumentTokenizer.load(PRETRAINED / "tokenizer")


def answers(prompts: list[Prompt]) -> list[tuple[str, str]]:
    return [(prompt.kind, prompt.answer) for prompt in prompts]


def opened(
    tokenizer: DocumentTokenizer, context: int = CONTEXT, rank: int = 0, ranks: int = 1, **options: Any
):
    data = PromptData(**options)
    module = SimpleNamespace(tokenizer=tokenizer, settings=SimpleNamespace(inner_steps=2))
    module.net = SimpleNamespace(config=SimpleNamespace(context_length=context))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank,
        is_global_zero=rank == 0,
        world_size=ranks,
        lightning_module=module,
        accumulate_grad_batches=2,
    )
    data.setup("fit")
    return data


# words


def test_each_word_of_a_file_once_per_pass(
    document_tokenizer: DocumentTokenizer, word_file: str, capsys: pytest.CaptureFixture[str]
):
    data = opened(document_tokenizer, words=word_file, prompts=4)
    assert capsys.readouterr().out == ""
    passes = [[p.answer for p in data.prompts_of(step)] for step in range(6)]
    assert all(sorted(some) == ["bird", "cat", "h\u00e4user", "red apple"] for some in passes)
    assert len({tuple(some) for some in passes}) > 1
    for prompt in data.prompts_of(0):
        assert prompt.kind == "write" and document_tokenizer.decode(prompt.tokens) == [prompt.answer]
        assert prompt.tokens[0] == document_tokenizer.vocab.bos != prompt.tokens[-1]


def test_words_that_cannot_be_prompts(
    document_tokenizer: DocumentTokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    path = tmp_path / "words.txt"
    path.write_text("cat\n" + "z" * 200 + "\nq\n")
    encode = document_tokenizer.text.encode

    def refuse(text: str) -> list[int]:
        if text == "q":
            raise ValueError("no such letter")
        return encode(text)

    monkeypatch.setattr(document_tokenizer.text, "encode", refuse)
    assert (
        answers(opened(document_tokenizer, words=str(path), prompts=2).prompts_of(0))
        == [("write", "cat")] * 2
    )
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "2 of 3" in line and "'q'" in line and "'zzz" in line and "..." in line
    path.write_text("q\n")
    with pytest.raises(ValueError, match="words.txt.*1 cannot be encoded"):
        opened(document_tokenizer, words=str(path))
    path.write_bytes(b"cat\nbird\ncaf\xe9\n")
    with pytest.raises(ValueError, match="words.txt, line 3: byte 4"):
        opened(document_tokenizer, words=str(path))
    path.write_text("\n \n")
    with pytest.raises(ValueError, match="words.txt.*blank"):
        opened(document_tokenizer, words=str(path))
    with pytest.raises(FileNotFoundError, match="did you mean .*words.txt"):
        opened(document_tokenizer, words=str(tmp_path / "word.txt"))


def test_the_demos_words_are_never_those_that_are_measured(document_tokenizer: DocumentTokenizer):
    pytest.importorskip("wordfreq")
    data = opened(document_tokenizer, words="demo", prompts=1500)
    found = [prompt.answer for prompt in data.prompts_of(0)]
    split = demo_words()
    held_out, known = frozenset(split.held_out), set(split.train)
    assert not any(contains_any(text, held_out) for text in found)
    assert not set(found) & set(measured_strings())
    assert sum(text not in known for text in found) / len(found) == pytest.approx(0.4, abs=0.03)
    only = opened(document_tokenizer, words="demo", random_share=0.0, prompts=200).prompts_of(0)
    assert {prompt.answer for prompt in only} <= known and len({prompt.answer for prompt in only}) == 200


def test_the_strings_that_are_measured_are_those_of_the_suite(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wordfreq")
    pytest.importorskip("font_lato")
    monkeypatch.setattr(TypeSample, "render", lambda sample: sample)  # pictures take a second
    suite = word_suite(3, heights=(24,))
    assert sorted(measured_strings(3)) == sorted(item.text or "" for item in suite if item.kind == "random")


def test_words_to_read_are_pictures_in_type(packaged: DocumentTokenizer):
    pytest.importorskip("wordfreq")
    pytest.importorskip("font_roboto")
    prompts = opened(packaged, 256, words="demo", read_share=0.75, prompts=16).prompts_of(0)
    assert [prompt.kind for prompt in prompts].count("read") == 12
    pictures = [prompt for prompt in prompts if prompt.kind == "read"]
    decoded = [packaged.decode(prompt.tokens)[0] for prompt in pictures]
    assert {picture.shape[1] for picture in decoded if isinstance(picture, Tensor)} == {16, 24}
    texts = read([to_pil(picture) for picture in decoded if isinstance(picture, Tensor)])
    assert sum(text == prompt.answer for text, prompt in zip(texts, pictures, strict=True)) >= 6


def test_a_long_line_is_written_but_not_read(document_tokenizer: DocumentTokenizer, tmp_path: Path):
    pytest.importorskip("font_roboto")
    path = tmp_path / "lines.txt"
    path.write_text("cat\nThe cat sees two birds\n")
    assert WordPrompts(str(path), document_tokenizer, CONTEXT).words == ["cat", "The cat sees two birds"]
    assert WordPrompts(str(path), document_tokenizer, CONTEXT, read_share=0.5).words == ["cat"]


# order


def test_steps_do_not_depend_on_what_was_drawn_before(packaged: DocumentTokenizer):
    pytest.importorskip("wordfreq")
    pytest.importorskip("font_roboto")
    options: dict[str, Any] = {"words": "demo", "read_share": 0.5, "prompts": 6}
    one, two = (opened(packaged, 256, **options) for _ in range(2))
    in_turn = [one.prompts_of(step) for step in range(4)]
    for step in (3, 0, 2):
        again = two.prompts_of(step)
        assert answers(again) == answers(in_turn[step])
        assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(again, in_turn[step]))
    assert answers(opened(packaged, 256, **options, seed=1).prompts_of(0)) != answers(in_turn[0])


def test_ranks_share_the_prompts_of_a_step(document_tokenizer: DocumentTokenizer):
    pytest.importorskip("wordfreq")
    data = [opened(document_tokenizer, rank=rank, ranks=3, words="demo", prompts=6) for rank in range(3)]
    whole = opened(document_tokenizer, words="demo", prompts=6)
    for step in range(3):
        parts = [answers(one.prompts_of(step)) for one in data]
        assert all(len(part) == 2 for part in parts) and sum(parts, []) == answers(whole.prompts_of(step))
    with pytest.raises(ValueError, match="7, expected a multiple of 3"):
        opened(document_tokenizer, ranks=3, words="demo", prompts=7).train_dataloader()


def test_a_rollout_is_used_for_all_parts_of_its_steps(document_tokenizer: DocumentTokenizer, word_file: str):
    loader = opened(document_tokenizer, words=word_file, prompts=2).train_dataloader()
    batches = [batch for batch, _ in zip(loader, range(9))]
    assert [(b.rollout, b.inner, b.part, b.parts) for b in batches] == [
        (r, i, p, 2) for r in range(3) for i in range(2) for p in range(2)
    ][:9]
    assert batches[0].prompts is batches[3].prompts and batches[4].prompts is not batches[3].prompts


@pytest.mark.parametrize(("parts", "expected"), [(2, (1, 0, 1)), (3, (1, 0, 1)), (1, (1, 0, 0))])
def test_a_loader_resumes(parts: int, expected: tuple[int, int, int]):
    def prompts_of(rollout: int) -> list[Prompt]:
        return [Prompt(torch.tensor([rollout]), "write", str(rollout))]

    first = Rollouts(prompts_of, parts=2, inner_steps=2)
    for _ in zip(range(5), first):  # zip takes no sixth
        pass
    assert first.state_dict() == {"step": 2, "part": 1}
    second = Rollouts(prompts_of, parts=parts, inner_steps=2)
    second.load_state_dict(first.state_dict())
    batch = next(iter(second))
    assert (batch.rollout, batch.inner, batch.part) == expected and batch.prompts[0].answer == "1"


class Recorder(L.LightningModule):
    """Notes the batches that it gets."""

    def __init__(self, tokenizer: DocumentTokenizer, net: torch.nn.Module) -> None:
        super().__init__()
        self.automatic_optimization = True
        self.tokenizer, self.net, self.seen = tokenizer, net, []
        self.settings = SimpleNamespace()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert isinstance(batch, Batch) and all(isinstance(prompt, Prompt) for prompt in batch.prompts)
        self.seen.append((batch.rollout, batch.part, *(prompt.answer for prompt in batch.prompts)))
        return self.net.embedding.weight.sum()  # type: ignore[union-attr,return-value]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_run_that_resumes_gets_the_same_prompts(
    document_tokenizer: DocumentTokenizer, model: torch.nn.Module, word_file: str, tmp_path: Path
):
    def fit(steps: int, checkpoint: Path | None = None, save: Path | None = None) -> list[tuple]:
        module = Recorder(document_tokenizer, model)
        trainer = L.Trainer(
            max_steps=steps,
            max_epochs=-1,
            accumulate_grad_batches=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=PromptData(words=word_file, prompts=3), ckpt_path=checkpoint)
        if save is not None:
            trainer.save_checkpoint(save)
        return module.seen

    whole = fit(4)
    assert [row[:2] for row in whole] == [(s, p) for s in range(4) for p in range(2)]
    first = fit(2, save=tmp_path / "last.ckpt")
    assert first + fit(4, checkpoint=tmp_path / "last.ckpt") == whole


# documents


def test_documents_of_two_parts(
    prepared: Path, document_tokenizer: DocumentTokenizer, capsys: pytest.CaptureFixture[str]
):
    data = opened(document_tokenizer, path=str(prepared), prompts=40)
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "image, text, image" in line and "left out" in line
    prompts = [prompt for step in range(3) for prompt in data.prompts_of(step)]
    kinds = {prompt.kind for prompt in prompts}
    assert kinds == {"write", "read"}
    for prompt in prompts:
        parts = document_tokenizer.decode(prompt.tokens)
        assert len(parts) == 1 and prompt.tokens[0] == document_tokenizer.vocab.bos
        if prompt.kind == "write":
            assert parts == [prompt.answer] and prompt.answer.startswith("A ")
        else:
            assert isinstance(parts[0], Tensor) and prompt.answer.startswith("This is a ")
    some = opened(document_tokenizer, path=str(prepared), match="A (red|small) [a-z]+:", prompts=40)
    assert {prompt.answer for prompt in some.prompts_of(0)} == {"A red apple:", "A small cat:"}
    assert "do not match" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no prompts.*do not match 'A'"):
        opened(document_tokenizer, path=str(prepared), match="A")
    with pytest.raises(ValueError, match="no prompts.*longer than the model's context of 5"):
        opened(document_tokenizer, 5, path=str(prepared))


def test_documents_of_another_tokenizer(prepared: Path, packaged: DocumentTokenizer, tmp_path: Path):
    with pytest.raises(ValueError, match="another tokenizer"):
        opened(packaged, path=str(prepared))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        opened(packaged, path=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "words or data.path, not neither"),
        ({"words": "demo", "path": "x"}, "not both"),
        ({"words": "demo", "read_share": 1.5}, "read_share is 1.5"),
        ({"words": "demo", "random_share": -0.1}, "random_share is -0.1"),
        ({"path": "x", "read_share": 0.5}, "read_share.*data.words"),
        ({"path": "x", "match": "("}, "match is '\\('"),
        ({"words": "demo", "match": "a"}, "match works with data.path"),
        ({"words": "demo", "prompts": 0}, "prompts.*0"),
        ({"words": "demo", "seed": -1}, "seed is -1"),
    ],
)
def test_options_that_do_not_work(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        PromptData(**options)
