"""Averaged weights: the formula, who sees them, and a run that is stopped and goes on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.train.image.data import ImageData
from earlyfusion.train.image.ema import WeightEMA, averaged, ema_decay
from earlyfusion.train.image.module import ImageTokenizerTraining
from earlyfusion.train.image.settings import ImageTokenizerSettings
from earlyfusion.train.loop.fit import fit

CONFIG = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=16, codebook_dim=4)
STEPS, START = 18, 6


class Watch(Callback):
    """Remembers the weights after every step and what validation sees; stops as Ctrl+C does."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.raw: dict[int, list[Tensor]] = {}
        self.validated: dict[int, list[Tensor]] = {}
        self.began: list[Tensor] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.began = weights(pl_module.net)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        self.raw[trainer.global_step] = weights(pl_module.net)
        if trainer.global_step == self.stop:
            raise KeyboardInterrupt

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.validated[trainer.global_step] = weights(pl_module.net)


class Tiny(nn.Module):
    """Stands for a training: a network with one weight and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.BatchNorm1d(1)


def weights(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def train(images: Path, run: Path, *callbacks: Callback, max_steps: int = STEPS) -> ImageTokenizerTraining:
    torch.manual_seed(0)
    module = ImageTokenizerTraining(
        ImageTokenizerSettings(
            config=CONFIG,
            lr=2e-3,
            max_steps=max_steps,
            warmup_steps=3,
            autoencoder_steps=START,
            kmeans_latents=256,
            decay_fraction=0.0,
        )
    )
    data = ImageData(str(images), factor=8, batch_pixels=2048, validation_share=0.2)
    options: dict[str, Any] = {"log_every": 3, "validate_every": 3, "checkpoint_steps": 4}
    fit(module, data, run, callbacks=callbacks, progress=False, tensorboard=False, **options)
    return module


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, image_folder: Path
) -> tuple[Path, Watch, list[Tensor]]:
    """A whole run with an average: its folder, which tests leave as it is, its steps and its last weights."""
    run, watch = tmp_path_factory.mktemp("straight") / "run", Watch()
    module = train(image_folder, run, WeightEMA(0.8, START), watch)
    return run, watch, weights(module.net)


def plain_average(raw: dict[int, list[Tensor]], start: int, end: int, decay: float) -> list[Tensor]:
    """The definition, in double precision."""
    mean = [w.double() for w in raw[start + 1]]
    for count, step in enumerate(range(start + 2, end + 1), 1):
        d = min(decay, (1 + count) / (10 + count))
        mean = [d * m + (1 - d) * w.double() for m, w in zip(mean, raw[step])]
    return mean


def test_the_decay_warms_up():
    assert [ema_decay(n, 0.5) for n in (1, 2)] == [2 / 11, 3 / 12]
    assert ema_decay(100, 0.5) == 0.5
    assert ema_decay(10**6, 0.9999) == 0.9999


def test_only_parameters_are_averaged_and_contexts_nest():
    training, ema = Tiny(), WeightEMA(0.5)
    weight, buffer = training.net.weight, training.net.running_mean
    assert buffer is not None
    for value in (0.0, 11.0):
        weight.data.fill_(value)
        buffer.fill_(value)
        ema.update(training)
    with ema.averaged(training):
        assert weight.item() == pytest.approx(9.0)  # 0 * 2/11 + 11 * 9/11
        with ema.averaged(training):
            assert weight.item() == pytest.approx(9.0)
        assert weight.item() == pytest.approx(9.0)
        assert float(buffer) == 11.0
    assert weight.item() == 11.0
    with pytest.raises(RuntimeError, match="inside"), ema.averaged(training):
        raise RuntimeError("inside")
    assert weight.item() == 11.0


def test_bfloat16_weights_are_averaged_in_float32():
    training, ema = Tiny().bfloat16(), WeightEMA(0.999)
    ema.update(training)  # 1
    ema._count = 10**6  # the warm-up of the decay is over
    for _ in range(100):  # each moves the average by less than bfloat16 resolves
        training.net.weight.data.fill_(2.0)
        ema.update(training)
    with ema.averaged(training):
        assert training.net.weight.item() == pytest.approx(2 - 0.999**100, abs=0.01)
    assert training.net.weight.dtype == torch.bfloat16


def test_validation_and_the_end_see_the_average_and_training_goes_on_raw(
    tmp_path: Path, image_folder: Path, straight
):
    plain, (_, watch, end) = Watch(), straight
    train(image_folder, tmp_path / "plain", plain)
    assert all(equal(watch.raw[step], plain.raw[step]) for step in range(1, STEPS + 1))
    for step in (3, 6):  # no average yet
        assert equal(watch.validated[step], watch.raw[step])
    for step in (9, 12, 15, 18):
        expected = plain_average(watch.raw, START, step, 0.8)
        for seen, wanted, raw in zip(watch.validated[step], expected, watch.raw[step]):
            torch.testing.assert_close(seen.double(), wanted, rtol=1e-5, atol=1e-6)
            assert not torch.equal(seen, raw)
    assert equal(end, watch.validated[STEPS])


def test_a_checkpoint_loads_as_the_average(straight):
    run, _, end = straight
    loaded = ImageTokenizerTraining.load_from_checkpoint(run / "last.ckpt").net
    folder = ImageTokenizer.load(run / "model")
    assert equal(weights(loaded), end)
    assert loaded.state_dict().keys() == folder.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, folder.state_dict()[name]), name


@pytest.mark.parametrize("stop", [5, 11])  # before and after averaging begins
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    tmp_path: Path, image_folder: Path, stop: int, straight
):
    first, second, (_, whole, end) = Watch(stop), Watch(), straight
    with pytest.raises(KeyboardInterrupt):
        train(image_folder, tmp_path / "stopped", WeightEMA(0.8, START), first)
    again = train(image_folder, tmp_path / "stopped", WeightEMA(0.8, START), second)
    seen = first.raw | second.raw
    assert all(equal(seen[step], whole.raw[step]) for step in range(1, STEPS + 1))
    assert all(equal(second.validated[step], whole.validated[step]) for step in second.validated)
    assert equal(weights(again.net), end)


def test_a_finished_run_goes_on_from_its_raw_weights(tmp_path: Path, image_folder: Path, straight):
    second, (run, first, _) = Watch(), straight
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    module = train(image_folder, tmp_path, WeightEMA(0.8, START), second, max_steps=STEPS + 3)
    assert (min(second.raw), max(second.raw)) == (STEPS + 1, STEPS + 3)
    assert equal(second.began, first.raw[STEPS])
    expected = plain_average(first.raw | second.raw, START, STEPS + 3, 0.8)
    for got, wanted in zip(weights(module.net), expected):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", [False, True])
def test_callbacks_look_at_the_average_through_the_context(tmp_path: Path, image_folder: Path, first: bool):
    """Also those that stand before the average, whose step it has not seen yet; and each step counts once."""
    ema, seen = WeightEMA(0.8, START), {}

    class Look(Watch):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            super().on_train_batch_end(trainer, pl_module, *args)
            with averaged(trainer, pl_module), averaged(trainer, pl_module):
                seen[trainer.global_step] = weights(pl_module.net)
            assert equal(weights(pl_module.net), self.raw[trainer.global_step])

    look = Look()
    train(image_folder, tmp_path, *((look, ema) if first else (ema, look)))
    assert equal(seen[START], look.raw[START])
    for step in (9, 12, 15, 18):
        assert equal(seen[step], look.validated[step])
        expected = plain_average(look.raw, START, step, 0.8)
        for value, wanted in zip(seen[step], expected):
            torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_that_is_written_before_the_average_is_asked_holds_its_step(
    tmp_path: Path, image_folder: Path
):
    class Save(Watch):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            super().on_train_batch_end(trainer, pl_module, *args)
            if trainer.global_step == 9:
                trainer.save_checkpoint(tmp_path / "mine.ckpt")

    save = Save()
    train(image_folder, tmp_path / "run", save, WeightEMA(0.8, START))
    checkpoint = torch.load(tmp_path / "mine.ckpt", weights_only=True)
    assert (checkpoint["ema"]["step"], checkpoint["ema"]["count"]) == (9, 9 - START)
    assert equal(list(checkpoint["ema"]["raw"].values()), save.raw[9])
    averages = [checkpoint["state_dict"][f"net.{name}"] for name in checkpoint["ema"]["raw"]]
    assert equal(averages, save.validated[9])


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="decay.*1"):
        WeightEMA(1.0)
    with pytest.raises(ValueError, match="start.*-1"):
        WeightEMA(0.9, -1)
