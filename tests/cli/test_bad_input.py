"""What users get wrong: one clear line, exit code 2, and nothing written. Images of every kind do work.

`test_main.py` has the mistakes in options; here are those in files, folders and configs.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from earlyfusion.cli.main import main
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab

MODEL_FILES = [
    "config.json",
    "model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/text.model",
    "tokenizer/image/config.json",
    "tokenizer/image/model.safetensors",
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, whose listing shows what was written."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("EARLYFUSION_DEBUG", raising=False)
    return folder


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], here: Path) -> Callable[..., str]:
    """Run a command line that must fail, and give its one line."""

    def contents() -> dict[str, bytes | None]:
        return {str(p): p.read_bytes() if p.is_file() else None for p in here.rglob("*")}

    def run(*argv: str | Path) -> str:
        before = contents()
        capsys.readouterr()
        assert main([str(a) for a in argv]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("earlyfusion: ") and printed.err.endswith("\n")
        assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
        assert len(printed.err) > len("earlyfusion: ") + 10
        assert contents() == before, "something was written"
        return printed.err

    return run


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    """A model folder to spoil."""
    return shutil.copytree(model_folder, tmp_path / "model")


# images


def truncated(photo: Image.Image, path: Path) -> None:
    photo.save(path)
    path.write_bytes(path.read_bytes()[:-40])


def floating(photo: Image.Image, path: Path) -> None:
    photo.convert("F").save(path, "TIFF")


BROKEN: dict[str, Callable[[Image.Image, Path], object]] = {
    "missing.png": lambda photo, path: None,
    "empty.png": lambda photo, path: path.write_bytes(b""),
    "text.jpg": lambda photo, path: path.write_text("hello"),
    "cut.png": truncated,
    "cut.jpg": truncated,
    "folder.png": lambda photo, path: path.mkdir(),
    "floating.tiff": floating,
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_image_that_cannot_be_read(fails, model_folder: Path, photo: Image.Image, name: str) -> None:
    BROKEN[name](photo, Path(name))
    assert name in fails("sample", "--model", model_folder, "--out", "out", "What is this?", name)


def test_an_image_that_is_too_large(fails, model_folder: Path, photo_file: Path, monkeypatch) -> None:
    monkeypatch.setattr("earlyfusion.tokenizers.pixels.PIXELS", 1000)
    line = fails("sample", "--model", model_folder, "--out", "out", photo_file)
    assert "photo.png" in line and "more than 1,000" in line


def alpha(photo: Image.Image) -> Image.Image:
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    return photo


def sixteen_bit(photo: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)


def palette(photo: Image.Image) -> Image.Image:
    return photo.quantize(200)


MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "alpha.png": alpha,
    "grey-alpha.png": lambda photo: alpha(photo.convert("L")),
    "sixteen.png": sixteen_bit,
    "sixteen.tiff": sixteen_bit,
    "cmyk.jpg": lambda photo: photo.convert("CMYK"),
    "palette.png": palette,
    "palette.gif": palette,
    "grey.png": lambda photo: photo.convert("L"),
    "bilevel.png": lambda photo: photo.convert("1"),
}


@pytest.mark.parametrize("name", MODES)
def test_images_of_every_mode_are_seen_in_colour(model_folder: Path, photo: Image.Image, name: str) -> None:
    """They are no mistakes: alpha is laid on white, 16 bits are scaled, the rest is converted."""
    image = MODES[name](photo.copy())
    image.save(name)
    expected = image
    if "A" in image.getbands():
        expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    elif "sixteen" in name:
        expected = photo.convert("L")
    seen = sample_of(model_folder, name)
    assert seen.mode == "RGB" and seen.size == (48, 32)
    difference = np.abs(np.asarray(seen, dtype=float) - np.asarray(expected.convert("RGB"), dtype=float))
    assert difference.mean() < (5 if name.endswith("jpg") else 1)


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((1, 1), (8, 8)),
        ((45, 27), (48, 24)),
        ((3, 90), (8, 88)),
        ((1000, 40), (128, 8)),
        ((300, 200), (64, 40)),
    ],
)
def test_images_of_every_size_are_fitted(model_folder: Path, photo: Image.Image, size, seen) -> None:
    if seen == (64, 40):  # 16 x 11 codes, which the vocabulary can say, are more than this context holds
        photo = photo.resize((64, 40))
        size = photo.size
    photo.resize(size).save("any.png")
    assert sample_of(model_folder, "any.png").size == seen


def test_an_upright_image_is_shown_to_the_model(model_folder: Path, photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    photo.save("turned.jpg", exif=exif)
    assert sample_of(model_folder, "turned.jpg").size == (32, 48)


def sample_of(model: Path, *segments: str) -> Image.Image:
    """The image of a prompt, as `sample` writes what the model saw."""
    argv = [
        "sample",
        "--model",
        str(model),
        "--out",
        "out",
        "--then",
        "text",
        "--max-new-tokens",
        "2",
        *segments,
    ]
    assert main(argv) == 0
    records = json.loads(Path("out/sample.json").read_text())["segments"]
    (name,) = [r["file"] for r in records if r["type"] == "image" and r["prompt"]]
    with Image.open(Path("out") / name) as image:
        return image.copy()


# prompts


def test_prompts_that_are_longer_than_the_context(fails, model_folder: Path, photo: Image.Image) -> None:
    photo.resize((128, 128)).save("large.png")
    for segments in (["large.png"], ["large.png", "and then"], ["The cat sees the birds. " * 30]):
        line = fails("sample", "--model", model_folder, "--out", "out", *segments)
        assert "context" in line and "96" in line


def test_an_out_folder_is_as_it_was(fails, model_folder: Path) -> None:
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    fails("sample", "--model", model_folder, "--out", "out", "missing.png")
    fails("sample", "--model", model_folder, "--out", "out", "")
    Path("file").write_text("mine")
    for out in ("file", "file/below"):
        assert f"{out} " in fails("sample", "--model", model_folder, "--out", out, "A")


def test_a_seed_that_is_no_seed(fails, model_folder: Path) -> None:
    for seed in (10**25, -(10**25)):
        told = fails("sample", "--model", model_folder, "--out", "out", f"--seed={seed}", "A")
        assert f"seed is {seed}" in told


@pytest.mark.parametrize(
    "flag",
    """--temperature=inf --temperature=1e-41 --temperature=nan --image-temperature=-1 --guidance=1e38
    --guidance=nan --image-guidance=inf --top-p=1e-300 --min-p=nan --repetition-penalty=inf""".split(),
)
def test_a_setting_that_would_break_the_logits(fails, model_folder: Path, flag: str) -> None:
    name, _, value = flag.removeprefix("--").partition("=")
    told = fails("sample", "--model", model_folder, "--out", "out", flag, "A")
    assert "expected" in told and (value in told or str(float(value)) in told)
    assert name in told or name.removeprefix("image-").replace("-", "_") in told
    assert not Path("out").exists()


# model folders

COMMANDS = {
    "sample": ("sample", "--out", "out", "A", "--model"),
    "reading": ("eval", "reading", "--out", "result.json"),
    "writing": ("eval", "writing", "--out", "result.json"),
    "reconstruction": ("eval", "reconstruction", "--out", "result.json"),
}


@pytest.mark.parametrize("name", MODEL_FILES)
@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_model_with_a_missing_or_broken_file(fails, model: Path, name: str, damage: str) -> None:
    if damage == "missing":
        (model / name).unlink()
    else:
        (model / name).write_bytes(b"\0\x01 no such file")
    line = fails(*COMMANDS["sample"], model)
    assert str(model / name) in line
    assert ("not found" in line) is (damage == "missing")


def another_codebook(model: Path, text: TextTokenizer) -> None:
    config = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=8, codebook_dim=4)
    ImageTokenizer(config).save(model / "tokenizer" / "image")


def another_text(model: Path, text: TextTokenizer) -> None:
    TextTokenizer.train(["other words"] * 9, vocab_size=280, threads=1).save(model / "tokenizer")


def another_vocabulary(model: Path, text: TextTokenizer) -> None:
    SharedVocab.build(text=text, codebook_size=32, max_grid=20).save(model / "tokenizer")


def another_transformer(model: Path, text: TextTokenizer) -> None:
    with torch.random.fork_rng():
        FusionLM(FusionLMConfig(77, n_layers=1, width=8, n_heads=1, n_kv_heads=1, ffn_width=8)).save(model)


def another_kind(model: Path, text: TextTokenizer) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model / "tokenizer" / "image" / name, model / name)


OTHERS = {
    another_codebook: r"(?=.*\b8\b)(?=.*\b32\b)",
    another_text: "text",
    another_vocabulary: "vocabulary",
    another_transformer: r"\b77\b",
    another_kind: r"config\.json.*'image_tokenizer'.*'fusion_lm'",
}


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: change.__name__)
def test_a_model_of_parts_that_do_not_fit(fails, model: Path, text_tokenizer: TextTokenizer, change) -> None:
    change(model, text_tokenizer)
    for command in ("sample", "reading"):
        line = fails(*COMMANDS[command], model)
        assert re.search(OTHERS[change], line) and str(model) in line


@pytest.mark.parametrize("command", ["reading", "writing", "reconstruction"])
def test_measurements_refuse_a_broken_model(fails, model: Path, command: str) -> None:
    if command == "writing":
        pytest.importorskip("rapidocr")
    name = "tokenizer/image/model.safetensors"
    (model / name).unlink()
    assert f"{name} not found" in fails(*COMMANDS[command], model)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_model_at_all(fails, here: Path, command: str) -> None:
    Path("empty").mkdir()
    Path("file").write_text("mine")
    for name in ("nowhere", "empty", "file"):
        assert name in fails(*COMMANDS[command], name)


# data


def test_data_that_cannot_be_measured(fails, model_folder: Path) -> None:
    Path("images").mkdir()
    Path("images/broken.png").write_bytes(b"no image")
    Path("words.jsonl").write_text('{"text": "red"}\n{"word": "blue"}\n')
    Path("broken.jsonl").write_text('{"text": "red"\n')
    measure = ("eval", "reading", model_folder, "--out", "result.json", "--images")
    assert "images" in fails(*measure, "images")
    assert "nowhere" in fails(*measure, "nowhere")
    assert "words.jsonl" in fails(*measure, "words.jsonl")
    pytest.importorskip("rapidocr")
    measure = ("eval", "writing", model_folder, "--out", "result.json", "--words")
    assert "words.jsonl, line 2" in fails(*measure, "words.jsonl")
    assert "broken.jsonl" in fails(*measure, "broken.jsonl")


# configs


@pytest.fixture
def images(photo: Image.Image, tmp_path: Path) -> Path:
    """A folder of images to train on, which no test comes to."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        photo.rotate(90 * number).resize((32, 32)).save(folder / f"{number}.png")
    return folder


