# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportIndexIssue=false
from types import ModuleType

import pytest
import torch
from torch import Tensor

from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.vqvae import cpu

LEVELS = {
    "chameleon": {"channels": (32, 32, 64)},
    "vqgan-imagenet": {"channels": (32, 64), "attention_levels": (1,)},
    "no attention": {"channels": (32, 64), "mid_attention": False},
}


def build(seed: int = 0, **fields) -> ImageTokenizer:
    """A random tokenizer with random norms and biases, and 64 codes among its latents."""
    settings = {"architecture": "vqgan", "norm": "group", "stem": 1, "res_blocks": 1, "z_channels": 16}
    settings["channels"] = (32, 64)
    settings |= {"quantizer": "vq", "codebook_size": 64, "codebook_dim": 8, **fields}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = ImageTokenizer(ImageTokenizerConfig(**settings)).eval()
        for name, weight in tokenizer.named_parameters():
            if weight.ndim == 1:
                weight.data += torch.randn_like(weight) * 0.2
            elif "mid.attn_1" in name or ".attn." in name:
                weight.data *= 3  # attention that is not all but uniform
        with torch.no_grad():
            latents = tokenizer.latents(noise(4, 16 * tokenizer.factor, seed=9))
            tokenizer.initialize_codebook(latents.movedim(1, -1).flatten(0, 2))
    return tokenizer


def noise(batch: int, height: int, width: int | None = None, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, height, width or height, generator=generator) * 2 - 1


