"""Training of the image tokenizer: its stages, its checkpoints, and a run that is stopped and goes on."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.train.data import ImageData
from earlyfusion.train.fit import fit_image_tokenizer
from earlyfusion.train.image_tokenizer import ImageTokenizerTraining, psnr
from earlyfusion.train.logs import read_metrics
from earlyfusion.train.schedule import warmup_stable_decay

CONFIG = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=16, codebook_dim=4)
STEPS, AUTOENCODER = 24, 8


class Watch(Callback):
    """Remembers every step, and stops the run at one of them as Ctrl+C does."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.steps = stop, []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        learning_rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.steps.append((trainer.global_step, float(outputs["loss"]), float(batch.sum()), learning_rate))
        if trainer.global_step == self.stop:
            raise KeyboardInterrupt


def training(**changes: Any) -> ImageTokenizerTraining:
    torch.manual_seed(0)
    settings = {"lr": 2e-3, "max_steps": STEPS, "warmup_steps": 3, "autoencoder_steps": AUTOENCODER}
    return ImageTokenizerTraining(CONFIG, **{**settings, "kmeans_latents": 256, **changes})


def train(images: Path, run: Path, *callbacks: Callback, module: Any = None, **options: Any) -> Path:
    data = ImageData(str(images), factor=8, batch_pixels=2048, validation_share=0.2)
    options = {"log_every": 4, "validate_every": 8, "checkpoint_steps": 5, **options}
    module = module or training()
    return fit_image_tokenizer(
        module, data, run, callbacks=callbacks, progress=False, tensorboard=False, **options
    )


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, image_folder: Path):
    straight = Watch()
    train(image_folder, tmp_path / "straight", straight)
    seen: dict[int, tuple] = {}
    for stop in (7, 14, None):  # before and after the codebook is made
        watch = Watch(stop)
        try:
            train(image_folder, tmp_path / "stopped", watch)
        except KeyboardInterrupt:
            assert stop
        assert watch.steps[0][0] == {7: 1, 14: 6, None: 11}[stop]
        seen |= {step[0]: step for step in watch.steps}
    assert [seen[n] for n in range(1, STEPS + 1)] == straight.steps
    assert read_metrics(tmp_path / "stopped") == read_metrics(tmp_path / "straight")
    weights = [ImageTokenizer.load(tmp_path / n / "model").state_dict() for n in ("straight", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_a_run_writes(tmp_path: Path, image_folder: Path):
    folder = train(image_folder, tmp_path)
    assert folder == tmp_path / "model"
    assert ImageTokenizer.load(folder).config == CONFIG
    curves = read_metrics(tmp_path)
    assert [step for step, _ in curves["train/loss"]] == [3, 7, 11, 15, 19, 23]
    assert [step for step, _ in curves["train/codebook_usage"]] == [11, 15, 19, 23]
    assert [step for step, _ in curves["validation/psnr"]] == [7, 15, 23]
    assert len(curves["validation/codebook_perplexity"]) == 2  # none as long as there is no codebook
    assert curves["train/l1"][-1][1] < curves["train/l1"][0][1]
    with (tmp_path / "metrics.csv").open() as file:
        assert next(csv.reader(file))[0] == "step"


def test_a_finished_run_returns_at_once_and_another_setting_is_refused(tmp_path: Path, image_folder: Path):
    train(image_folder, tmp_path)
    watch = Watch()
    train(image_folder, tmp_path, watch)
    assert watch.steps == []
    with pytest.raises(ValueError, match=r"trained with lr=0.002, now it is 0.5: start a new run"):
        train(image_folder, tmp_path, module=training(lr=0.5))
    with pytest.raises(
        ValueError, match=r"at step 24, where the learning rate of its 24 steps already falls"
    ):
        train(image_folder, tmp_path, module=training(max_steps=48))
    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"last.ckpt is no checkpoint of a training"):
        train(image_folder, tmp_path)


def test_before_the_decay_more_steps_may_be_asked_for(tmp_path: Path, image_folder: Path):
    with pytest.raises(KeyboardInterrupt):
        train(image_folder, tmp_path, Watch(6))
    watch = Watch()
    train(image_folder, tmp_path, watch, module=training(max_steps=30))
    assert (watch.steps[0][0], watch.steps[-1][0]) == (6, 30)


def test_checkpoints_hold_plain_values(tmp_path: Path, image_folder: Path):
    train(image_folder, tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == STEPS
    assert checkpoint["hyper_parameters"]["config"]["codebook_size"] == 16
    loaded = ImageTokenizerTraining.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.config == CONFIG
    assert loaded.codebook_ready
    expected = ImageTokenizer.load(tmp_path / "model").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.net.state_dict().items())


def test_the_codebook_is_made_once_after_the_autoencoder(tmp_path: Path, image_folder: Path):
    made: list[int] = []

    class Counting(ImageTokenizerTraining):
        def _initialise_codebook(self) -> None:
            made.append(self.global_step)
            super()._initialise_codebook()

    module = Counting(CONFIG, max_steps=STEPS, autoencoder_steps=AUTOENCODER, kmeans_latents=256)
    train(image_folder, tmp_path, module=module)
    assert made == [AUTOENCODER]


def test_a_run_may_begin_with_given_weights(tmp_path: Path, image_folder: Path):
    folder = train(image_folder, tmp_path / "first")
    module = training(init_from=str(folder), autoencoder_steps=0)
    before = module.net.codebook.clone()
    assert torch.equal(before, ImageTokenizer.load(folder).codebook)
    watch = Watch()
    train(image_folder, tmp_path / "second", watch, module=module)
    assert watch.steps[0][0] == 1  # a fresh optimiser
    again = training(init_from=str(folder))
    assert again.codebook_ready
    other = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=32, codebook_dim=4)
    with pytest.raises(ValueError, match="has config.codebook_size=16, not 32"):
        ImageTokenizerTraining(other, init_from=str(folder))


def test_learning_rate():
    factors = [warmup_stable_decay(step, 100, 10, 0.4) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:61] == [1.0] * 52
    assert factors[-1] == pytest.approx(1 / 40)
    module = training(quantised_lr=1e-3)
    rates = [2e-3 * module._lr_factor(step) for step in range(STEPS)]
    assert rates[2] == pytest.approx(2e-3)
    assert rates[AUTOENCODER] == pytest.approx(1e-3 / 3)  # warm-up again
    assert rates[AUTOENCODER + 3] == pytest.approx(1e-3)


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="lr must be positive, got 0"):
        training(lr=0)
    with pytest.raises(ValueError, match="decay_fraction must lie between 0 and 1, got 2"):
        training(decay_fraction=2)
    with pytest.raises(ValueError, match="kmeans_latents must reach codebook_size"):
        training(kmeans_latents=3)


def test_data_of_another_factor_is_refused(tmp_path: Path, image_folder: Path):
    with pytest.raises(ValueError, match="the data's factor is 4, the image tokenizer's 8"):
        fit_image_tokenizer(training(), ImageData(str(image_folder), factor=4), tmp_path)


def test_psnr_of_known_errors():
    assert float(psnr(torch.tensor(4.0))) == 0
    assert float(psnr(torch.tensor(0.04))) == pytest.approx(20)


def test_too_few_images_for_the_codebook_are_noticed_before_the_training(tmp_path: Path, image_folder: Path):
    large = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=500, codebook_dim=4)
    module = ImageTokenizerTraining(large, max_steps=STEPS, kmeans_latents=500)
    watch = Watch()
    with pytest.raises(ValueError, match="codebook_size is 500, but all training images together have only"):
        train(image_folder, tmp_path, watch, module=module)
    assert watch.steps == []
