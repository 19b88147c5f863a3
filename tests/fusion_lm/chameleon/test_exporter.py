"""``earlyfusion export chameleon``: transformers loads the result and gives the same logits."""

import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("transformers")

import transformers

from earlyfusion.cli.main import main
from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.fusion_lm.folder import Model, load_model, save_model
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig
from earlyfusion.storage.tensor_files import TensorFiles
from earlyfusion.tokenizers.documents import DocumentTokenizer
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.pixels import to_tensor
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab

SIDE, GRID, CODES = 32, 8, 16
IMAGE = ImageTokenizerConfig(
    architecture="vqgan", stem=1, channels=(32, 32, 64), res_blocks=1, norm="group", z_channels=8,
    quantizer="vq", codebook_size=CODES, codebook_dim=8,
)  # fmt: skip


def model_of(text: TextTokenizer, image: ImageTokenizerConfig = IMAGE, **vocab_fields: Any) -> Model:
    """A random model that fits the format, except for the given fields."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        images = ImageTokenizer(image).eval()
        latents = images.latents(torch.rand(4, 3, SIDE, SIDE) * 2 - 1).detach()
        images.initialize_codebook(latents.movedim(1, -1).flatten(0, 2))
        fields = {"max_grid": None, "fixed_grid": (GRID, GRID), **vocab_fields}
        vocab = SharedVocab.build(text=text, codebook_size=CODES, **fields)
        lm = FusionLM(FusionLMConfig(vocab.size, 160, 2, 32, 4, 2, 48)).eval()
        with torch.no_grad():
            for parameter in lm.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return Model(lm, DocumentTokenizer(vocab, text=text, image=images))


@pytest.fixture(scope="module")
def exported(text_tokenizer, tmp_path_factory) -> tuple[Model, Path]:
    """A model of ours, and its folder for transformers."""
    folder = tmp_path_factory.mktemp("export")
    model = model_of(text_tokenizer)
    save_model(folder / "model", *model)
    assert main(["export", "chameleon", str(folder / "model"), "--out", str(folder / "hf")]) == 0
    return model, folder / "hf"


def picture(width: int = SIDE, height: int = SIDE) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


@torch.no_grad()
def test_transformers_says_the_same(exported) -> None:
    model, folder = exported
    theirs: Any = transformers.ChameleonForConditionalGeneration.from_pretrained(folder)
    vocab, image = model.tokenizer.vocab, picture()
    tokens = model.tokenizer.encode(["A red apple:", image, " and"], eos=False).tokens
    codes = theirs.model.get_image_tokens(to_tensor(image)[None])[0]
    start = int((tokens == vocab.layout("image").begin).nonzero()) + 1
    assert tokens[start : start + len(codes)].tolist() == codes.tolist()
    hidden = theirs.model(tokens[None]).last_hidden_state
    logits, found = model.lm(tokens[None]), torch.nn.functional.linear(hidden, theirs.lm_head.weight)
    assert isinstance(logits, Tensor) and found.shape[-1] == vocab.size + 2
    assert float((logits - found[..., : vocab.size]).abs().max()) < 1e-4 < float(found.abs().max())
    assert torch.equal(found[..., vocab.size], found[..., vocab.pad])  # an untrained token
    greedy = theirs.generate(
        tokens[None], attention_mask=torch.ones_like(tokens)[None], do_sample=False, max_new_tokens=5
    )
    assert greedy.shape[1] > len(tokens)
    assert theirs.generation_config.eos_token_id == vocab.eos


def test_its_processor_makes_our_tokens(exported) -> None:
    """A picture of another size, and text around it."""
    model, folder = exported
    try:
        processor: Any = transformers.ChameleonProcessor.from_pretrained(folder)
    except ImportError as error:  # torchvision, which some versions require
        pytest.skip(str(error).splitlines()[0])
    image = picture(50, 37)
    made = processor(
        images=image, text="A red apple:<image> and", return_tensors="pt", return_for_text_completion=True
    )
    ours = model.tokenizer.encode(["A red apple:", image, " and"], eos=False).tokens
    placeholder = processor.image_token_id
    inside = made["input_ids"][0] == placeholder
    text = made["input_ids"][0].tolist()
    expected = [
        placeholder if t in model.tokenizer.vocab.to_tokens("image", torch.arange(CODES)) else t
        for t in ours.tolist()
    ]
    assert int(inside.sum()) == GRID**2
    assert text == expected or [model.tokenizer.vocab.bos, *text] == expected
    assert made["pixel_values"].shape == (1, 3, SIDE, SIDE)


def strings(count: int, seed: int) -> list[str]:
    """Random Unicode of all planes, words that the tokenizer knows, spaces, and what it treats specially."""
    rng = random.Random(seed)
    words = "the bird sees A red apple and bicycle umbrella One picture its name in type".split()
    odd = ["\u2581", "\u2585", " ", "  ", "\n", "\t", "<0x41>", "\u0301", "e", "\x00", "ab", "the", " the"]

    def character() -> str:
        while True:
            point = rng.choice((rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x110000)))
            if not 0xD800 <= point < 0xE000:
                return chr(point)

    def part() -> str:
        kind = rng.randrange(4)
        if kind == 0:
            return rng.choice(words)
        return rng.choice(odd) if kind == 1 else character() if kind == 2 else rng.choice(words) + " "

    return ["".join(part() for _ in range(rng.randrange(1, 16))) for _ in range(count)]


def test_the_text_tokenizer_gives_the_same_ids(exported) -> None:
    """10,000 strings without special tokens, which transformers would parse."""
    from tokenizers import Tokenizer

    model, folder = exported
    text, vocab = model.tokenizer.text, model.tokenizer.vocab
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    written = strings(10_000, 5)
    for one, encoded in zip(written, theirs.encode_batch(written, add_special_tokens=False), strict=True):
        ids = torch.tensor(text.encode(one), dtype=torch.int64)
        assert encoded.ids == vocab.to_tokens("text", ids).tolist(), ascii(one)
        assert theirs.decode(encoded.ids, skip_special_tokens=False) == one


@torch.no_grad()
def test_it_comes_back(exported, tmp_path) -> None:
    """With its decoder; two tokens larger."""
    model, folder = exported
    assert main(["import", "chameleon", str(folder), "--out", str(tmp_path / "again")]) == 0
    again = load_model(tmp_path / "again")
    image = picture()
    tokens = model.tokenizer.encode(["A red apple:", image]).tokens
    assert torch.equal(again.tokenizer.encode(["A red apple:", image]).tokens, tokens)
    logits, others = model.lm(tokens[None]), again.lm(tokens[None])
    assert isinstance(logits, Tensor) and isinstance(others, Tensor)
    torch.testing.assert_close(others[..., : model.tokenizer.vocab.size], logits, atol=1e-5, rtol=1e-5)
    codes = torch.randint(CODES, (1, GRID, GRID))
    assert torch.equal(again.tokenizer.image.decode(codes), model.tokenizer.image.decode(codes))
    # and out once more: every tensor the same to the bit
    assert main(["export", "chameleon", str(tmp_path / "again"), "--out", str(tmp_path / "hf")]) == 0
    for name in ("model.safetensors", "vq_decoder.safetensors"):
        first, second = TensorFiles([folder / name]), TensorFiles([tmp_path / "hf" / name])
        assert set(first) == set(second) and all(torch.equal(first[n], second[n]) for n in first)
    configs = [json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "hf")]
    assert configs[0] == configs[1]
    assert (folder / "tokenizer.json").read_text() == (tmp_path / "hf" / "tokenizer.json").read_text()


@pytest.mark.parametrize(
    ("image", "fields", "message"),
    [
        ({}, {"fixed_grid": None, "max_grid": 16}, r"fixed_grid"),
        ({}, {"fixed_grid": (4, 8)}, r"4 x 8 codes.*squares"),
        ({}, {"scan": "columns"}, r"scan.*'columns'.*'rows'"),
        ({"quantizer": "cosine"}, {}, r"quantizer.*'cosine'.*'vq'"),
        ({"norm": "layer", "mid_attention": False}, {}, r"norm.*'layer'.*'group'"),
        ({"channels": (32, 48)}, {}, r"channels.*48.*32"),
        ({"channels": (64, 96)}, {}, r"channels.*64, 96.*first"),
        ({"stem": 2, "channels": (32, 64)}, {}, r"stem 2.*stem 1"),
        ({"groups": 2}, {"codes_per_position": 2}, r"codes_per_position.*2.*1"),
    ],
)
def test_what_does_not_fit_is_refused(text_tokenizer, tmp_path, capsys, image, fields, message: str) -> None:
    model = model_of(text_tokenizer, replace(IMAGE, **image), **fields)
    save_model(tmp_path / "model", *model)
    assert main(["export", "chameleon", str(tmp_path / "model"), "--out", str(tmp_path / "hf")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and not (tmp_path / "hf").exists()


def test_a_transformer_that_does_not_fit_is_refused(text_tokenizer, tmp_path, capsys) -> None:
    model = model_of(text_tokenizer)
    lm = FusionLM(replace(model.lm.config, qk_norm="none"))
    save_model(tmp_path / "model", lm, model.tokenizer)
    assert main(["export", "chameleon", str(tmp_path / "model"), "--out", str(tmp_path / "hf")]) == 2
    assert re.search(r"qk_norm.*'none'.*'layer'", capsys.readouterr().err)
    assert main(["export", "chameleon", str(tmp_path), "--out", str(tmp_path / "hf")]) == 2


def test_a_preset_that_was_trained_comes_out(text_tokenizer, documents: Path, tmp_path: Path) -> None:
    """The paper's 7B recipe on a small network, from documents to text by transformers."""
    save_model(tmp_path / "start", *model_of(text_tokenizer))
    tokens, run = tmp_path / "tokens", tmp_path / "run"
    settings: dict[str, Any] = {"context_length": 160, "validation_share": 0.1}
    prepare(
        PrepareConfig(str(documents), str(tokens), model=str(tmp_path / "start"), **settings),
        lambda *_: None,
    )
    small = {"vocab_size": 0, "context_length": 160, "n_layers": 2, "width": 32, "n_heads": 4}
    small |= {"n_kv_heads": 2, "ffn_width": 48}
    preset = Path(__file__).parents[3] / "train" / "configs" / "lm_chameleon7b.yaml"
    code = main(
        ["lm", "fit", f"--config={preset}", f"--data.path={tokens}", "--model.compile=false"]
        + [f"--model.config.{name}={value}" for name, value in small.items()]
        + ["--model.warmup_steps=2", "--model.lr=0.01", "--trainer.max_steps=6", "--trainer.accelerator=cpu"]
        + ["--trainer.devices=1", "--trainer.precision=32-true", "--trainer.val_check_interval=6"]
        + ["--trainer.check_val_every_n_epoch=null", f"--trainer.default_root_dir={run}"]
    )
    assert code == 0
    assert main(["export", "chameleon", str(run / "model"), "--out", str(tmp_path / "hf")]) == 0
    model = load_model(run / "model")
    theirs: Any = transformers.ChameleonForConditionalGeneration.from_pretrained(tmp_path / "hf")
    prompt = model.tokenizer.encode(["The cat", picture(), " sees"], eos=False).tokens
    with torch.no_grad():
        hidden = theirs.model(prompt[None]).last_hidden_state
        found = torch.nn.functional.linear(hidden, theirs.lm_head.weight)[..., : model.tokenizer.vocab.size]
        logits = model.lm(prompt[None])
    assert isinstance(logits, Tensor) and float((logits - found).abs().max()) < 1e-4
    written = theirs.generate(
        prompt[None], attention_mask=torch.ones_like(prompt)[None], do_sample=False, max_new_tokens=8
    )
    assert written.shape[1] > len(prompt)


def test_nothing_of_transformers_is_needed_to_export(exported) -> None:
    import subprocess

    code = "import sys, earlyfusion.fusion_lm.chameleon.exporter; assert 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