def config_of(kind: str, images: Path, **values) -> list[str]:
    """`--config` with a file of what is needed, and `values` ("model.config.stem" is a path)."""
    data = {"train": str(images)} if kind == "image-tokenizer" else {"path": str(images)}
    config: dict = {"data": data, "trainer": {"max_steps": 2, "default_root_dir": "run"}}
    for name, value in values.items():
        *path, last = name.split(".")
        place = config
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    Path("config.yaml").write_text(yaml.safe_dump(config))
    return ["--config", "config.yaml"]


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("image-tokenizer", "modle"),
        ("image-tokenizer", "model.nonsense"),
        ("image-tokenizer", "model.config.nonsense"),
        ("image-tokenizer", "data.nonsense"),
        ("image-tokenizer", "trainer.stepz"),
        ("lm", "model.config.nonsense"),
        ("lm", "samples.nonsense"),
    ],
)
def test_an_unknown_config_key_is_named(fails, images: Path, kind: str, key: str) -> None:
    line = fails(kind, "fit", *config_of(kind, images, **{key: 3}))
    assert key in line


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.config.stem", 3, "stem"),
        ("model.config.stem", "four", "stem"),
        ("model.lr", "fast", "lr"),
        ("data.train", "nowhere", "nowhere not found"),
        ("data.validation", "nowhere", "nowhere not found"),
    ],
)
def test_a_config_value_that_cannot_be(fails, images: Path, key: str, value, message: str) -> None:
    line = fails("image-tokenizer", "fit", *config_of("image-tokenizer", images, **{key: value}))
    assert message in line


