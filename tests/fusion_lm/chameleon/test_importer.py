"""``earlyfusion import chameleon``: folders of transformers, and folders in Meta's format."""

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("tokenizers")

from earlyfusion.cli.main import main
from earlyfusion.fusion_lm.chameleon.vocab import code_name, code_of
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.fusion_lm.stream import sample
from earlyfusion.storage.weights import load_network
from earlyfusion.tokenizers.bpe import BpeTokenizer
from earlyfusion.tokenizers.documents import DocumentTokenizer, split
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.pixels import cover, load_image, to_tensor

CODES, SIDE = 8, 32
"""Codes of the image tokenizer, and pixels of its images; 8 x 8 codes each."""
TEXTS = [
    "A red apple.",
    "the cat sees two birds; the birds see the cat",
    "naïve 猫 🙂",
    "<s>",
    "<image>",
    " ",
]


def text_tokenizer() -> dict[str, Any]:
    """A byte-level BPE whose vocabulary holds Chameleon's special tokens, codes and spare tokens too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", *map(code_name, range(CODES)), "<eoss>", "<racm3:break>"]
    special += ["<reserved08706>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(TEXTS * 5, trainer)
    return json.loads(learner.to_str())


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> tuple[Any, Path]:
    """A random model of transformers, and the folder that it wrote."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("chameleon") / "hf"
    text = text_tokenizer()
    ids = {**text["model"]["vocab"]}
    vq = {"embed_dim": 4, "num_embeddings": CODES, "base_channels": 32, "latent_channels": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.ChameleonForConditionalGeneration(
            transformers.ChameleonConfig(
                vocab_size=len(ids),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=160,
                swin_norm=True,
                vocabulary_map=ids,
                bos_token_id=0,
                pad_token_id=1,
                eos_token_id=2,
                vq_config={**vq, "resolution": SIDE, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1},
            )  # fmt: skip
        ).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "vqmodel" not in name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size="60KB")
    (folder / "tokenizer.json").write_text(json.dumps(text))
    return model, folder


def imported(folder: Path, out: Path, *options: str) -> Any:
    assert main(["import", "chameleon", str(folder), "--out", str(out), *options]) == 0
    return load_model(out)


def picture(width: int = SIDE, height: int = SIDE) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


@torch.no_grad()
def test_a_folder_of_transformers_becomes_a_model(theirs, tmp_path, capsys) -> None:
    other, folder = theirs
    assert len(list(folder.glob("*.safetensors"))) > 1  # shards
    model = imported(folder, tmp_path / "out")
    assert "no VQ decoder" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "BPE, " in printed and "no decoder" in printed and "8 x 8 codes" in printed
    vocab, tokenizer = model.tokenizer.vocab, model.tokenizer
    image = picture()
    tokens = tokenizer.encode(["A red apple.", image, " and"], eos=False).tokens
    codes = other.model.get_image_tokens(to_tensor(image)[None])[0]
    start = int((tokens == vocab.layout("image").begin).nonzero()) + 1
    assert tokens[start : start + len(codes)].tolist() == codes.tolist()
    assert tokens[0] == 0 and tokens[start + len(codes)] == vocab.layout("image").end
    logits = model.lm(tokens[None])
    assert isinstance(logits, Tensor)
    found = torch.nn.functional.linear(other.model(tokens[None]).last_hidden_state, other.lm_head.weight)
    assert float((logits - found).abs().max()) < 1e-4 < float(found.abs().max())
    with pytest.raises(ValueError, match="decoder"):
        tokenizer.image.decode(torch.zeros(1, 4, 4, dtype=torch.int64))
    assert tokenizer.text.decode(tokenizer.text.encode(TEXTS[2])) == TEXTS[2]
    for written in (["A red", image], [image]):
        (document,) = sample(model, [written], max_new_tokens=8, max_blocks=0)
        assert all(isinstance(part, str) for part in document)


