"""Judges leave the training alone, keep the best model, and stop a run that only pleases its reward."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from earlyfusion.data.render.split import demo_concepts
from earlyfusion.eval.items import Item, Word
from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.eval.tasks.naming import HELD_OUT, KNOWN
from earlyfusion.fusion_lm.folder import load_model, save_model
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.tokenizers.documents import DocumentTokenizer
from earlyfusion.train.loop.fit import fit
from earlyfusion.train.loop.logged_training import LoggedTraining
from earlyfusion.train.loop.settings import TrainingSettings
from earlyfusion.train.rl import judges
from earlyfusion.train.rl.held_out import HeldOut, held_out
from earlyfusion.train.rl.judges import Judgement, Judges, score_of, why_stop


class Training(LoggedTraining):
    """A tiny transformer with dropout, whose reward rises with every step."""

    net: FusionLM

    def __init__(self, net: FusionLM, tokenizer: DocumentTokenizer, max_steps: int) -> None:
        super().__init__(TrainingSettings(max_steps=max_steps))
        self.net, self.tokenizer = net, tokenizer
        self.recent_reward: float | None = None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.recent_reward = 0.1 * (self.global_step + 1)
        return self.net(batch[:, :-1], targets=batch[:, 1:]).cross_entropy

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)

    def whole_net(self) -> FusionLM:
        return self.net

    def save_folder(self, folder: str | Path) -> None:
        save_model(folder, self.net, self.tokenizer)


class Reader:
    """Reads the same text in every picture."""

    version = "1"

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text

    def read(self, images: Any, on_read: Any = None) -> list[str]:
        return [self.text] * len(images)


class Stop(Callback):
    """Stops the run after a step, as Ctrl+C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def train(network, vocab, document_tokenizer) -> Callable[..., Training]:
    """Runs a training of a few steps, with figures per step that are given, or measured."""

    def train(run: Path, *callbacks: Callback, steps: int = 4) -> Training:
        made = Training(network(vocab), document_tokenizer, steps)
        tokens = torch.randint(vocab.size, (64, 9), generator=torch.Generator().manual_seed(0))
        data: Any = DataLoader(tokens, batch_size=2)  # type: ignore[arg-type]
        options: dict[str, Any] = {"precision": "32-true", "checkpoint_steps": 2, "log_every": 1}
        fit(made, data, run, callbacks=callbacks, progress=False, tensorboard=False, **options)
        return made

    return train


@pytest.fixture
def scores(monkeypatch) -> Callable[[dict[int, float]], list[int]]:
    """Replaces what is measured by figures of every step; returns the list of the measured steps."""

    def scores(of_step: dict[int, float]) -> list[int]:
        measured: list[int] = []

        def measure(self: Judges, net: FusionLM, tokenizer: DocumentTokenizer) -> dict[str, float]:
            step = self.trainer.global_step  # type: ignore[attr-defined]
            measured.append(step)
            return {"writing/judge/word": of_step[step]}

        def remember(self: Judges, trainer: Any, *args: Any) -> None:
            self.trainer = trainer  # type: ignore[attr-defined]

        monkeypatch.setattr(judges, "held_out", lambda *_: HeldOut())
        monkeypatch.setattr(judges, "readers", lambda _: [Reader("judge", "")])
        monkeypatch.setattr(Judges, "_figures", measure)
        monkeypatch.setattr(Judges, "on_fit_start", remember)
        return measured

    return scores


@pytest.fixture
def small(monkeypatch, shades, photo) -> None:
    """Few texts and images to measure, and two judges of which one reads "red" everywhere."""
    texts = [Word("red", "word"), Word("cat", "word"), Word("xq", "random")]
    things = demo_concepts().train[:2]
    held = HeldOut(texts, shades[:3], [Item(photo, "red apple")], [["A red apple.", photo]], things)
    monkeypatch.setattr(judges, "held_out", lambda *_: held)
    monkeypatch.setattr(judges, "readers", lambda _: [Reader("one", "red"), Reader("two", "")])


