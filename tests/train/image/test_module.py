"""Training of the image tokenizer: its stages, its checkpoints, and a run that is stopped and goes on."""

import csv
import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from earlyfusion.data.images import ImageBatch
from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.train.image.adversary import AdversaryConfig
from earlyfusion.train.image.data import ImageData
from earlyfusion.train.image.losses import psnr
from earlyfusion.train.image.module import ImageTokenizerTraining
from earlyfusion.train.image.recognizer import Recognizer, RecognizerConfig
from earlyfusion.train.image.settings import ImageTokenizerSettings
from earlyfusion.train.loop.fit import fit
from earlyfusion.train.loop.schedule import warmup_stable_decay

CONFIG = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=16, codebook_dim=4)
STEPS, AUTOENCODER = 24, 8


class Watch(Callback):
    """Remembers every step, and stops the run at one of them as Ctrl+C does."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.steps = stop, []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int):
        learning_rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.steps.append(
            (trainer.global_step, float(outputs["loss"]), float(batch.images.sum()), learning_rate)
        )
        if trainer.global_step == self.stop:
            raise KeyboardInterrupt


def settings_of(**changes: Any) -> ImageTokenizerSettings:
    settings = {"lr": 2e-3, "max_steps": STEPS, "warmup_steps": 3, "autoencoder_steps": AUTOENCODER}
    settings |= {"config": CONFIG, "kmeans_latents": 256, "text_weight": 0.0}
    return ImageTokenizerSettings(**{**settings, **changes})


def training(**changes: Any) -> ImageTokenizerTraining:
    torch.manual_seed(0)
    return ImageTokenizerTraining(settings_of(**changes))


def train(images: Path, run: Path, *callbacks: Callback, module: Any = None, **options: Any) -> Path:
    data = ImageData(str(images), factor=8, batch_pixels=2048, validation_share=0.2)
    options = {"log_every": 4, "validate_every": 8, "checkpoint_steps": 5, **options}
    module = module or training()
    return fit(module, data, run, callbacks=callbacks, progress=False, tensorboard=False, **options)


class Straight(NamedTuple):
    run: Path
    steps: list[tuple]
    made: list[int]
    """The steps at which a codebook was made."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Straight:
    """A run of ``training()`` from its beginning to its end. Tests leave its folder as it is."""
    run, watch, made = tmp_path_factory.mktemp("straight") / "run", Watch(), []

    class Counting(ImageTokenizerTraining):
        def _initialize_codebook(self) -> None:
            made.append(self.global_step)
            super()._initialize_codebook()

    torch.manual_seed(0)
    train(image_folder, run, watch, module=Counting(settings_of()))
    return Straight(run, watch.steps, made)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained recognizer."""
    folder = tmp_path_factory.mktemp("recognizer") / "model"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Recognizer(RecognizerConfig(channels=(8, 8, 8))).save(folder)
    return folder


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    tmp_path: Path, image_folder: Path, straight: Straight
):
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
    assert read_metrics(tmp_path / "stopped") == read_metrics(straight.run)
    same_weights(straight.run, tmp_path / "stopped")


def same_weights(one: Path, other: Path) -> None:
    weights = [ImageTokenizer.load(run / "model").state_dict() for run in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("stop", [12, 17])  # before and after the adversary begins
def test_a_run_with_every_term_goes_on_too(stop: int, tmp_path: Path, text_images: Path, recognizer: Path):
    """Adversary, average of the weights, noise: what they need is in the checkpoint."""
    adversary = AdversaryConfig(weight=0.5, start=12, warmup=4, channels=8, layers=1)
    settings = {"edge_weight": 0.5, "chroma_weight": 0.5, "text_weight": 0.3, "ema_decay": 0.9}
    settings |= {"recognizer": str(recognizer), "adversary": adversary, "latent_noise": 0.1}
    straight, first, second = Watch(), Watch(stop), Watch()
    modules = [training(**settings) for _ in range(3)]
    train(text_images, tmp_path / "straight", straight, module=modules[0])
    with pytest.raises(KeyboardInterrupt):
        train(text_images, tmp_path / "stopped", first, module=modules[1])
    train(text_images, tmp_path / "stopped", second, module=modules[2])
    begun = second.steps[0][0]
    assert begun == stop // 5 * 5 + 1
    assert first.steps[: begun - 1] + second.steps == straight.steps
    assert read_metrics(tmp_path / "stopped") == read_metrics(tmp_path / "straight")
    same_weights(tmp_path / "straight", tmp_path / "stopped")
    discriminators = [module.adversary.network.state_dict() for module in (modules[0], modules[2])]
    assert all(torch.equal(tensor, discriminators[1][name]) for name, tensor in discriminators[0].items())
    untrained = training(**settings).adversary.network.state_dict()
    assert not all(torch.equal(tensor, untrained[name]) for name, tensor in discriminators[0].items())

    curves = read_metrics(tmp_path / "straight")
    terms = ("l1", "mse", "chroma", "edge", "text", "commitment")
    assert {f"train/{name}" for name in terms} <= set(curves)
    assert {f"validation/{name}" for name in ("l1", "mse", "chroma", "edge", "text", "psnr")} <= set(curves)
    figures = ("d_loss", "g_loss", "logits_real", "logits_fake", "adaptive_weight")
    for name in figures:  # from step 12 on, counted from 0
        assert [step for step, _ in curves[f"train/adversary_{name}"]] == [15, 19, 23]
    checkpoint = torch.load(tmp_path / "stopped/last.ckpt", weights_only=True)
    assert set(checkpoint["adversary"]) == {"network", "optimizer"}
    assert all(name.startswith("net.") for name in checkpoint["state_dict"])  # no recognizer, no adversary


def test_without_an_adversary_a_discriminator_in_the_checkpoint_is_left_out(
    tmp_path: Path, image_folder: Path, straight: Straight
):
    with pytest.raises(KeyboardInterrupt):
        train(image_folder, tmp_path / "stopped", Watch(12))
    file = tmp_path / "stopped/last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    assert "adversary" not in checkpoint
    checkpoint["adversary"] = {"network": {"main.0.weight": torch.zeros(8, 3, 4, 4)}, "optimizer": {}}
    torch.save(checkpoint, file)
    module = training()
    train(image_folder, tmp_path / "stopped", module=module)
    assert not hasattr(module.adversary, "network")
    same_weights(straight.run, tmp_path / "stopped")
    assert "adversary" not in torch.load(file, weights_only=True)


def test_what_a_run_writes(straight: Straight):
    assert ImageTokenizer.load(straight.run / "model").config == CONFIG
    assert straight.made == [AUTOENCODER]  # once, after the autoencoder
    curves = read_metrics(straight.run)
    assert [step for step, _ in curves["train/loss"]] == [3, 7, 11, 15, 19, 23]
    assert [step for step, _ in curves["train/codebook_usage"]] == [11, 15, 19, 23]
    assert [step for step, _ in curves["validation/psnr"]] == [7, 15, 23]
    assert len(curves["validation/codebook_perplexity"]) == 2  # none as long as there is no codebook
    assert curves["train/l1"][-1][1] < curves["train/l1"][0][1]
    with (straight.run / "metrics.csv").open() as file:
        assert next(csv.reader(file))[0] == "step"


def test_a_finished_run_returns_at_once_and_another_setting_is_refused(
    tmp_path: Path, image_folder: Path, straight: Straight
):
    shutil.copytree(straight.run, tmp_path, dirs_exist_ok=True)
    watch = Watch()
    assert train(image_folder, tmp_path, watch) == tmp_path / "model"
    assert watch.steps == []
    with pytest.raises(ValueError, match=r"lr=0\.002.*0\.5"):
        train(image_folder, tmp_path, module=training(lr=0.5))
    with pytest.raises(ValueError, match="step 24.*max_steps=24.*48"):
        train(image_folder, tmp_path, module=training(max_steps=48))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.save({**checkpoint, "format": 3}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="last.ckpt.*format 3.* 1 or 2"):
        train(image_folder, tmp_path)
    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="last.ckpt is not a checkpoint"):
        train(image_folder, tmp_path)


def test_before_the_decay_more_steps_may_be_asked_for(tmp_path: Path, image_folder: Path):
    with pytest.raises(KeyboardInterrupt):
        train(image_folder, tmp_path, Watch(6))
    watch = Watch()
    train(image_folder, tmp_path, watch, module=training(max_steps=30))
    assert (watch.steps[0][0], watch.steps[-1][0]) == (6, 30)


def test_checkpoints_hold_plain_values(straight: Straight):
    checkpoint = torch.load(straight.run / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == STEPS and checkpoint["format"] == 2
    assert checkpoint["hyper_parameters"]["config"]["codebook_size"] == 16
    loaded = ImageTokenizerTraining.load_from_checkpoint(straight.run / "last.ckpt")
    assert loaded.config == CONFIG
    assert loaded.codebook_ready
    expected = ImageTokenizer.load(straight.run / "model").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.net.state_dict().items())


def test_a_run_may_begin_with_given_weights(tmp_path: Path, image_folder: Path, straight: Straight):
    folder = straight.run / "model"
    module = training(init_from=str(folder), autoencoder_steps=0)
    before = module.net.codebook.clone()
    assert torch.equal(before, ImageTokenizer.load(folder).codebook)
    watch = Watch()
    train(image_folder, tmp_path / "second", watch, module=module)
    assert watch.steps[0][0] == 1  # a fresh optimizer
    again = training(init_from=str(folder))
    assert again.codebook_ready
    other = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=32, codebook_dim=4)
    with pytest.raises(ValueError, match="config.codebook_size=16.*32"):
        ImageTokenizerTraining(ImageTokenizerSettings(config=other, init_from=str(folder)))


@pytest.mark.parametrize(
    "fields",
    [
        {"quantizer": "vq", "residual": 2},
        {"quantizer": "vq", "learnable_codebook": True},
        {"quantizer": "simvq", "groups": 2},
        {"quantizer": "fsq", "fsq_levels": (4, 4)},
        {"quantizer": "lfq"},
        {"quantizer": "ibq", "groups": 2},
    ],
    ids=lambda fields: fields["quantizer"],
)
def test_every_quantizer_trains(fields: dict[str, Any], tmp_path: Path, image_folder: Path):
    config = dataclasses.replace(CONFIG, **fields)
    folder = train(image_folder, tmp_path, module=training(config=config))
    curves = read_metrics(tmp_path)
    assert curves["train/mse"][-1][1] < 0.7 * curves["train/mse"][0][1]
    assert 0 < curves["validation/codebook_usage"][-1][1] <= 1
    assert 1 <= curves["validation/codebook_perplexity"][-1][1] <= 16
    assert ImageTokenizer.load(folder).config == config


def test_learning_rate():
    factors = [warmup_stable_decay(step, 100, 10, 0.4) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:61] == [1.0] * 52
    assert factors[-1] == pytest.approx(1 / 40)
    module = training(quantized_lr=1e-3)
    rates = [2e-3 * module.lr_factor(step) for step in range(STEPS)]
    assert rates[2] == pytest.approx(2e-3)
    assert rates[AUTOENCODER] == pytest.approx(1e-3 / 3)  # warm-up again
    assert rates[AUTOENCODER + 3] == pytest.approx(1e-3)


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="lr.*0"):
        training(lr=0)
    with pytest.raises(ValueError, match="decay_fraction.*2"):
        training(decay_fraction=2)
    with pytest.raises(ValueError, match="kmeans_latents.*3.*codebook_size.*16"):
        training(kmeans_latents=3)
    with pytest.raises(ValueError, match="latent_noise.*-0.1"):
        training(latent_noise=-0.1)
    late = AdversaryConfig(weight=0.5, start=AUTOENCODER - 1)
    with pytest.raises(ValueError, match="adversary.start.*7.*autoencoder_steps.*8"):
        training(adversary=late)
    with pytest.raises(ValueError, match="lpips_weight.*0.5.*lpips_backbone"):
        training(lpips_weight=0.5)
    with pytest.raises(FileNotFoundError, match=r"nowhere.config\.json"):
        training(text_weight=0.5, recognizer="nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        training(lpips_weight=0.5, lpips_backbone="nowhere.pth")


def batch(count: int = 2) -> ImageBatch:
    images = torch.rand(count, 3, 16, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return ImageBatch(images, torch.tensor([[0.0, 4, 0, 28, 16]]))


def test_only_terms_with_a_weight_are_computed(recognizer: Path, monkeypatch: pytest.MonkeyPatch):
    def forbidden(*_: Any) -> None:
        raise AssertionError("computed without a weight")

    for name in ("chroma", "edge", "text_distance"):
        monkeypatch.setattr(f"earlyfusion.train.image.losses.{name}", forbidden)
    terms = training().loss.terms(batch().images * 0.9, *batch())
    assert set(terms) == {"l1", "mse"}  # these two are always logged
    with pytest.raises(AssertionError, match="computed without"):
        training(edge_weight=0.1).loss.terms(batch().images, *batch())


def test_the_loss_is_the_weighted_sum_of_its_terms(recognizer: Path):
    weights = {"mse": 2.0, "chroma": 0.25, "edge": 3.0, "text": 0.7}
    settings: dict[str, Any] = {f"{name}_weight": value for name, value in weights.items()}
    weights["l1"] = 1.0
    module = training(**settings, recognizer=str(recognizer))
    module.codebook_ready = True
    values = batch()
    with torch.no_grad():
        module.net.initialize_codebook(module.net.latents(batch(64).images).movedim(1, -1).flatten(0, 2))
        output = module.net.eval()(values.images)
        terms = module.loss.terms(output.images, *values)
        assert set(terms) == set(weights) and all(value > 0 for value in terms.values())
        expected = sum(weights[name] * float(value) for name, value in terms.items())
        assert float(module.loss.weighted(terms)) == pytest.approx(expected)


def test_a_step_minimizes_the_terms_plus_the_commitment():
    """The quantizer's loss counts once, in value and gradient, as soon as there is a codebook."""
    config = dataclasses.replace(CONFIG, quantizer="simvq")  # its codebook changes by gradients alone
    module = training(config=config, edge_weight=0.5, latent_noise=0.0)
    module._trainer = SimpleNamespace(global_step=0)  # type: ignore[assignment]
    values, weight = batch(), next(module.net.encoder.parameters())
    for ready in (False, True):
        module.codebook_ready = ready
        if ready:
            latents = module.net.latents(batch(64).images).movedim(1, -1).flatten(0, 2)
            module.net.initialize_codebook(latents.detach())
        output = module.net(values.images, quantize=ready)
        expected = module.loss.weighted(module.loss.terms(output.images, *values))
        if ready:
            assert float(output.quantizer_loss.detach()) > 1e-3 * float(expected.detach())
            expected = expected + output.quantizer_loss
        (wanted,) = torch.autograd.grad(expected, weight)
        loss = module.training_step(values, 0)
        (found,) = torch.autograd.grad(loss, weight)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found, wanted)