def test_images_are_cut_to_the_one_size(theirs, tmp_path) -> None:
    model = imported(theirs[1], tmp_path / "out")
    wide = Image.new("RGB", (3 * SIDE, 2 * SIDE), "red")
    wide.paste(picture(SIDE, SIDE), (SIDE, SIDE // 2))
    (part,) = split(model.tokenizer.encode([wide]).tokens, model.tokenizer.vocab)
    assert part.kind == "image" and part.values.shape == (SIDE // 4, SIDE // 4)
    middle = wide.resize((3 * SIDE // 2, SIDE), Image.Resampling.LANCZOS).crop(
        (SIDE // 4, 0, SIDE // 4 + SIDE, SIDE)
    )
    (same,) = split(model.tokenizer.encode([middle]).tokens, model.tokenizer.vocab)
    assert torch.equal(part.values, same[1])


def vqgan_of(folder: Path, path: Path) -> None:
    """A checkpoint of the model's image tokenizer with a decoder, as taming writes one."""
    mine = load_network(
        ImageTokenizer, ImageTokenizerConfig, folder / "tokenizer" / "image", "image_tokenizer"
    )
    config = {**vars(mine.config), "decoder": True}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = ImageTokenizer(ImageTokenizerConfig(**config))
    whole.load_state_dict(mine.state_dict(), strict=False)
    state = {n: t for n, t in whole.state_dict().items() if not n.startswith("quantizer.")}
    torch.save({"state_dict": {**state, "quantize.embedding.weight": whole.codebook}}, path)


def test_a_checkpoint_gives_the_decoder(theirs, tmp_path, capsys) -> None:
    imported(theirs[1], tmp_path / "blind")
    vqgan_of(tmp_path / "blind", tmp_path / "vqgan.ckpt")
    model = imported(theirs[1], tmp_path / "out", "--vqgan", str(tmp_path / "vqgan.ckpt"))
    assert "no VQ decoder" not in capsys.readouterr().out.splitlines()[-1]
    (document,) = sample(model, [["A"]], then="image", stop_after="image", max_new_tokens=100)
    assert isinstance(document[0], Image.Image) and document[0].size == (SIDE, SIDE)
    state = torch.load(tmp_path / "vqgan.ckpt", weights_only=True)
    state["state_dict"]["quantize.embedding.weight"][0] += 1
    torch.save(state, tmp_path / "other.ckpt")
    again = main(["import", "chameleon", str(theirs[1]), "--out", str(tmp_path / "out")])
    assert again == 2 and "vqgan" in capsys.readouterr().err
    assert load_model(tmp_path / "out").tokenizer.image.config.decoder
    capsys.readouterr()
    arguments = ["import", "chameleon", str(theirs[1]), "--out", str(tmp_path / "no")]
    assert main([*arguments, "--vqgan", str(tmp_path / "other.ckpt")]) == 2
    assert "other.ckpt" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_folder_without_an_image_tokenizer_needs_a_checkpoint(theirs, tmp_path, capsys) -> None:
    imported(theirs[1], tmp_path / "blind")
    vqgan_of(tmp_path / "blind", tmp_path / "vqgan.ckpt")
    folder = tmp_path / "hf"
    shutil.copytree(theirs[1], folder)
    for path in folder.glob("*.safetensors"):
        save_file({k: v for k, v in load_file(path).items() if "vqmodel" not in k}, path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if "vqmodel" not in k}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    arguments = ["import", "chameleon", str(folder), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert (
        re.search(r"hf.*model\.vqmodel\..*--vqgan", error := capsys.readouterr().err)
        and error.count("\n") == 1
    )
    model = imported(folder, tmp_path / "out", "--vqgan", str(tmp_path / "vqgan.ckpt"))
    wanted = load_model(tmp_path / "blind")
    assert torch.equal(model.tokenizer.image.codebook, wanted.tokenizer.image.codebook)
    assert model.tokenizer.image.config.decoder and model.tokenizer.vocab == wanted.tokenizer.vocab
    for name, tensor in wanted.lm.state_dict().items():
        assert torch.equal(model.lm.state_dict()[name], tensor), name


def meta_folder(folder: Path, model: FusionLM, shards: int) -> None:
    """Write a random checkpoint in Meta's layout, of the shape of ``model``."""
    from earlyfusion.fusion_lm.chameleon.meta import shard_shapes

    target = folder / "models" / "7b"
    target.mkdir(parents=True)
    config = model.config
    params = {
        "dim": config.width,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
    }
    params |= {"multiple_of": 8, "norm_eps": 1e-5, "rope_theta": 10000.0, "swin_norm": True}
    (target / "params.json").write_text(json.dumps({"model": params, "model_parallel_size": shards}))
    generator = torch.Generator().manual_seed(7)
    common = {
        name: 1 + 0.2 * torch.randn(shape, generator=generator)
        for name, shape in shard_shapes(config, shards).items()
        if name == "norm.weight" or name.endswith("_norm.weight")
    }
    for number in range(shards):
        shard = {
            n: 0.2 * torch.randn(s, generator=generator) for n, s in shard_shapes(config, shards).items()
        }
        name = "consolidated.pth" if shards == 1 else f"consolidated.{number:02}.pth"
        torch.save(
            {**{n: t.bfloat16() for n, t in shard.items()}, **{n: t.bfloat16() for n, t in common.items()}},
            target / name,
        )


@pytest.fixture
def meta(theirs, tmp_path) -> Path:
    """Meta's folder of two shards, in bfloat16."""
    from earlyfusion.fusion_lm.model import FusionLMConfig

    imported(theirs[1], tmp_path / "blind")
    folder = tmp_path / "meta"
    size = load_model(tmp_path / "blind").lm.config.vocab_size
    size += size % 2
    model = FusionLM(FusionLMConfig(size, 4096, 2, 32, 4, 2, 88, norm_placement="reordered"))
    meta_folder(folder, model, 2)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "text_tokenizer.json").write_text(json.dumps(text_tokenizer()))
    vqgan_of(tmp_path / "blind", folder / "tokenizer" / "vqgan.ckpt")
    return folder


def test_metas_folder_becomes_a_model(meta: Path, tmp_path) -> None:
    model = imported(meta, tmp_path / "out")
    config = model.lm.config
    assert (config.norm_placement, config.n_kv_heads, config.ffn_width) == ("reordered", 2, 88)
    shard = torch.load(meta / "models" / "7b" / "consolidated.01.pth", weights_only=True)
    state = model.lm.state_dict()
    assert torch.equal(state["embedding.weight"][:, 16:], shard["tok_embeddings.weight"].float())
    assert torch.equal(
        state["blocks.1.attention.out.weight"][:, 16:], shard["layers.1.attention.wo.weight"].float()
    )
    (document,) = sample(model, [["A red"]], max_new_tokens=8, max_blocks=0)
    assert isinstance(document, list)


class Code:
    """What a pickle would run."""

    def __reduce__(self):
        return print, ("run",)


def break_config(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 3}))


def break_map(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    names = values["vocabulary_map"]
    names[code_name(0)], names[code_name(1)] = names[code_name(1)], names[code_name(0)]
    (folder / "config.json").write_text(json.dumps(values))


def lose_name(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    del values["vocabulary_map"]["<eoss>"]
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: sorted(f.glob("*.safetensors"))[0].unlink(), r"model-00001.*not found"),
        (
            lambda f: sorted(f.glob("*.safetensors"))[0].write_bytes(b"x" * 99),
            r"model-00001.*safetensors",
        ),
        (lambda f: (f / "config.json").write_text("{}"), r"model_type.*None.*'chameleon'"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), r"tokenizer\.json.*BPE"),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json not found"),
        (break_config, r"lacks.*model.layers.2.input_layernorm.weight"),
        (break_map, r"image codes 0 to 7"),
        (lose_name, r"lacks.*<eoss>"),
    ],
)
def test_a_damaged_folder_ends_in_one_line(theirs, tmp_path, capsys, damage, message: str) -> None:

    folder = tmp_path / "hf"
    shutil.copytree(theirs[1], folder)
    damage(folder)
    assert main(["import", "chameleon", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def run_code(folder: Path) -> None:
    with open(folder / "models" / "7b" / "consolidated.01.pth", "wb") as file:
        pickle.dump({"layers.0.attention.wq.weight": Code()}, file)


def save_code(folder: Path) -> None:
    torch.save({"layers.0.attention.wq.weight": Code()}, folder / "models" / "7b" / "consolidated.01.pth")


NANS = torch.full((8, 32), torch.nan, dtype=torch.bfloat16)


def change(name: str, value: Any) -> Any:
    def damage(folder: Path) -> None:
        path = folder / "models" / "7b" / "consolidated.01.pth"
        state = torch.load(path, weights_only=True)
        state.pop(name, None)
        if value is not None:
            state[name] = value
        torch.save(state, path)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "models" / "7b" / "consolidated.00.pth").unlink(),
            r"2 shards.*consolidated.01",
        ),
        (run_code, r"consolidated.01.pth is not a readable"),
        (save_code, r"consolidated.01.pth.*print.*only tensors are read"),
        (
            change("layers.1.attention.wk.weight", torch.full((8, 32), torch.nan, dtype=torch.bfloat16)),
            r"attention.qkv.*NaN",
        ),
        (change("layers.1.attention.wk.weight", None), r"lacks.*layers.1.attention.wk.weight"),
        (
            change("layers.1.attention.wx.weight", torch.zeros(2)),
            r"holds.*layers.1.attention.wx.weight",
        ),
        (change("layers.1.attention.wk.weight", torch.zeros(3, 3)), r"wk.weight.*3, 3.*8, 32"),
        (lambda f: (f / "models" / "7b" / "params.json").unlink(), r"models.*params.json"),
        (lambda f: (f / "models" / "7b" / "params.json").write_text("{}"), r"lacks 'dim'"),
        (lambda f: (f / "tokenizer" / "vqgan.ckpt").unlink(), r"vqgan.ckpt"),
    ],
)
def test_a_damaged_folder_of_metas_ends_in_one_line(meta, tmp_path, capsys, damage, message: str) -> None:
    damage(meta)
    assert main(["import", "chameleon", str(meta), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    error = captured.err
    assert re.search(message, error) and error.count("\n") == 1 and "run" not in captured.out.split()
    assert not (tmp_path / "out").exists()


def test_names_of_codes() -> None:
    assert [code_name(code) for code in (0, 10, 8191)] == ["IMGIMGAZ", "IMGIMGBAZ", "IMGIMGIBJBZ"]
    assert [code_of(code_name(code)) for code in range(300)] == list(range(300))
    assert [code_of(name) for name in ("IMGIMGZ", "IMGIMG", "<s>", "IMGIMGKZ")] == [None] * 4


def test_what_reads_like_a_special_token_is_text() -> None:
    text = BpeTokenizer(text_tokenizer())
    for written in TEXTS:
        ids = text.encode(written)
        assert text.decode(ids) == written and not set(ids) & set(text.structural_ids)
        assert b"".join(map(text.piece_bytes, ids)) == written.encode()
    with pytest.raises(ValueError, match="text id 0.*structural"):
        text.decode([0])
    with pytest.raises(ValueError, match=f"text id {text.vocab_size}.*outside"):
        text.decode([text.vocab_size])
    with pytest.raises(ValueError, match="lone surrogate"):
        text.encode("\ud800")


def test_a_tokenizer_with_such_a_text_is_saved_and_loaded(theirs, tmp_path) -> None:
    model = imported(theirs[1], tmp_path / "out")
    model.tokenizer.save(tmp_path / "again")
    again = DocumentTokenizer.load(tmp_path / "again")
    assert again.vocab == model.tokenizer.vocab
    assert (
        again.encode(["A red apple."]).tokens.tolist()
        == model.tokenizer.encode(["A red apple."]).tokens.tolist()
    )


# preprocessing: of photographs of all proportions, against what each side does

SIZES = [(64, 64), (640, 480), (333, 500), (97, 33), (20, 15), (512, 511)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_metas_preprocessing(size: tuple[int, int]) -> None:
    """Resize the shorter edge with Lanczos, cut the middle, x / 255 * 2 - 1; transparency on white."""
    import numpy as np

    image = picture(*size).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(size))
    flat = Image.alpha_composite(Image.new("RGBA", size, "white"), image).convert("RGB")
    scale = 64 / min(flat.size)
    flat = flat.resize((round(scale * flat.width), round(scale * flat.height)), Image.Resampling.LANCZOS)
    left, top = (flat.width - 64) // 2, (flat.height - 64) // 2
    expected = np.asarray(flat.crop((left, top, left + 64, top + 64)), dtype=np.float64) / 255 * 2 - 1
    found = to_tensor(cover(load_image(image), 64, 64))
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_preprocessing_of_transformers(size: tuple[int, int]) -> None:
    """Its processor for PIL, which has Lanczos as Meta does; the one for torchvision has not."""
    processors = pytest.importorskip("transformers.models.chameleon.image_processing_pil_chameleon")
    processor = processors.ChameleonImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )
    image = picture(*size)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    found = to_tensor(cover(load_image(image), 64, 64, "hf"), "hf")
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=0)
    assert to_tensor(Image.new("RGB", (8, 8), "white"), "hf").unique().item() == pytest.approx(0.989)


def test_an_imported_model_keeps_its_preprocessing(theirs, tmp_path) -> None:
    model = imported(theirs[1], tmp_path / "out", "--preprocessing", "hf")
    assert model.tokenizer.image.config.preprocessing == "hf"
    image = picture()
    pixels = to_tensor(image, "hf")
    codes = theirs[0].model.get_image_tokens(pixels[None])[0]
    tokens = model.tokenizer.encode([image], eos=False).tokens
    assert tokens[2:-1].tolist() == codes.tolist()
