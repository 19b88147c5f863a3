# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportMissingImports=false
import pytest
import torch
from torch import Tensor

from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.vqvae import tiles
from earlyfusion.tokenizers.vqvae.tiles import (
    decode_tiled,
    decoder_margins,
    encode_tiled,
    encoder_margins,
    is_local,
)

LOCAL = {
    "unshuffle": {"stem": 2, "channels": (8, 16)},
    "unshuffle, three levels": {"stem": 1, "channels": (8, 8, 16), "res_blocks": 2},
    "unshuffle, one level": {"stem": 4, "channels": (16,), "groups": 2, "codebook_dim": 4},
    "vqgan": {"architecture": "vqgan", "stem": 1, "channels": (8, 16), "mid_attention": False},
    "vqgan, stem": {"architecture": "vqgan", "stem": 2, "channels": (8, 8, 8), "mid_attention": False},
}
CASES = pytest.mark.parametrize("fields", LOCAL.values(), ids=LOCAL)


def build(**fields) -> ImageTokenizer:
    settings = {"norm": "layer", "res_blocks": 1, "z_channels": 8, "codebook_size": 32, "codebook_dim": 8}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        tokenizer = ImageTokenizer(ImageTokenizerConfig(**{**settings, **fields})).eval()
        latents = tokenizer.latents(noise(1, 16 * tokenizer.factor, 16 * tokenizer.factor, seed=9))
        tokenizer.initialize_codebook(latents.movedim(1, -1).flatten(0, 2))
    return tokenizer