def test_the_recognizer_stays_as_it_is(tmp_path: Path, text_images: Path, recognizer: Path):
    module = training(text_weight=1.0, recognizer=str(recognizer))
    network = module.loss.recognizer
    assert network is not None
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train(text_images, tmp_path, module=module)
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert not any(p is q for p in network.parameters() for q in module.parameters())
    assert read_metrics(tmp_path)["train/text"][-1][1] > 0


def test_the_recognizer_of_the_package_is_the_default():
    network = training(text_weight=0.4).loss.recognizer
    assert network is not None
    assert network.classes("a ~") and not network.training
    module = training(text_weight=0.4)
    far = module.loss.terms(-batch().images, *batch())["text"]
    near = module.loss.terms(batch().images * 0.9, *batch())["text"]
    assert near < 0.5 * far


def test_noise_is_for_the_warm_up_alone():
    module = training()
    images = batch().images
    with torch.no_grad():
        assert not torch.equal(
            module(images, quantize=False, noise=0.3).images, module(images, quantize=False).images
        )
        assert torch.equal(module.eval()(images, noise=0.3).images, module(images).images)


def test_data_of_another_factor_is_refused(tmp_path: Path, image_folder: Path):
    with pytest.raises(ValueError, match="factor.*4.*8"):
        fit(training(), ImageData(str(image_folder), factor=4), tmp_path)