def near(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Equal up to the rounding of float32, whose unit is that of the largest value."""
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max())


@pytest.mark.parametrize("fields", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("nnpack", [True, False])
@torch.no_grad()
def test_it_is_tamings_network(plain: ModuleType, fields: dict, nnpack: bool, monkeypatch) -> None:
    if not nnpack:
        monkeypatch.setattr(cpu, "_nnpack", lambda: False)
    tokenizer = build(**fields)
    reference = plain.Plain(tokenizer.state_dict())
    images = noise(2, 12 * tokenizer.factor, 24 * tokenizer.factor)
    wanted = reference.encode(images)
    assert near(tokenizer.latents(images), wanted)
    assert near(tokenizer.reconstruct(wanted), reference.decode(wanted))


@torch.no_grad()
def test_the_encoder_is_that_of_transformers(plain: ModuleType) -> None:
    pytest.importorskip("transformers")
    model = plain.transformers_model(32)
    tokenizer, _ = plain.ours(model)
    images = noise(1, 128, 96)
    wanted = plain.codes_of(model.encode(images))
    assert tokenizer.factor == 16
    compared = plain.compare(model, images, tokenizer.encode(images), wanted)
    assert compared["all"] == 48 and compared["distinct"] > 24
    assert compared["different_no_tie"] == 0


def test_names_and_shapes_are_tamings() -> None:
    state = ImageTokenizer(
        ImageTokenizerConfig(
            architecture="vqgan",
            norm="group",
            stem=1,
            channels=(32, 64),
            attention_levels=(1,),
            codebook_dim=16,
        )
    ).state_dict()
    for name, shape in {
        "encoder.conv_in.weight": (32, 3, 3, 3),
        "encoder.down.0.block.1.norm2.bias": (32,),
        "encoder.down.0.downsample.conv.weight": (32, 32, 3, 3),
        "encoder.down.1.block.0.nin_shortcut.weight": (64, 32, 1, 1),
        "encoder.down.1.attn.1.proj_out.weight": (64, 64, 1, 1),
        "encoder.mid.block_1.conv1.weight": (64, 64, 3, 3),
        "encoder.mid.attn_1.q.weight": (64, 64, 1, 1),
        "encoder.norm_out.weight": (64,),
        "encoder.conv_out.weight": (256, 64, 3, 3),
        "quant_conv.weight": (16, 256, 1, 1),
        "post_quant_conv.weight": (256, 16, 1, 1),
        "decoder.conv_in.weight": (64, 256, 3, 3),
        "decoder.mid.block_2.norm1.weight": (64,),
        "decoder.up.1.block.2.conv2.weight": (64, 64, 3, 3),
        "decoder.up.1.attn.2.norm.weight": (64,),
        "decoder.up.1.upsample.conv.weight": (64, 64, 3, 3),
        "decoder.up.0.block.0.nin_shortcut.weight": (32, 64, 1, 1),
        "decoder.conv_out.weight": (3, 32, 3, 3),
    }.items():
        assert state[name].shape == shape
    assert not any(
        name.startswith(("encoder.down.1.downsample", "decoder.up.0.upsample", "encoder.down.0.attn"))
        for name in state
    )


def test_inference_is_training_without_gradients() -> None:
    """In-place operations, Winograd's algorithm and other memory layouts give the same numbers."""
    tokenizer = build(attention_levels=(0,))
    images = noise(2, 48)
    with torch.no_grad():
        quick = tokenizer.latents(images)
        pixels = tokenizer.reconstruct(quick)
    latents = tokenizer.latents(images.requires_grad_())
    slow = tokenizer.reconstruct(latents + (quick - latents).detach())  # of the same numbers
    assert near(quick, latents.detach(), 1e-3) and near(pixels, slow.detach(), 1e-3)
    slow.square().mean().backward()
    used = {name: weight.grad for name, weight in tokenizer.named_parameters()}
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(grad is not None and grad.isfinite().all() for grad in used.values())


@pytest.mark.parametrize("norm", ["group", "layer"])
@torch.no_grad()
def test_a_stem_of_pixels(norm: str) -> None:
    tokenizer = build(stem=4, channels=(8, 16), norm=norm, mid_attention=False)
    assert tokenizer.factor == 8
    codes = tokenizer.encode(noise(3, 16, 40))
    assert codes.shape == (3, 2, 5)
    assert tokenizer.decode(codes).shape == (3, 3, 16, 40)


@torch.no_grad()
def test_images_of_a_batch_do_not_meet() -> None:
    tokenizer = build()
    images = noise(3, 48)
    other = torch.cat([images[:1], noise(2, 48).flip(0, 3)])  # the same shape: rounding is the same too
    assert torch.equal(tokenizer.latents(other)[:1], tokenizer.latents(images)[:1])
    tokenizer, images = tokenizer.double(), images.double()  # another shape: another rounding
    together = tokenizer.latents(images)
    for i in range(3):
        assert near(tokenizer.latents(images[i : i + 1]), together[i : i + 1], 1e-12)


@torch.no_grad()
def test_bfloat16_is_near_float32() -> None:
    tokenizer = build()
    images = noise(1, 48)
    wanted = tokenizer.encoder(images)
    found = tokenizer.to(torch.bfloat16).encoder(images.bfloat16())
    assert found.dtype == torch.bfloat16
    assert near(found.float(), wanted, 0.05) and not torch.equal(found.float(), wanted)


@torch.no_grad()
def test_convolutions_are_torchs() -> None:
    x = torch.randn(2, 16, 30, 27)
    layers = (
        cpu.Conv(16, 24, 1),
        cpu.Conv(16, 24, 3, stride=2),
        cpu.Conv(16, 24, 3, padding=1),
        cpu.Conv(16, 24, 3, padding=1, bias=False),
    )
    for layer in layers:
        bias = None if layer.bias is None else layer.bias.double()
        wanted = torch.nn.functional.conv2d(
            x.double(), layer.weight.double(), bias, layer.stride, layer.padding
        )
        assert near(layer(x).double(), wanted, 1e-5)
        assert near(layer(x.contiguous(memory_format=torch.channels_last)).double(), wanted, 1e-5)
    assert layers[2](x[:, :, :1, :1]).shape == (2, 24, 1, 1)
