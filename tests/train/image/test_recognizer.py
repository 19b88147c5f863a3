"""The recognizer of the text-aware loss: reading, strips from boxes, training, a run that goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from earlyfusion.data.strips import Strips, TextBatch
from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.train.image.data import TextBoxData
from earlyfusion.train.image.recognizer import BLANK, Recognizer, RecognizerConfig, degrade
from earlyfusion.train.image.recognizer_training import RecognizerSettings, RecognizerTraining, ctc_loss
from earlyfusion.train.loop.fit import fit

CONFIG = RecognizerConfig(channels=(8, 12, 16), characters="abcde")
STEPS = 18


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory, text_page, box_features: Features) -> Path:
    """A folder as `text-images` writes it: train/ and validation/, pages of short words."""
    folder = tmp_path_factory.mktemp("texts")
    words = ["abc", "deb", "cab", "ace", "bead", "dad", "ebb", "cede"]
    for part, count in (("train", 8), ("validation", 2)):
        pages = [text_page([words[(i + j) % 8] for j in range(3)]) for i in range(count)]
        rows = {"image": [image for image, _ in pages], "objects": [objects for _, objects in pages]}
        Dataset.from_dict(rows, box_features).save_to_disk(str(folder / part))
    return folder


def network(config: RecognizerConfig = CONFIG) -> Recognizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Recognizer(config).eval()


# the network


@pytest.mark.parametrize("width", [4, 32, 100])
def test_shapes(width: int) -> None:
    net = network()
    strips = torch.rand(3, 1, 32, width) * 2 - 1
    output = net(strips)
    assert output.shape == (width // 4, 3, 6)
    torch.testing.assert_close(output.exp().sum(-1), torch.ones(width // 4, 3))
    first, second = net.features(torch.rand(2, 3, 24, 40) * 2 - 1)
    assert first.shape == (2, 8, 6, 10) and second.shape == (2, 12, 3, 10)


def test_features_are_those_of_the_gray_image() -> None:
    net = network()
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    gray = image.mean(1, keepdim=True)
    for found, expected in zip(net.features(image), net.features(gray.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(net.features(image)[1], net.stages[1](net.stages[0](gray)))


def test_reading_leaves_out_blanks_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    steps = [[BLANK, 1, 1, BLANK, 1, 2, 2, BLANK], [3, 3, 3, 3, 4, 5, BLANK, 5], [BLANK] * 8]
    scores = torch.nn.functional.one_hot(torch.tensor(steps).T, 6).float()  # (8, 3, 6)
    monkeypatch.setattr(Recognizer, "forward", lambda self, strips: scores)
    assert net.read(torch.zeros(3, 1, 32, 32)) == ["aab", "cdee", ""]


def test_classes_are_those_of_known_characters() -> None:
    net = network()
    assert net.classes("abe") == [1, 2, 5]
    assert net.classes("a-Zé d") == [1, 4] and net.classes("") == []
    every = Recognizer(RecognizerConfig(channels=(8, 8, 8)))
    assert every.classes(" ~") == [1, 95] and every.head.out_channels == 96


def test_a_folder_gives_the_same_network_back(tmp_path: Path) -> None:
    net = network()
    net.train()(torch.rand(4, 1, 32, 64))  # so that BatchNorm's statistics are no round numbers
    net.eval().save(tmp_path / "recognizer")
    loaded = Recognizer.load(tmp_path / "recognizer")
    assert loaded.config == CONFIG and not loaded.training
    strips = torch.rand(2, 1, 32, 64)
    assert torch.equal(loaded(strips), net(strips)) and loaded.read(strips) == net.read(strips)
    config = tmp_path / "recognizer" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "kind": "image_tokenizer"}))
    with pytest.raises(ValueError, match="kind 'image_tokenizer'.*'recognizer'"):
        Recognizer.load(tmp_path / "recognizer")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        Recognizer.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": (8, 8)}, r"channels.*\(8, 8\)"),
        ({"channels": (8, 0, 8)}, r"channels is 0\b"),
        ({"characters": ""}, "characters.*''"),
        ({"characters": "aba"}, "characters.*'aba'"),
    ],
)
def test_bad_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecognizerConfig(**fields)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_degraded_strips(count: int) -> None:
    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    strips = (torch.rand(count, 1, 32, 96, generator=generator(0)) > 0.5).float() * 2 - 1
    before = strips.clone()
    first, again, other = (degrade(strips, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(strips, before) and first.shape == strips.shape and first.isfinite().all()
    assert torch.equal(first, again) and not torch.equal(first, other)
    if count == 40:
        kept = (first == before).flatten(1).all(1).float().mean()
        inverted = ((first * before).flatten(1).mean(1) < 0).float().mean()
        assert 0.1 < kept < 0.5 and 0.05 < inverted < 0.45


def test_data_are_those_of_the_parts(text_folder: Path) -> None:
    data = TextBoxData(str(text_folder), batch_size=5)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = list(loader)
    assert sum(len(batch.texts) for batch in batches) == 24
    assert all(
        isinstance(batch, TextBatch) and len(batch.strips) == len(batch.texts) <= 5 for batch in batches
    )
    again = list(loader)
    assert [b.texts for b in batches] != [b.texts for b in again]
    assert sorted(t for b in batches for t in b.texts) == sorted(t for b in again for t in b.texts)
    assert sum(len(batch.texts) for batch in data.val_dataloader()) == 6
    limited = TextBoxData(str(text_folder), limit=2)
    limited.setup("fit")
    assert sum(len(batch.texts) for batch in limited.train_dataloader()) == 6
    alone = TextBoxData(str(text_folder / "train"))
    alone.setup("fit")
    assert alone.val_dataloader() == []
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        TextBoxData(str(text_folder), batch_size=0)


# training


def training(**changes: Any) -> RecognizerTraining:
    torch.manual_seed(0)
    return RecognizerTraining(
        RecognizerSettings(config=CONFIG, **{"lr": 3e-3, "max_steps": STEPS, "warmup_steps": 3, **changes})
    )


class Watch(Callback):
    """Remembers every step, and stops the run at one of them as Ctrl+C does."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.steps = stop, []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        self.steps.append((trainer.global_step, float(outputs["loss"]), batch.texts))
        if trainer.global_step == self.stop:
            raise KeyboardInterrupt


