"""The bench during a fit: when it measures, what it measures, and that the training does not notice."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image

from earlyfusion.eval.items import Item
from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.eval.tasks.reconstruction import measure
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.train.image import bench
from earlyfusion.train.image.bench import Bench
from earlyfusion.train.image.data import ImageData
from earlyfusion.train.image.module import ImageTokenizerTraining
from earlyfusion.train.image.settings import ImageTokenizerSettings
from earlyfusion.train.loop.fit import fit

CONFIG = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=16, codebook_dim=4)
STEPS, AUTOENCODER = 12, 4


class Knowing:
    """Reads "word" in everything, or only in images that it was shown before."""

    version = "1"

    def __init__(self, name: str, known: list[Image.Image] | None = None) -> None:
        self.name, self.known = name, known and {image.tobytes() for image in known}
        self.calls = 0

    def read(self, images: Any, on_read: Any = None) -> list[str]:
        self.calls += 1
        return ["word" if self.known is None or i.tobytes() in self.known else "" for i in images]


@pytest.fixture
def items(photo: Image.Image) -> list[Item]:
    """Three images of two sizes that show "word"."""
    pictures = [photo.resize(size) for size in ((32, 16), (48, 32), (32, 16))]
    return [Item(picture, "word", kind="word") for picture in pictures]


@pytest.fixture
def judges(items: list[Item], monkeypatch: pytest.MonkeyPatch) -> list[Knowing]:
    """A reader that is always right, and one that no reconstruction satisfies, in place of OCR engines."""
    judges = [Knowing("kind"), Knowing("strict", [item.image for item in items])]
    monkeypatch.setattr(bench, "readers", lambda: judges)
    monkeypatch.setattr(bench, "ocr_suite", lambda seed, kinds, per_kind: items)
    return judges


def train(images: Path, run: Path, *callbacks: Any, **changes: Any) -> Path:
    torch.manual_seed(0)
    settings = {"lr": 2e-3, "max_steps": STEPS, "warmup_steps": 2, "autoencoder_steps": AUTOENCODER}
    module = ImageTokenizerTraining(
        ImageTokenizerSettings(
            config=CONFIG, **{**settings, "kmeans_latents": 256, "text_weight": 0.0, **changes}
        )
    )
    data = ImageData(str(images), factor=8, batch_pixels=2048, validation_share=0.2)
    options: Any = {"log_every": 4, "progress": False, "tensorboard": False, "callbacks": callbacks}
    return fit(module, data, run, **options)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_its_figures_are_those_of_the_command(
    ema_decay: float, tmp_path: Path, image_folder: Path, items: list[Item], judges: list[Knowing]
) -> None:
    folder = train(image_folder, tmp_path, Bench(every=4), ema_decay=ema_decay)
    curves = read_metrics(tmp_path)
    # not at step 4, which has no codebook yet; in the rows of the training's own figures
    assert [step for step, _ in curves["bench/psnr"]] == [7, 11]
    assert {7, 11} <= {step for step, _ in curves["train/loss"]}
    assert [value for _, value in curves["bench/kind/t_acc"]] == [1, 1]
    assert [value for _, value in curves["bench/strict/t_acc"]] == [0, 0]
    assert [value for _, value in curves["bench/strict/cer"]] == [1, 1]
    expected = measure(ImageTokenizer.load(folder), items, judges).figures
    for name in ("psnr", "ssim", "codebook_usage", "perplexity"):
        assert curves[f"bench/{name}"][-1][1] == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_it_looks_at_the_averaged_weights(
    ema_decay: float, tmp_path: Path, image_folder: Path, judges: list[Knowing], monkeypatch
) -> None:
    seen: list[torch.Tensor] = []
    raw: list[torch.Tensor] = []

    def look(net: ImageTokenizer, items: list[Item], readers: list[Knowing]) -> Any:
        seen.append(net.last_layer.detach().clone())
        return measure(net, items, readers)

    class Raw(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            if trainer.global_step % 4 == 0 and pl_module.codebook_ready:
                raw.append(pl_module.net.last_layer.detach().clone())

    monkeypatch.setattr(bench, "measure", look)
    train(image_folder, tmp_path, Bench(every=4), Raw(), ema_decay=ema_decay)
    assert len(seen) == len(raw) == 2
    assert [torch.equal(*pair) for pair in zip(seen, raw)] == [not ema_decay] * 2


def test_the_training_does_not_notice(tmp_path: Path, image_folder: Path, judges: list[Knowing]) -> None:
    folders = [
        train(image_folder, tmp_path / name, Bench(every=every)) for name, every in (("a", 2), ("b", 0))
    ]
    weights = [ImageTokenizer.load(folder).state_dict() for folder in folders]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert judges[0].calls > 0
    measured, without = (read_metrics(tmp_path / name) for name in ("a", "b"))
    assert {n: c for n, c in measured.items() if not n.startswith("bench/")} == without


def test_the_last_step_is_measured(tmp_path: Path, image_folder: Path, judges: list[Knowing]) -> None:
    train(image_folder, tmp_path, Bench(every=1000))
    assert [step for step, _ in read_metrics(tmp_path)["bench/psnr"]] == [STEPS - 1]


def test_without_the_extra_the_training_goes_on(tmp_path: Path, image_folder: Path, monkeypatch) -> None:
    asked: list[tuple] = []

    def missing(*arguments: Any) -> None:
        asked.append(arguments)
        raise ImportError("the fonts are missing: pip install 'earlyfusion[demo]'")

    monkeypatch.setattr(bench, "ocr_suite", missing)
    with pytest.warns(UserWarning, match="bench.*the fonts are missing"):
        folder = train(image_folder, tmp_path, Bench(every=4, kinds=("word",), seed=7))
    assert folder.is_dir() and asked == [(7, ("word",), 24)]
    assert not any(name.startswith("bench/") for name in read_metrics(tmp_path))


def test_a_step_of_several_batches_is_measured_once(items: list[Item], judges: list[Knowing]) -> None:
    module = ImageTokenizerTraining(
        ImageTokenizerSettings(config=CONFIG, kmeans_latents=256, text_weight=0.0)
    )
    module.codebook_ready = True
    rows: list[tuple[dict, int]] = []
    logger = SimpleNamespace(log_metrics=lambda values, step: rows.append((values, step)))
    trainer: Any = SimpleNamespace(
        global_step=4, max_steps=9, is_global_zero=True, loggers=[logger], callbacks=[]
    )
    callback = Bench(every=4)
    for _ in range(3):
        callback.on_train_batch_end(trainer, module, None, None, 0)
    assert [step for _, step in rows] == [3] and module.training
    trainer.global_step, trainer.is_global_zero = 8, False
    callback.on_train_batch_end(trainer, module, None, None, 0)
    assert len(rows) == 1  # one rank measures


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="bench.every.*-1"):
        Bench(every=-1)