def test_psnr_of_known_errors():
    assert float(psnr(torch.tensor(4.0))) == 0
    assert float(psnr(torch.tensor(0.04))) == pytest.approx(20)


def test_too_few_images_for_the_codebook_are_noticed_before_the_training(tmp_path: Path, image_folder: Path):
    large = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=500, codebook_dim=4)
    module = ImageTokenizerTraining(ImageTokenizerSettings(config=large, max_steps=STEPS, kmeans_latents=500))
    watch = Watch()
    with pytest.raises(ValueError, match="codebook_size.*500"):
        train(image_folder, tmp_path, watch, module=module)
    assert watch.steps == []


@pytest.mark.parametrize("quantizer", ["cosine", "simvq"])
def test_a_decoder_alone_is_trained_for_codes_that_stay(tmp_path: Path, image_folder: Path, quantizer: str):
    config = dataclasses.replace(CONFIG, quantizer=quantizer)
    steps = {"max_steps": 12}
    first = train(image_folder, tmp_path / "first", module=training(config=config, **steps))
    wider = dataclasses.replace(config, decoder_channels=(16, 24), decoder_res_blocks=2)
    for name, new in (("as it was", config), ("wider", wider)):
        again = training(config=new, init_from=str(first), trained_part="decoder", **steps)
        before = {k: v.clone() for k, v in again.net.state_dict().items()}
        second = train(image_folder, tmp_path / name, module=again)
        old, made = ImageTokenizer.load(first), ImageTokenizer.load(second)
        for key, value in made.state_dict().items():
            if not key.startswith("decoder."):
                assert torch.equal(value, before[key]) and torch.equal(value, old.state_dict()[key]), key
        assert any(
            not torch.equal(v, before[k]) for k, v in made.state_dict().items() if k.startswith("decoder.")
        )
        images = torch.rand(3, 3, 16, 24) * 2 - 1
        assert torch.equal(old.encode(images), made.encode(images))
        losses = [loss for _, loss in read_metrics(tmp_path / name)["train/loss"]]
        assert losses[-1] < losses[0]