def test_judges_measure_and_leave_the_training_as_it_is(small, train, tmp_path, capsys):
    made = train(tmp_path / "judged", Judges(every=3))
    curves = read_metrics(tmp_path / "judged")
    names = ["writing/one/word", "writing/two/word", "writing/one/random", "reading/word", "reading/random"]
    for name in (*names, "naming", "drawing", "bits_per_byte", "bits_per_pixel", "unfinished", "score"):
        assert [step for step, _ in curves[f"judge/{name}"]] == [-1, 2, 3], name
    unfinished = curves["judge/unfinished"][0][1]
    assert curves["judge/writing/one/word"][0][1] in ((0.5, 0.0) if unfinished else (0.5,))
    assert curves["judge/writing/two/word"][0][1] == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.partition(":")[0] for line in printed] == ["step 0", "step 3", "step 4"]
    assert (
        "of random strings (two)" in printed[0] and "reward" not in printed[0] and "reward 0.3" in printed[1]
    )
    assert (tmp_path / "judged" / "report.html").read_text().count("<svg") > 2

    plain = train(tmp_path / "plain")
    assert all(module.training for module in made.net.modules())
    for one, other in zip(made.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_resumed_run_measures_what_is_left(scores, train, tmp_path):
    of_step = {0: 0.3, 2: 0.5, 4: 0.4, 5: 0.45}
    whole = scores(of_step)
    train(tmp_path / "whole", Judges(every=2), steps=5)
    assert whole == [0, 2, 4, 5]
    before = scores(of_step)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", Judges(every=2), Stop(3), steps=5)
    rest = scores(of_step)
    callback = Judges(every=2)
    train(tmp_path / "stopped", callback, steps=5)
    assert before == [0, 2] and rest == [4, 5]
    steps = [0, 2, 4, 5]
    assert [(one.step, one.score) for one in callback.history] == [(step, of_step[step]) for step in steps]
    for name in ("judge/score", "judge/writing/judge/word"):
        assert read_metrics(tmp_path / "stopped")[name] == read_metrics(tmp_path / "whole")[name]
    best = load_model(tmp_path / "stopped" / "best").lm.state_dict()
    last = load_model(tmp_path / "stopped" / "model").lm.state_dict()
    assert not all(torch.equal(best[name], last[name]) for name in best)


def test_a_run_that_only_pleases_its_reward_stops(scores, train, tmp_path, capsys):
    falling = {step: 0.5 if step == 1 else 0.4 for step in range(7)}
    scores(falling)
    made = train(tmp_path, Judges(every=1, patience=3), steps=6)
    assert made.trainer.global_step == 4
    reason = next(line for line in capsys.readouterr().out.splitlines() if "stopped at step 4" in line)
    for told in ("step 1", "0.100 to 0.400", "50.0% to 40.0%", "3 measurements", "best"):
        assert told in reason
    assert load_model(tmp_path / "model").lm.config == load_model(tmp_path / "best").lm.config

    measured = scores(falling)
    assert train(tmp_path, Judges(every=1, patience=3), steps=6).trainer.global_step == 4
    assert not measured and "stopped at step 4" in capsys.readouterr().out
    assert train(tmp_path, Judges(every=1, patience=0), steps=6).trainer.global_step == 6


def history(*points: tuple[float | None, float | None]) -> list[Judgement]:
    return [Judgement(10 * number, score, reward) for number, (score, reward) in enumerate(points)]


@pytest.mark.parametrize(
    ("points", "stops"),
    [
        ([(0.5, None), (0.4, 0.1), (0.4, 0.2)], True),  # the first reward stands for the one before it
        ([(0.5, None), (0.4, 0.2), (0.4, 0.2)], False),  # the reward did not rise
        ([(0.5, 0.1), (0.46, 0.2), (0.4, 0.3)], False),  # one is within the drop
        ([(0.5, 0.1), (0.4, 0.2)], False),  # one is not two
        ([(0.3, 0.1), (0.4, 0.2), (0.5, 0.3)], False),
        ([(0.5, None), (0.4, None), (0.4, None)], False),
        ([(None, 0.1), (None, 0.2), (None, 0.3)], False),
        ([], False),
    ],
)
def test_when_a_run_stops(points, stops):
    assert bool(why_stop(history(*points), patience=2, drop=0.05)) is stops
    assert not why_stop(history(*points), patience=0, drop=0.05)


def test_the_score_is_of_what_is_trained():
    figures = {"writing/a/word": 0.2, "writing/b/word": 0.4, "reading/word": 0.9, "naming": 1.0}
    assert score_of(figures, {"write"}) == pytest.approx(0.3)
    assert score_of(figures, {"write", "read"}) == pytest.approx(0.5)
    assert score_of({"naming": 1.0}, {"write", "read"}) is None


def test_what_cannot_be_judged_is_said_in_a_line(small, monkeypatch, train, tmp_path, capsys):
    def cannot(*_: Any) -> Any:
        raise ValueError("cannot write 'cat': no such letter")

    monkeypatch.setattr("earlyfusion.train.rl.held_out.evaluate_writing", cannot)
    train(tmp_path / "letters", Judges(every=0), steps=1)
    printed = capsys.readouterr().out
    assert printed.count("writing is not judged: cannot write 'cat'") == 1  # once, not at every measurement
    assert "judge/reading/word" in read_metrics(tmp_path / "letters")

    monkeypatch.setattr(judges, "readers", lambda _: [])
    train(tmp_path / "engines", Judges(every=0), steps=1)
    assert "earlyfusion[ocr]" in capsys.readouterr().out
    assert "judge/reading/word" in read_metrics(tmp_path / "engines")

    def missing(*_: Any) -> Any:
        raise ImportError("pip install 'earlyfusion[demo]'")

    monkeypatch.setattr(judges, "held_out", missing)
    train(tmp_path / "demo", Judges(every=0), steps=1)
    assert "nothing is judged: pip install 'earlyfusion[demo]'" in capsys.readouterr().out
    assert not any(name.startswith("judge/") for name in read_metrics(tmp_path / "demo"))


def test_options_that_cannot_be_are_refused(train, tmp_path):
    with pytest.raises(ValueError, match="nope"):
        train(tmp_path, Judges(engines=["nope"]), steps=1)
    for name in ("every", "words", "strings", "read", "names", "patience"):
        options: Any = {name: -1}
        with pytest.raises(ValueError, match=f"judges.{name} is -1"):
            Judges(**options)
    with pytest.raises(ValueError, match=r"judges.drop is 5"):
        Judges(drop=5)


def test_the_numbers_of_texts_and_images_are_those_asked_for(monkeypatch, shades, photo):
    module = "earlyfusion.train.rl.held_out"
    things = [Item(photo, f"{kind} {n}", kind=kind) for n in range(3) for kind in (KNOWN, HELD_OUT)]
    monkeypatch.setattr(f"{module}.word_suite", lambda _, heights: shades)
    monkeypatch.setattr(f"{module}.naming_items", lambda _: things)
    held = held_out(3, 1, 5, 2, 4, bits=False)
    assert [thing.name for thing in held.things] == [thing.name for thing in demo_concepts().train[:4]]
    assert held.texts == [Word(text, "word") for text in ("red", "green", "bird")] + [Word("xq", "random")]
    assert held.images == shades[:5] and not held.documents
    assert len(held.pictures) == 2 and all(item.kind == KNOWN for item in held.pictures)