def test_a_config_that_is_none(fails) -> None:
    Path("broken.yaml").write_text("model: [1\n")
    for command in (("image-tokenizer", "fit"), ("lm", "fit"), ("prepare",)):
        assert "nowhere.yaml" in fails(*command, "--config", "nowhere.yaml")
        assert "line 1" in fails(*command, "--config", "broken.yaml")


def test_prepare_refuses_a_config_before_it_works(fails, model_folder: Path, images: Path) -> None:
    good = {
        "documents": str(images),
        "text_tokenizer": str(model_folder / "tokenizer"),
        "image_tokenizer": str(model_folder / "tokenizer" / "image"),
        "out": "tokens",
    }

    def prepare(**changes) -> str:
        config = {name: value for name, value in {**good, **changes}.items() if value is not None}
        Path("prepare.yaml").write_text(yaml.safe_dump(config))
        return fails("prepare", "--config", "prepare.yaml")

    assert "'nonsense'" in prepare(nonsense=1)
    assert "nowhere" in prepare(documents="nowhere")
    assert "nowhere" in prepare(text_tokenizer="nowhere")
    assert "nowhere" in prepare(image_tokenizer="nowhere")
    assert "order" in prepare(order="sideways")
    assert "context_length" in prepare(context_length=0)
    assert "out" in prepare(out=None)


@pytest.mark.parametrize(
    "line", ["image-tokenizer train", "lm sample", "text-tokenizer train", "eval drawing x"]
)
def test_an_unknown_sub_command_lists_the_known(fails, line: str) -> None:
    given = line.split()[1]
    printed = fails(*line.split())
    assert f"'{given}'" in printed and ("fit" in printed or "reading" in printed)