def train(source: Path, run: Path, *callbacks: Callback, module: Any = None, **options: Any) -> Path:
    module = module or training()
    data: Any = TextBoxData(str(source), batch_size=8)
    options = {"log_every": 5, "validate_every": 9, "checkpoint_steps": 5, **options}
    options |= {"progress": False, "tensorboard": False, "callbacks": callbacks}
    return fit(module, data, run, **options)


def test_it_learns_to_read(tmp_path: Path, text_folder: Path) -> None:
    steps = 150
    module = training(lr=1e-2, max_steps=steps, degraded=False)
    folder = train(text_folder, tmp_path, module=module, checkpoint_steps=steps, validate_every=steps)
    losses = [value for _, value in read_metrics(tmp_path)["train/loss"]]
    assert losses[-1] < 0.2 * losses[0]
    curves = read_metrics(tmp_path)
    assert curves["validation/cer"][-1][1] < 0.2 and curves["validation/exact"][-1][1] > 0.6
    assert {"train/lr", "train/grad_norm", "validation/loss"} <= set(curves)

    loaded = Recognizer.load(folder)
    strips = Strips.read(str(text_folder), "validation", 256)
    right = 0
    for group in strips.groups.values():
        batch = strips.load(group)
        right += sum(map(str.__eq__, loaded.read(batch.strips), batch.texts))
    assert right >= 4  # of 6


@pytest.mark.parametrize("stop", [7, 10, 14])
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(stop: int, tmp_path: Path, text_folder: Path):
    straight, first, second = Watch(), Watch(stop), Watch()
    train(text_folder, tmp_path / "straight", straight)
    with pytest.raises(KeyboardInterrupt):
        train(text_folder, tmp_path / "stopped", first)
    train(text_folder, tmp_path / "stopped", second)
    begun = second.steps[0][0]
    assert begun == {7: 6, 10: 6, 14: 11}[stop]
    assert first.steps[: begun - 1] + second.steps == straight.steps
    assert read_metrics(tmp_path / "stopped") == read_metrics(tmp_path / "straight")
    weights = [Recognizer.load(tmp_path / name / "model").state_dict() for name in ("straight", "stopped")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_checkpoints_and_given_weights(tmp_path: Path, text_folder: Path) -> None:
    folder = train(text_folder, tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["config"]["characters"] == "abcde"
    loaded = RecognizerTraining.load_from_checkpoint(tmp_path / "last.ckpt")
    expected = Recognizer.load(folder).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.net.state_dict().items())
    again = training(init_from=str(folder))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.net.state_dict().items())
    with pytest.raises(ValueError, match="config.characters=abcde.*abc"):
        RecognizerTraining(
            RecognizerSettings(
                config=RecognizerConfig(channels=CONFIG.channels, characters="abc"), init_from=str(folder)
            )
        )
    with pytest.raises(ValueError, match="lr=0.003.*0.5"):
        train(text_folder, tmp_path, module=training(lr=0.5))


def loss(texts: list[str], steps: int) -> Tensor:
    module = training()
    scores = torch.randn(steps, len(texts), 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = ctc_loss(module.net, scores.log_softmax(-1), texts)
    value.backward()
    assert scores.grad is not None and scores.grad.isfinite().all()
    return value.detach()


def test_texts_that_cannot_be_aligned_count_nothing() -> None:
    """Longer than the strip has steps, no known character at all: neither inf nor NaN."""
    assert loss(["abcdeabcde"], steps=4) == 0
    assert loss(["aaa"], steps=4) == 0  # a repeat needs a blank between
    assert loss(["aaa"], steps=5) > 0
    mixed, alone = loss(["abc", "abcdeabcde"], steps=8), loss(["abc"], steps=8)
    assert 0 < mixed < alone and mixed.isfinite()
    for texts in (["XYZ"], ["", "XYZ"], ["abc", "XYZ"]):
        assert loss(texts, steps=8).isfinite() and loss(texts, steps=8) > 0


def test_the_loss_of_a_text_by_hand() -> None:
    """ "ab" in three steps: the sum over every alignment, by length."""
    scores = torch.randn(3, 1, 6, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    paths = [(1, 1, 2), (1, 2, 2), (0, 1, 2), (1, 0, 2), (1, 2, 0)]
    total = sum(torch.stack([scores[t, 0, c] for t, c in enumerate(path)]).sum().exp() for path in paths)
    assert float(ctc_loss(training().net, scores, ["ab"])) == pytest.approx(
        -float(torch.as_tensor(total).log()) / 2
    )
