# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportIndexIssue=false
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.vqvae.taming import load_taming

CHANNELS = (32, 32, 64)
K, WIDTH = 48, 8


def taming_state(*, attention: tuple[int, ...] = (2,), channels: tuple[int, ...] = CHANNELS) -> dict:
    """Tensors under taming's names, with random values (the names: tests/tokenizers/test_vqgan.py)."""
    config = ImageTokenizerConfig(
        architecture="vqgan",
        norm="group",
        stem=1,
        channels=channels,
        res_blocks=1,
        z_channels=16,
        attention_levels=attention,
        quantizer="vq",
        codebook_dim=WIDTH,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = ImageTokenizer(config).state_dict()
        state = {k: v + 0.1 * torch.randn_like(v) for k, v in state.items() if not k.startswith("quantizer.")}
        state["quantize.embedding.weight"] = torch.randn(K, WIDTH)
    return state


def llamagen_state(state: dict) -> dict:
    """The same under LlamaGen's names: levels in the order in which they run, the middle as a list."""
    renamed = {"quantize.codebook_used": torch.zeros(65536)}
    for name, tensor in state.items():
        if match := re.match(r"(encoder\.down|decoder\.up)\.(\d)\.(.*)", name):
            up = match[1] == "decoder.up"
            level = len(CHANNELS) - 1 - int(match[2]) if up else int(match[2])
            name = f"{'decoder' if up else 'encoder'}.conv_blocks.{level}.{match[3]}"
            name = name.replace(".block.", ".res.")
        for i, part in enumerate(("block_1", "attn_1", "block_2")):
            name = name.replace(f".mid.{part}.", f".mid.{i}.")
        renamed[name] = tensor
    return renamed


def images() -> Tensor:
    return torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def nearest(latents: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(latents.movedim(1, -1).flatten(0, 2), codebook).argmin(1).view(2, 12, 8)


def pickled(state: dict, path: Path) -> Path:
    torch.save({"state_dict": state, "epoch": 7, "optimizer_states": [{"state": {}}]}, path)
    return path


def safe(state: dict, path: Path) -> Path:
    path = path.with_suffix(".safetensors")
    save_file(state, path)
    return path


@pytest.mark.parametrize("write", [pickled, safe])
@pytest.mark.parametrize("attention", [(2,), ()])
@torch.no_grad()
def test_tamings_checkpoint(plain: ModuleType, write, attention: tuple[int, ...], tmp_path: Path) -> None:
    state = taming_state(attention=attention)
    extra = {"loss.discriminator.main.0.weight": torch.zeros(4), "loss.logvar": torch.zeros(1)}
    tokenizer = load_taming(write(state | extra, tmp_path / "last.ckpt"))
    config = tokenizer.config
    assert (config.channels, config.res_blocks, config.stem, config.factor) == (CHANNELS, 1, 1, 4)
    assert (config.codebook_size, config.codebook_dim, config.z_channels) == (K, WIDTH, 16)
    assert (config.attention_levels, config.mid_attention, config.quantizer) == (attention, True, "vq")
    assert not tokenizer.training
    reference = plain.Plain(state)
    codes = tokenizer.encode(images())
    codebook = state["quantize.embedding.weight"]
    assert torch.equal(codes, nearest(reference.encode(images()), codebook)) and codes.unique().numel() > 8
    assert torch.equal(tokenizer.codebook, codebook)
    wanted = reference.decode(codebook[codes].movedim(-1, 1)).clamp(-1, 1)
    assert (tokenizer.decode(codes) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("wrapper", ["model", "ema", None])
@torch.no_grad()
def test_llamagens_checkpoint(plain: ModuleType, wrapper: str | None, tmp_path: Path) -> None:
    state = taming_state()
    written = llamagen_state(state)
    torch.save({wrapper: written} if wrapper else written, tmp_path / "vq.pt")
    tokenizer = load_taming(tmp_path / "vq.pt")
    assert tokenizer.config.quantizer == "cosine" and tokenizer.config.attention_levels == (2,)
    reference = plain.Plain(state)
    unit = torch.nn.functional.normalize
    codebook = unit(state["quantize.embedding.weight"], dim=-1)
    codes = tokenizer.encode(images())
    assert torch.equal(codes, nearest(unit(reference.encode(images()), dim=1), codebook))
    wanted = reference.decode(codebook[codes].movedim(-1, 1)).clamp(-1, 1)
    assert (tokenizer.decode(codes) - wanted).abs().max() < 1e-4
    euclidean = load_taming(tmp_path / "vq.pt", quantizer="vq")
    assert torch.equal(euclidean.codebook, state["quantize.embedding.weight"])


@torch.no_grad()
def test_it_saves_and_loads_as_our_folder(tmp_path: Path) -> None:
    tokenizer = load_taming(safe(taming_state(), tmp_path / "model"), codebook_decay=0.5)
    assert tokenizer.config.codebook_decay == 0.5
    tokenizer.save(tmp_path / "folder")
    again = ImageTokenizer.load(tmp_path / "folder")
    assert torch.equal(again.encode(images()), tokenizer.encode(images()))


@torch.no_grad()
def test_it_goes_on_training(tmp_path: Path) -> None:
    """The first batch does not throw the codebook away to initialize another."""
    tokenizer = load_taming(safe(taming_state(), tmp_path / "model"))
    before = tokenizer.codebook.clone()
    tokenizer.train()
    with torch.enable_grad():
        tokenizer(images()).quantizer_loss.backward()
    moved = (tokenizer.codebook - before).abs().max(1).values
    assert (moved < 0.5).float().mean() > 0.9


def test_a_chameleon_model_of_transformers_lacks_the_decoder(tmp_path: Path) -> None:
    state = {f"model.vqmodel.{name}": tensor for name, tensor in taming_state().items()}
    state["model.embed_tokens.weight"] = torch.zeros(2, 2)
    without_decoder = {name: tensor for name, tensor in state.items() if ".decoder." not in name}
    with pytest.raises(ValueError, match="decoder.*vqgan.ckpt"):
        load_taming(safe(without_decoder, tmp_path / "model"))
    assert load_taming(safe(state, tmp_path / "whole")).config.channels == CHANNELS


class Innocent:
    """What a training framework leaves in its checkpoints."""


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_checkpoint_of_lightning(tmp_path: Path, zipped: bool) -> None:
    state = taming_state()
    whole = {"state_dict": state, "callbacks": {Innocent: Innocent()}, "hyper_parameters": Innocent()}
    torch.save(whole, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(load_taming(tmp_path / "last.ckpt").codebook, state["quantize.embedding.weight"])
    torch.save(Innocent(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt.*Innocent.*state dict") as caught:
        load_taming(tmp_path / "model.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "prefix",
    ["first_stage_model.", "module.", "model.", "net.", "_orig_mod.", "module._orig_mod.", "a.b.vqmodel."],
)
def test_a_network_under_a_prefix(prefix: str, tmp_path: Path) -> None:
    state = taming_state()
    others = {"cond_stage_model.weight": torch.zeros(2), f"{prefix}loss.logvar": torch.zeros(1)}
    if prefix == "_orig_mod.":  # it is the whole
        others.pop("cond_stage_model.weight")
    torch.save({"state_dict": {prefix + k: v for k, v in state.items()} | others}, tmp_path / "last.ckpt")
    tokenizer = load_taming(tmp_path / "last.ckpt")
    assert torch.equal(tokenizer.codebook, state["quantize.embedding.weight"])
    assert torch.equal(tokenizer.state_dict()["encoder.conv_in.bias"], state["encoder.conv_in.bias"])


def test_parts_that_were_compiled(tmp_path: Path) -> None:
    state = taming_state()
    torch.save({k.replace("coder.", "coder._orig_mod.", 1): v for k, v in state.items()}, tmp_path / "vq.pt")
    assert torch.equal(load_taming(tmp_path / "vq.pt").codebook, state["quantize.embedding.weight"])


def test_several_networks_are_refused(tmp_path: Path) -> None:
    state = taming_state()
    both = {f"{part}.{name}": tensor for part in ("student", "teacher") for name, tensor in state.items()}
    torch.save(both, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"student\.\*.*teacher\.\*"):
        load_taming(tmp_path / "last.ckpt")


def averaged(state: dict) -> dict:
    return {name: tensor + 1 for name, tensor in state.items()}


def buffers(prefix: str, state: dict) -> dict:
    """As latent-diffusion stores averages of parameters; those of the codebook are elsewhere."""
    names = [name for name in state if not name.startswith("quantize.")]
    return {f"{prefix}model_ema.{n.replace('.', '')}": averaged(state)[n] for n in names}


@pytest.mark.parametrize(
    "whole",
    [
        lambda s: {"model": s, "ema": averaged(s)},
        lambda s: {"state_dict": s | {f"ema.{name}": tensor for name, tensor in averaged(s).items()}},
        lambda s: {"state_dict": s | buffers("", s) | {"model_ema.decay": torch.tensor(0.99)}},
        lambda s: {f"module.{k}": v for k, v in s.items()} | buffers("module.", s),
    ],
)
def test_averaged_weights_are_taken_on_request(whole, tmp_path: Path) -> None:
    state, name = taming_state(), "decoder.conv_out.bias"
    torch.save(whole(state), tmp_path / "vq.pt")
    with pytest.warns(UserWarning, match="--ema"):
        assert torch.equal(load_taming(tmp_path / "vq.pt").state_dict()[name], state[name])
    assert torch.equal(load_taming(tmp_path / "vq.pt", ema=True).state_dict()[name], state[name] + 1)
    torch.save(state, tmp_path / "plain.pt")
    with pytest.raises(ValueError, match=r"plain\.pt.*no averaged"):
        load_taming(tmp_path / "plain.pt", ema=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["encoder.conv_in.bias", "quantize.embedding.weight"])
def test_weights_that_are_not_numbers_are_refused(name: str, value: float, tmp_path: Path) -> None:
    state = taming_state()
    state[name].flatten()[1] = value
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{re.escape(name)}.*1 of"):
        load_taming(safe(state, tmp_path / "model"))


def without(name: str):
    return lambda state: {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("encoder.conv_in.weight"), r"lacks 'encoder\.conv_in\.weight'"),
        (without("quant_conv.weight"), r"lacks.*'quant_conv\.weight'"),
        (without("decoder.up.1.upsample.conv.bias"), r"lacks.*'decoder\.up\.1\.upsample\.conv\.bias'"),
        (lambda s: s | {"decoder.extra": torch.zeros(1)}, r"holds.*'decoder\.extra'"),
        (lambda s: s | {"decoder.conv_out.bias": torch.zeros(4)}, r"conv_out\.bias.*\(4,\).*\(3,\)"),
        (lambda s: s | {"encoder.conv_in.weight": torch.zeros(32, 1, 3, 3)}, r"conv_in.*32 channels of 1\b"),
        (lambda s: s | {"quant_conv.weight": torch.zeros(WIDTH, 32, 1, 1)}, r"quant_conv.*32, 1, 1"),
        (lambda s: s | {"quantize.embed.weight": torch.zeros(4, 4)}, "Gumbel"),
    ],
)  # fmt: skip
def test_other_networks_are_refused(change, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_taming(safe(change(taming_state()), tmp_path / "model"))
    assert "\n" not in str(caught.value) and "model.safetensors" in str(caught.value)


def test_bad_files_and_overrides(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="VQ checkpoint"):
        load_taming(tmp_path / "none.ckpt")
    for name in ("text.ckpt", "text.safetensors", "empty.pt"):
        (tmp_path / name).write_bytes(b"" if name == "empty.pt" else b"no checkpoint, only words")
        with pytest.raises(ValueError, match=f"{name} "):
            load_taming(tmp_path / name)
    torch.save({"model": {"name": "words"}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt.*state dict"):
        load_taming(tmp_path / "other.pt")
    path = safe(taming_state(), tmp_path / "model")
    with pytest.raises(ValueError, match="color"):
        load_taming(path, color="red")
    with pytest.raises(ValueError, match="quantizer.*'simvq'.*'vq'.*'cosine'"):
        load_taming(path, quantizer="simvq")