def test_a_decoder_alone_needs_an_image_tokenizer(tmp_path: Path):
    with pytest.raises(ValueError, match="trained_part=decoder.*init_from"):
        training(trained_part="decoder")
    with pytest.raises(ValueError, match="trained_part.*'encoder'.*all, decoder"):
        training(trained_part="encoder")
    ImageTokenizer(CONFIG).save(tmp_path)
    with pytest.raises(ValueError, match="config.res_blocks=1.*2"):
        training(
            config=dataclasses.replace(CONFIG, res_blocks=2), init_from=str(tmp_path), trained_part="decoder"
        )
    with pytest.raises(ValueError, match="config.decoder_res_blocks=0.*2"):
        training(config=dataclasses.replace(CONFIG, decoder_res_blocks=2), init_from=str(tmp_path))


def test_a_tokenizer_without_a_decoder_gets_one(tmp_path: Path, image_folder: Path):
    torch.manual_seed(0)
    ImageTokenizer(dataclasses.replace(CONFIG, decoder=False)).save(tmp_path / "none")
    module = training(init_from=str(tmp_path / "none"), trained_part="decoder")
    made = ImageTokenizer.load(train(image_folder, tmp_path / "run", module=module))
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    codes = ImageTokenizer.load(tmp_path / "none").encode(images)
    assert torch.equal(codes, made.encode(images)) and made.decode(codes).shape == images.shape