def noise(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Color patches with noise, so that no two neighborhoods are equal."""
    generator = torch.Generator().manual_seed(seed)
    grain = torch.randn(batch, 3, height, width, generator=generator) * 0.3
    patches = torch.rand(batch, 3, -(-height // 8), -(-width // 8), generator=generator) * 2 - 1
    patches = patches.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, :height, :width]
    return (patches + grain).clamp(-1, 1)


def smallest(margins, factor: int, kept: int = 9) -> int:
    return (sum(margins) + kept) * factor


@CASES
def test_local_networks_are_the_sum_of_their_tiles(fields: dict) -> None:
    tokenizer = build(**fields)
    f = tokenizer.factor
    assert is_local(tokenizer.config)
    image = noise(1, 29 * f, 38 * f)
    codes = encode_tiled(tokenizer, image, tile=smallest(encoder_margins(tokenizer.config), f))
    assert codes.unique().numel() > 8
    assert torch.equal(codes, tokenizer.encode(image))
    pixels = decode_tiled(tokenizer, codes, tile=smallest(decoder_margins(tokenizer.config), f))
    assert (pixels - tokenizer.decode(codes)).abs().max() < 1e-5


@CASES
def test_encoder_margins_are_what_a_code_reads(fields: dict) -> None:
    """The pixels with a gradient from a code are within the margins, and fill them."""
    tokenizer = build(**fields)
    f, margins = tokenizer.factor, encoder_margins(tokenizer.config)
    middle = margins.before + 1
    side = middle + margins.after + 2
    image = noise(1, side * f, side * f).requires_grad_()
    tokenizer.latents(image)[0, :, middle, middle].square().sum().backward()
    assert image.grad is not None
    read = image.grad.abs().sum((0, 1, 3)).nonzero().flatten() // f
    assert (int(read.min()), int(read.max())) == (middle - margins.before, middle + margins.after)


@CASES
def test_decoder_margins_are_what_a_pixel_reads(fields: dict) -> None:
    tokenizer = build(**fields)
    f, margins = tokenizer.factor, decoder_margins(tokenizer.config)
    middle = margins.before + 1
    side = middle + margins.after + 2
    latents = torch.randn(1, tokenizer.config.latent_dim, side, side).requires_grad_()
    pixels = tokenizer.reconstruct(latents)[
        :, :, middle * f : (middle + 1) * f, middle * f : (middle + 1) * f
    ]
    pixels.square().sum().backward()
    assert latents.grad is not None
    read = latents.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (int(read.min()), int(read.max())) == (middle - margins.before, middle + margins.after)


@pytest.mark.parametrize(
    "fields",
    [
        {"norm": "group"},
        {"architecture": "vqgan", "stem": 1, "norm": "layer"},
        {
            "architecture": "vqgan",
            "stem": 1,
            "norm": "layer",
            "mid_attention": False,
            "attention_levels": (1,),
        },
    ],
)
def test_networks_that_see_the_whole_page(fields: dict, monkeypatch) -> None:
    """Close to the whole page, and blended: no jump where the tiles meet."""
    tokenizer = build(channels=(8, 16), **fields)
    assert not is_local(tokenizer.config)
    f = tokenizer.factor
    image = noise(1, 40 * f, 40 * f)
    codes = encode_tiled(tokenizer, image, tile=smallest(encoder_margins(tokenizer.config), f, kept=12))
    whole = tokenizer.encode(image)
    assert codes.shape == whole.shape and (codes == whole).float().mean() > 0.5
    tile = smallest(decoder_margins(tokenizer.config), f, kept=12)
    pixels, wanted = decode_tiled(tokenizer, whole, tile=tile), tokenizer.decode(whole)
    assert 0 < (pixels - wanted).abs().mean() < 0.2 * wanted.std()
    monkeypatch.setattr(tiles, "is_local", lambda config: True)
    cut = decode_tiled(tokenizer, whole, tile=tile)
    assert seam(pixels - wanted) < 3 and seam(cut - wanted) > 1.1 * seam(pixels - wanted)


def seam(error: Tensor) -> float:
    """The largest jump of the error from one column to the next, relative to the median one."""
    jumps = error.diff(dim=3).abs().mean((0, 1, 2))
    return float(jumps.max() / jumps.median())


def test_one_tile_is_the_page() -> None:
    tokenizer = build(norm="group", stem=2, channels=(8, 16))
    image = noise(1, 12, 20)
    codes = encode_tiled(tokenizer, image)
    assert torch.equal(codes, tokenizer.encode(image))
    assert torch.equal(decode_tiled(tokenizer, codes), tokenizer.decode(codes))


@pytest.mark.parametrize("groups", [1, 2])
def test_shapes_with_and_without_a_batch_axis(groups: int) -> None:
    tokenizer = build(stem=2, channels=(8, 16), groups=groups)
    image = noise(1, 48, 80)
    codes, single = (encode_tiled(tokenizer, x, tile=48) for x in (image, image[0]))
    assert codes.shape == (1, 12, 20, *((2,) if groups == 2 else ())) and codes.dtype == torch.int64
    assert torch.equal(codes[0], single)
    assert torch.equal(decode_tiled(tokenizer, codes, tile=64)[0], decode_tiled(tokenizer, single, tile=64))


def test_no_piece_is_larger_than_asked() -> None:
    """Memory is bounded by the tile: no input of the network is larger."""
    tokenizer = build(stem=2, channels=(8, 16))
    seen: list[tuple[int, ...]] = []
    tokenizer.encoder.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[2:])))
    tokenizer.decoder.register_forward_hook(lambda _, args, out: seen.append(tuple(out.shape[2:])))
    codes = encode_tiled(tokenizer, noise(1, 200, 72), tile=64)
    decode_tiled(tokenizer, codes, tile=64)
    assert len(seen) > 8 and max(max(shape) for shape in seen) <= 64


def test_refusals() -> None:
    tokenizer = build(stem=2, channels=(8, 16))
    with pytest.raises(ValueError, match="multiples of 4"):
        encode_tiled(tokenizer, noise(1, 30, 32))
    with pytest.raises(ValueError, match=r"shape \(1, 3, H, W\)"):
        encode_tiled(tokenizer, noise(2, 32, 32))
    with pytest.raises(ValueError, match=r"tile.*8.*36"):
        encode_tiled(tokenizer, noise(1, 64, 64), tile=8)
    with pytest.raises(ValueError, match=r"tile.*8"):
        decode_tiled(tokenizer, torch.zeros(1, 16, 16, dtype=torch.int64), tile=8)
    with pytest.raises(ValueError, match=r"shape \(1, h, w\)"):
        decode_tiled(tokenizer, torch.zeros(2, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"0\.\.31"):
        decode_tiled(tokenizer, torch.full((4, 4), 32))
