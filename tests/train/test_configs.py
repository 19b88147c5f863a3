"""Every YAML parses; the ones for debugging run from end to end through the commands."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from earlyfusion.cli.info import describe
from earlyfusion.cli.main import main
from earlyfusion.cli.prepare import parse
from earlyfusion.eval.report.curves import read_metrics
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.train.image.recognizer import Recognizer

CONFIGS = Path(__file__).parents[2] / "train/configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


def kind(file: Path) -> str:
    return next((k for k in ("lm", "recognizer", "align") if file.name.startswith(k)), "image-tokenizer")


def overrides(file: Path, images: Path, prepared: Path, run: Path) -> list[str]:
    data = f"--data.path={prepared}" if kind(file) == "lm" else f"--data.train={images}"
    return [kind(file), "fit", "--config", str(file), data, f"--trainer.default_root_dir={run}"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_parses(file: Path, capsys: pytest.CaptureFixture):
    if file.stem.startswith("prepare"):
        assert parse(["--config", str(file)])[0].out.startswith("runs/")
        return
    with pytest.raises(SystemExit) as stop:
        main([kind(file), "fit", "--config", str(file), "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(file.read_text())
    assert printed["model"]["lr"] == given["model"]["lr"]
    assert printed["trainer"]["max_steps"] == given["trainer"]["max_steps"]


def preset(name: str) -> dict[str, Any]:
    """Parsed, with the fields of its transformer as `FusionLMConfig`."""
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return {**values, "config": FusionLMConfig(**values["model"]["config"])}


@pytest.mark.parametrize(
    ("name", "millions"),
    [("lm_chameleon7b", 7013.7), ("lm_chameleon34b", 34294.3)],  # the released "30B" is the paper's 34B
)
def test_chameleons_sizes(name: str, millions: float):
    config = preset(name)["config"]
    with torch.device("meta"):
        network = FusionLM(config)
    assert all(p.is_meta for p in network.parameters())
    count = sum(p.numel() for p in network.parameters())
    assert round(count / 1e6, 1) == millions
    transformers = pytest.importorskip("transformers")
    other = transformers.ChameleonConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.ffn_width,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        swin_norm=config.norm_placement == "reordered",
        vq_config={"base_channels": 32, "channel_multiplier": [1], "resolution": 8, "embed_dim": 8},
        vocabulary_map={"IMGIMGAZ": 4, "<image>": 5},
    )
    with torch.device("meta"):
        theirs = transformers.ChameleonForConditionalGeneration(other)
    assert sum(p.numel() for n, p in theirs.named_parameters() if ".vqmodel." not in n) == count


def test_chameleons_recipe():
    """Chameleon, section 2.3: what both models share, and what they do not."""
    seven, large = (preset(f"lm_chameleon{n}b") for n in (7, 34))
    for one in (seven, large):
        training = one["model"]
        assert (training["lr"], training["warmup_steps"], training["schedule"]) == (1e-4, 4000, "exponential")
        assert (training["betas"], training["eps"], training["weight_decay"]) == ([0.9, 0.95], 1e-5, 0.1)
        assert training["z_loss_weight"] == 1e-5 and one["trainer"]["gradient_clip_val"] == 1.0
        assert one["config"].qk_norm == "layer" and one["config"].context_length == 4096
    assert (seven["config"].norm_placement, seven["config"].dropout) == ("pre", 0.1)
    assert (large["config"].norm_placement, large["config"].dropout) == ("reordered", 0.0)
    assert (seven["config"].n_kv_heads, large["config"].n_kv_heads) == (32, 8)


@pytest.mark.parametrize(("name", "low", "high"), [("lm_small", 28, 34), ("lm", 135, 165)])
def test_sizes_of_the_other_presets(name: str, low: float, high: float):
    """Millions of parameters, with a vocabulary of some thousand pieces and as many codes."""
    config = replace(preset(name)["config"], vocab_size=12_000)
    with torch.device("meta"):
        count = sum(p.numel() for p in FusionLM(config).parameters())
    assert low < count / 1e6 < high


def test_image_tokenizer_commands(tmp_path: Path, image_folder: Path, prepared: Path, capsys):
    file = CONFIGS / "image_tokenizer_debug.yaml"
    command = overrides(file, image_folder, prepared, tmp_path)
    assert main(command) == 0
    tokenizer = ImageTokenizer.load(tmp_path / "model")
    assert tokenizer.codebook_size == 16
    assert read_metrics(tmp_path)["train/loss"][-1][0] == 11
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["lr"] == 2e-3
    assert list((tmp_path / "tensorboard").glob("events*"))
    with Image.open(tmp_path / "reconstructions/step-000012.png") as sheet:
        assert sheet.width > 100
    torch.load(tmp_path / "last.ckpt", weights_only=True)

    # The same command again, and a typing error in the folder, change nothing.
    before = {
        name: (tmp_path / name).stat().st_mtime_ns for name in ("last.ckpt", "metrics.csv", "config.yaml")
    }
    assert main([*command, "--seed_everything=5"]) == 2
    assert str(tmp_path) in (error := capsys.readouterr().err.strip()) and "--ckpt_path=last" in error
    typo = tmp_path / "typo"
    assert main([*command, "--ckpt_path=last", f"--trainer.default_root_dir={typo}"]) == 2
    assert f"{typo / 'last.ckpt'}" in capsys.readouterr().err and not typo.exists()
    assert before == {name: (tmp_path / name).stat().st_mtime_ns for name in before}

    # What a finished run says to other settings, and that it leaves the run's config alone.
    assert main([*command, "--ckpt_path=last-or-new"]) == 0
    assert "step 12 of 12" in capsys.readouterr().out
    assert main([*command, "--ckpt_path=last", "--model.lr=0.5"]) == 2
    error = capsys.readouterr().err.strip()
    assert "lr=0.002" in error and "0.5" in error
    assert "\n" not in error
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["lr"] == 2e-3

    # The network's settings come from the checkpoint where nothing is trained.
    measured = ["--data.train", str(image_folder), "--trainer.default_root_dir", str(tmp_path)]
    measured += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.max_side=32"]
    assert main(["image-tokenizer", "validate", *measured, "--ckpt_path=last"]) == 0
    assert "codebook_perplexity" in capsys.readouterr().out
    options = ["--ckpt_path=last", "--data.validation_share=0.25"]
    assert main(["image-tokenizer", "predict", *measured, *options]) == 0
    written = tmp_path / "predictions"
    assert len(list(written.glob("*.png"))) == len((written / "codes.jsonl").read_text().splitlines()) == 12
    assert main(["image-tokenizer", "predict", *measured, *options]) == 2
    assert str(written) in capsys.readouterr().err
    assert main(["image-tokenizer", "validate", *measured]) == 2
    assert "--ckpt_path" in capsys.readouterr().err


def test_recognizer_commands(tmp_path: Path, text_images: Path, capsys):
    """The recognizer is trained, looked at, and taken for the text-aware loss."""
    run = tmp_path / "recognizer"
    command = [
        "recognizer",
        "fit",
        "--config",
        str(CONFIGS / "recognizer.yaml"),
        f"--data.train={text_images}",
    ]
    command += [f"--data.validation={text_images}", "--data.batch_size=12", "--model.config.channels=[8,8,8]"]
    command += ["--trainer.max_steps=6", "--trainer.val_check_interval=3", "--trainer.log_every_n_steps=3"]
    command += ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={run}"]
    assert main(command) == 0
    assert Recognizer.load(run / "model").config.channels == (8, 8, 8)
    curves = read_metrics(run)
    assert [step for step, _ in curves["train/loss"]] == [2, 5]
    assert {"validation/loss", "validation/cer", "validation/exact"} <= set(curves)
    torch.load(run / "last.ckpt", weights_only=True)
    measured = ["--data.train", str(text_images), "--data.validation", str(text_images), "--ckpt_path=last"]
    measured += ["--trainer.default_root_dir", str(run), "--trainer.accelerator=cpu"]
    capsys.readouterr()
    assert main(["recognizer", "validate", *measured, "--trainer.enable_progress_bar=false"]) == 0
    assert "validation/cer" in capsys.readouterr().out

    command = overrides(CONFIGS / "image_tokenizer_debug.yaml", text_images, tmp_path, tmp_path / "images")
    command += ["--model.text_weight=0.5", f"--model.recognizer={run / 'model'}"]
    assert main(command) == 0
    assert read_metrics(tmp_path / "images")["train/text"][-1][1] > 0
    command[-1:] = [f"--model.recognizer={tmp_path}", f"--trainer.default_root_dir={tmp_path / 'other'}"]
    assert main(command) == 2
    assert "config.json" in capsys.readouterr().err


def test_lm_commands(tmp_path: Path, image_folder: Path, prepared: Path, capsys):
    command = overrides(CONFIGS / "lm_debug.yaml", image_folder, prepared, tmp_path)
    assert main(command) == 0
    assert load_model(tmp_path / "model").lm.config.n_kv_heads == 1
    assert any("2 (Lightning" in line for line in describe(tmp_path)), "the format of the checkpoint"
    assert read_metrics(tmp_path)["validation/loss"][-1][0] == 11
    assert len((tmp_path / "samples/step-000012.jsonl").read_text().splitlines()) == 3
    measured = ["--data.path", str(prepared), "--trainer.default_root_dir", str(tmp_path)]
    measured += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--ckpt_path=last"]
    capsys.readouterr()
    assert main(["lm", "validate", *measured]) == 0
    assert "validation/image" in capsys.readouterr().out
    assert main(["lm", "predict", *measured]) == 0
    assert (tmp_path / "predictions/losses.jsonl").read_text().startswith('{"window": 0, "loss": ')


def test_a_batch_can_be_learnt_by_heart(tmp_path: Path, image_folder: Path, prepared: Path):
    assert main(overrides(CONFIGS / "lm_overfit.yaml", image_folder, prepared, tmp_path)) == 0
    losses = [value for _, value in read_metrics(tmp_path)["train/loss"]]
    assert losses[-1] < 0.1 < 2 < losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.pth=1"], r"unknown option --data\.pth.*'--data\.path'.*lm fit --help"),
        (["--model.lr=fast"], r"model\.lr.*float.*fast"),
        (["--model.config.n_heads=3"], "width.*n_heads \\(3\\)"),
        (["--trainer.max_steps=-1"], "max_steps.*positive.*-1"),
        (["--ckpt_path=none.ckpt"], r"none\.ckpt not found.*--ckpt_path"),
        (["--data.path=nowhere"], "nowhere not found.*earlyfusion prepare"),
        (["--config=none.yaml"], r"none\.yaml not found"),
    ],
)
def test_mistakes_are_one_line(options, message, tmp_path: Path, image_folder: Path, prepared: Path, capsys):
    command = overrides(CONFIGS / "lm_debug.yaml", image_folder, prepared, tmp_path / "run")
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error), error
    assert error.startswith("earlyfusion: ")
    assert "\n" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("command", "field"), [("lm", "data.path"), ("image-tokenizer", "data.train")])
def test_a_missing_option_is_named(command: str, field: str, fails):
    assert re.search(rf"{field}.*--{field}=", fails(command, "fit", "--trainer.max_steps=2"))


def test_samples_begin_with_a_modality(tmp_path: Path, image_folder: Path, prepared: Path, fails):
    command = overrides(CONFIGS / "lm_debug.yaml", image_folder, prepared, tmp_path)
    error = fails(*command, "--samples.then=imgae")
    assert re.search(r"samples\.then.*'imgae'.*any, text, image", error)
    assert not (tmp_path / "last.ckpt").exists()


def test_an_unknown_key_in_a_file_is_named(tmp_path: Path, prepared: Path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text((CONFIGS / "lm_debug.yaml").read_text().replace("warmup_steps", "warm_up"))
    assert main(["lm", "fit", "--config", str(file), f"--data.path={prepared}"]) == 2
    error = capsys.readouterr().err.strip()
    assert "model.warm_up" in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("quantised_lr: 0.001", "model.quantised_lr .*model.quantized_lr"),
        ("recogniser: runs/reader", "model.recogniser .*model.recognizer"),
        ("commitment_weight: 1.0", "model.commitment_weight .*1.0"),
    ],
)
def test_a_key_of_an_earlier_version_names_the_new_one(option: str, message: str, tmp_path: Path, capsys):
    file = tmp_path / "mine.yaml"
    text = (CONFIGS / "image_tokenizer_debug.yaml").read_text()
    file.write_text(text.replace("warmup_steps: 2", option))
    name, value = option.split(": ")
    for arguments in (["--config", str(file)], [f"--model.{name}={value}"]):
        assert main(["image-tokenizer", "fit", *arguments, f"--data.train={tmp_path}"]) == 2
        assert re.fullmatch(f"earlyfusion: {message}.*", capsys.readouterr().err.strip())


def test_the_commands_train_a_decoder_alone(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture
):
    """All but the decoder is init_from's, also where that is none of the defaults."""
    torch.manual_seed(0)
    config = ImageTokenizerConfig(
        stem=2, channels=(8, 16, 24), res_blocks=1, codebook_size=16, codebook_dim=4
    )
    first = ImageTokenizer(config)
    first.save(tmp_path / "first")
    run = tmp_path / "run"
    command = overrides(CONFIGS / "image_tokenizer_decoder.yaml", image_folder, tmp_path, run)
    command += [f"--model.init_from={tmp_path / 'first'}", "--model.config.decoder_channels=[8,8,16]"]
    command += ["--trainer.max_steps=3", "--bench.every=0", "--trainer.accelerator=cpu", "--data.max_side=32"]
    assert main(command) == 0
    made = ImageTokenizer.load(run / "model")
    assert made.config == replace(config, decoder_channels=(8, 8, 16), decoder_res_blocks=2)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    assert torch.equal(made.encode(images), first.eval().encode(images))
    assert main([*command, "--ckpt_path=last", "--trainer.max_steps=3"]) == 0
    weights = (run / "model/model.safetensors").read_bytes()
    assert main([*command, "--trainer.max_steps=1", "--overwrite"]) == 0
    assert (tmp_path / "run.before-1/model/model.safetensors").read_bytes() == weights
    assert (run / "last.ckpt").is_file() and "overwrite" not in (run / "config.yaml").read_text()
    capsys.readouterr()
    assert main([*command, "--overwrite", f"--model.init_from={tmp_path / 'none'}"]) != 0
    assert "none" in capsys.readouterr().err
