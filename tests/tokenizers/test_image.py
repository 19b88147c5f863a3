# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportMissingImports=false
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig

K = 16
NEAREST = [pytest.param(True, id="cosine"), pytest.param(False, id="euclidean")]


def build(*, ready: bool = True, **fields) -> ImageTokenizer:
    """An untrained tokenizer of 8 x 8 pixels and 16 codes; `ready`: its codebook lies among its latents."""
    settings = {"stem": 4, "channels": (8, 16), "res_blocks": 1, "codebook_size": K, "codebook_dim": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = ImageTokenizer(ImageTokenizerConfig(**{**settings, **fields})).eval()
        if ready:
            tokenizer.initialise_codebook(tokenizer.latents(noise(8, 8 * tokenizer.factor, 64, seed=9)))
    return tokenizer


def noise(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images of random pixels, each with a colour of its own."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(batch, 3, 1, 1, generator=generator) * 2 - 1
    return (colour + 0.5 * torch.randn(batch, 3, height, width, generator=generator)).clamp(-1, 1)


def vectors(tokenizer: ImageTokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Latents (N, D) of `images` and the codebook vectors (N, D) that stand for them."""
    return tokenizer.latents(images), tokenizer.codebook[tokenizer.encode(images).flatten()]


def error(tokenizer: ImageTokenizer, images: Tensor) -> float:
    """Mean squared distance of latents to their codes."""
    latents, codes = vectors(tokenizer, images)
    return float((latents - codes).square().mean())


# images <-> codes


@pytest.mark.parametrize(
    ("stem", "channels", "factor"), [(1, (8,), 1), (2, (8, 8), 4), (4, (8, 16), 8), (2, (8, 8, 8, 16), 16)]
)
def test_any_multiple_of_the_factor(stem: int, channels: tuple[int, ...], factor: int) -> None:
    tokenizer = build(ready=False, stem=stem, channels=channels)
    assert tokenizer.factor == tokenizer.config.factor == factor
    for batch, h, w in ((1, 1, 1), (3, 2, 5), (2, 7, 1)):
        codes = tokenizer.encode(noise(batch, h * factor, w * factor))
        assert codes.dtype == torch.int64 and codes.shape == (batch, h, w)
        assert 0 <= codes.min() and codes.max() < tokenizer.codebook_size == K
        images = tokenizer.decode(codes)
        assert images.dtype == torch.float32 and images.shape == (batch, 3, h * factor, w * factor)


def test_decoded_images_stay_in_range() -> None:
    tokenizer = build()
    with torch.no_grad():
        for parameter in tokenizer.decoder.parameters():
            parameter.mul_(3)
        codes = torch.arange(K).view(1, 4, 4)
        wild = tokenizer.decoder(tokenizer.codebook[codes].movedim(-1, 1))
    assert wild.abs().max() > 2
    images = tokenizer.decode(codes)
    assert images.min() == -1 and images.max() == 1


def test_encoding_and_decoding_are_functions() -> None:
    """The same input gives the same output to the bit, in training mode too, and neither changes a weight."""
    tokenizer = build().train()
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    images = noise(2, 16, 24)
    codes = tokenizer.encode(images)
    decoded = tokenizer.decode(codes)
    again = tokenizer.encode(decoded)
    assert not decoded.requires_grad
    assert len(codes.unique()) > 3
    for _ in range(2):
        assert torch.equal(tokenizer.encode(images), codes)
        assert torch.equal(tokenizer.decode(codes), decoded)
        assert torch.equal(tokenizer.encode(tokenizer.decode(codes)), again)
        tokenizer.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tokenizer.state_dict().items())


@pytest.mark.parametrize("cosine", NEAREST)
def test_batched_is_single(cosine: bool) -> None:
    tokenizer = build(cosine=cosine).double()  # in float32 a batch's last bits are not a single image's
    images = noise(5, 16, 24).double()
    codes = tokenizer.encode(images)
    single = torch.cat([tokenizer.encode(image[None]) for image in images])
    assert torch.equal(codes, single)
    decoded = torch.cat([tokenizer.decode(grid[None]) for grid in codes])
    torch.testing.assert_close(tokenizer.decode(codes), decoded, atol=1e-12, rtol=0)


@pytest.mark.parametrize("cosine", NEAREST)
def test_codes_are_the_nearest_vectors(cosine: bool) -> None:
    tokenizer = build(cosine=cosine)
    images = noise(3, 24, 32)
    latents, codes = tokenizer.latents(images), tokenizer.encode(images)
    assert latents.shape == (3 * 3 * 4, 4)
    if cosine:
        torch.testing.assert_close(latents.norm(dim=1), torch.ones(len(latents)))
        torch.testing.assert_close(tokenizer.codebook.norm(dim=1), torch.ones(K))
        nearest = torch.cosine_similarity(latents[:, None], tokenizer.codebook[None], dim=-1).argmax(1)
    else:
        nearest = (latents[:, None] - tokenizer.codebook[None]).square().sum(-1).argmin(1)
    assert torch.equal(codes.flatten(), nearest)
    assert torch.equal(tokenizer.nearest(latents), nearest)
    # and the quantiser of the training step agrees
    output = tokenizer(images)
    assert output.codes is not None and torch.equal(output.codes, codes)
    torch.testing.assert_close(output.images.clamp(-1, 1), tokenizer.decode(codes))


@pytest.mark.parametrize(("codes", "stem", "bits"), [(1024, 4, 10 / 64), (2, 1, 1 / 4), (4096, 8, 12 / 256)])
def test_bits_per_pixel(codes: int, stem: int, bits: float) -> None:
    assert build(ready=False, codebook_size=codes, stem=stem).bits_per_pixel == pytest.approx(bits)


@pytest.mark.parametrize(
    "shape", [(2, 3, 16, 20), (2, 3, 12, 16), (3, 16, 16), (2, 1, 16, 16), (2, 16, 16, 3), (1, 3, 0, 8)]
)
@pytest.mark.parametrize("call", [ImageTokenizer.encode, ImageTokenizer.latents, ImageTokenizer.__call__])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...], call: Callable) -> None:
    expected = f"(B, 3, H, W) with H and W multiples of 8, got {shape}; pixels.fit resizes or pads"
    with pytest.raises(ValueError, match=re.escape(expected)):
        call(build(ready=False), torch.zeros(shape))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.int64), "shape (B, h, w), got (2, 2)"),
        (torch.full((1, 2, 2), K), f"codes must lie in 0..{K - 1}, got {K}..{K}"),
        (torch.tensor([[[0, -1]]]), f"codes must lie in 0..{K - 1}, got -1..0"),
    ],
)
def test_codes_that_are_none_are_refused(codes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(ready=False).decode(codes)


# the codebook


@pytest.mark.parametrize("cosine", NEAREST)
def test_k_means_makes_a_better_codebook(cosine: bool) -> None:
    tokenizer = build(ready=False, cosine=cosine)
    images = noise(8, 64, 64)
    unready = error(tokenizer, images)
    tokenizer.quantizer._codebook.initted.fill_(False)
    torch.manual_seed(0)
    tokenizer.initialise_codebook(tokenizer.latents(images))
    assert tokenizer.quantizer._codebook.initted
    ready = error(tokenizer, images)
    assert ready < 0.7 * unready
    latents, _ = vectors(tokenizer, images)
    assert ready < 0.6 * float((latents - latents.mean(0)).square().mean())  # better than one code for all
    assert len(tokenizer.encode(images).unique()) > K / 2
    assert error(tokenizer, noise(8, 64, 64, seed=1)) < unready  # and for images it has not seen

    book = tokenizer.quantizer._codebook
    torch.testing.assert_close(book.embed_avg, book.embed * book.cluster_size[..., None])
    assert float(book.cluster_size.mean()) == pytest.approx(1, abs=0.01)
    tokenizer.train()(images)  # the moving averages go on from there, without a jump
    assert error(tokenizer, images) < 1.1 * ready


def test_k_means_is_reproduced_by_its_seed() -> None:
    books = []
    for seed in (1, 1, 2):
        tokenizer = build(ready=False)
        torch.manual_seed(seed)
        tokenizer.initialise_codebook(tokenizer.latents(noise(4, 32, 32)))
        books.append(tokenizer.codebook.clone())
    assert torch.equal(books[0], books[1]) and not torch.equal(books[0], books[2])


def test_k_means_needs_a_latent_for_each_code() -> None:
    tokenizer = build(ready=False)
    before = tokenizer.codebook.clone()
    with pytest.raises(ValueError, match="k-means needs at least K = 16 latents, got 15"):
        tokenizer.initialise_codebook(torch.randn(15, 4))
    assert torch.equal(tokenizer.codebook, before)


@pytest.mark.parametrize("cosine", NEAREST)
def test_dead_codes_are_replaced_in_training(cosine: bool) -> None:
    def replaced(threshold: float, train: bool) -> bool:
        torch.manual_seed(0)
        tokenizer = build(cosine=cosine, codebook_decay=0.5, dead_code_threshold=threshold)
        images = noise(2, 32, 32)
        with torch.no_grad():
            tokenizer.encoder[-1].bias.fill_(1.0)  # all latents point to one side
        away = -100 * tokenizer.latents(images).mean(0)  # opposite to all latents, and far away
        if cosine:
            away = torch.nn.functional.normalize(away, dim=0)
        book = tokenizer.quantizer._codebook
        book.embed[0, : K // 2] = away
        book.embed_avg[0, : K // 2] = away
        book.cluster_size[0, : K // 2] = 1.0
        dead = tokenizer.codebook[0].clone()
        assert tokenizer.encode(images).min() >= K // 2
        tokenizer.train(train)
        for _ in range(4):  # use falls to 1 / 16
            tokenizer(images)
        distance = (tokenizer.codebook[: K // 2] - dead).norm(dim=1) / dead.norm()
        if train and threshold:
            latents = tokenizer.latents(images)
            gap = torch.cdist(tokenizer.codebook[: K // 2], latents).min(1).values
            assert gap.max() < 0.05  # each lies among the latents now
        return bool((distance > 0.1).all())

    assert replaced(threshold=0.1, train=True)
    assert not replaced(threshold=0.0, train=True)
    assert not replaced(threshold=0.1, train=False)


@pytest.mark.parametrize("cosine", NEAREST)
def test_gradients_pass_the_codebook(cosine: bool) -> None:
    tokenizer = build(cosine=cosine).train()
    images = noise(2, 16, 16)
    book = tokenizer.codebook.clone()
    output = tokenizer(images)
    assert output.codes is not None and output.codes.shape == (2, 2, 2)
    # what is decoded are the codes themselves: only the gradient takes another way
    torch.testing.assert_close(
        output.images, tokenizer.decoder(book[output.codes].movedim(-1, 1)), atol=1e-5, rtol=1e-4
    )
    (output.images - images).abs().mean().backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert not torch.equal(tokenizer.codebook, book)  # it follows its moving average, not a gradient
    assert not any(name.startswith("quantizer") for name, _ in tokenizer.named_parameters())


@pytest.mark.parametrize("cosine", NEAREST)
def test_the_commitment_loss_draws_latents_to_their_codes(cosine: bool) -> None:
    tokenizer = build(cosine=cosine).train()
    images = noise(2, 16, 16)
    latents, codes = vectors(tokenizer, images)
    expected = (latents - codes).square().mean()
    loss = tokenizer(images).commitment_loss
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tokenizer.encoder.parameters())
    assert all(p.grad is None or not p.grad.any() for p in tokenizer.decoder.parameters())


def test_the_warm_up_is_a_plain_autoencoder() -> None:
    tokenizer = build().train()
    before = {name: tensor.clone() for name, tensor in tokenizer.quantizer.state_dict().items()}
    images = noise(2, 16, 24)
    output = tokenizer(images, quantize=False)
    assert output.codes is None and output.commitment_loss == 0 and output.images.shape == images.shape
    latents = tokenizer.latents(images).view(2, 2, 3, 4).movedim(-1, 1)
    torch.testing.assert_close(output.images, tokenizer.decoder(latents))
    output.images.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in tokenizer.encoder.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in tokenizer.quantizer.state_dict().items())


@pytest.mark.parametrize("cosine", NEAREST)
def test_it_learns_an_image(cosine: bool, photo) -> None:
    from earlyfusion.tokenizers.pixels import to_tensor

    torch.manual_seed(0)
    images = to_tensor(photo.crop((0, 0, 32, 24)))[None]  # 12 codes
    tokenizer = build(cosine=cosine, codebook_size=8).train()
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    before = float((tokenizer.decode(tokenizer.encode(images)) - images).square().mean())
    for step in range(40):
        output = tokenizer(images, quantize=step >= 20)
        loss = (output.images - images).square().mean() + 0.25 * output.commitment_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 19:
            tokenizer.initialise_codebook(tokenizer.latents(images))
    assert float((tokenizer.decode(tokenizer.encode(images)) - images).square().mean()) < 0.5 * before


# the configuration


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem": 0}, "stem must be a power of two (1, 2, 4, ...), got 0"),
        ({"stem": 3}, "stem must be a power of two (1, 2, 4, ...), got 3"),
        ({"channels": ()}, "channels must be multiples of 8, one per level, got ()"),
        ({"channels": (8, 12)}, "channels must be multiples of 8, one per level, got (8, 12)"),
        ({"channels": (0, 8)}, "channels must be multiples of 8, one per level, got (0, 8)"),
        ({"res_blocks": 0}, "res_blocks must be at least 1, got 0"),
        ({"codebook_size": 0}, "codebook_size must be at least 1, got 0"),
        ({"codebook_dim": -1}, "codebook_dim must be at least 1, got -1"),
        ({"codebook_decay": 0.0}, "codebook_decay must lie between 0 and 1, got 0.0"),
        ({"codebook_decay": 1.0}, "codebook_decay must lie between 0 and 1, got 1.0"),
        ({"codebook_decay": math.nan}, "codebook_decay must lie between 0 and 1, got nan"),
        ({"dead_code_threshold": -0.1}, "dead_code_threshold must be 0 (off) or more, got -0.1"),
    ],
)
def test_bad_settings_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ImageTokenizerConfig(**fields)


# folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved image tokenizer."""
    build().save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def edit(folder: Path, **values) -> None:
    """Change fields of the folder's config.json; None takes one away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


@pytest.mark.parametrize("cosine", NEAREST)
def test_saving_and_loading_keeps_every_bit(cosine: bool, tmp_path: Path) -> None:
    tokenizer = build(cosine=cosine).train()
    images = noise(2, 16, 24)
    for _ in range(3):  # so that the codebook's statistics are no round numbers
        tokenizer(images)
    tokenizer.save(tmp_path / "new" / "tokenizer")
    tokenizer.save(str(tmp_path / "new" / "tokenizer"))  # over itself
    assert sorted(p.name for p in (tmp_path / "new").rglob("*")) == [
        "config.json",
        "model.safetensors",
        "tokenizer",
    ]
    loaded = ImageTokenizer.load(tmp_path / "new" / "tokenizer")
    assert not loaded.training and loaded.config == tokenizer.config
    assert loaded.state_dict().keys() == tokenizer.state_dict().keys()
    for name, tensor in tokenizer.state_dict().items():
        other = loaded.state_dict()[name]
        assert tensor.dtype == other.dtype and torch.equal(tensor, other), name
    codes = tokenizer.eval().encode(images)
    assert torch.equal(loaded.encode(images), codes)
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))
    generators = []
    for one in (tokenizer, loaded):  # training goes on from the same place
        torch.manual_seed(0)
        one.train()(images)
        generators.append(one.codebook)
    assert torch.equal(*generators)


def test_the_files_are_plain(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["kind"] == "image_tokenizer" and config["format"] == 1
    assert config["channels"] == [8, 16] and config["codebook_size"] == K and config["cosine"] is True
    assert load_file(folder / "model.safetensors")["quantizer._codebook.embed"].shape == (1, K, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "fusion_lm"}, "is of kind 'fusion_lm', expected 'image_tokenizer'"),
        ({"kind": None}, "is of kind None, expected 'image_tokenizer'"),
        ({"format": 2}, "has format 2; this earlyfusion reads format 1"),
        ({"format": None}, "has format None; this earlyfusion reads format 1"),
        ({"depth": 3}, "has the unknown field 'depth'; known are channels, codebook_decay, codebook_dim"),
        ({"stem": 3}, "config.json: stem must be a power of two"),
        ({"stem": "four"}, "config.json: "),
        ({"channels": 8}, "config.json: "),
        ({"channels": ["a"]}, "config.json: "),
        ({"codebook_size": 32}, "_codebook.cluster_size has the shape (1, 16), config.json asks for (1, 32)"),
        ({"channels": [8, 24]}, "config.json asks for (24,"),
        ({"channels": [8]}, "decoder.0.bias has the shape (16,), config.json asks for (8,)"),
        ({"res_blocks": 2}, "that config.json has no place for"),
    ],
)
def test_a_config_that_does_not_fit(folder: Path, values: dict, message: str) -> None:
    edit(folder, **values)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        ImageTokenizer.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "", "\xff\xfe"])
def test_a_config_that_is_no_json_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json is not a config of kind 'image_tokenizer'"):
        ImageTokenizer.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(name)} not found: .* belong"):
        ImageTokenizer.load(folder)
    with pytest.raises(FileNotFoundError, match=r"config\.json not found"):
        ImageTokenizer.load(folder / "nowhere")


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"])
def test_weights_that_are_no_safetensors(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is no readable safetensors file"):
        ImageTokenizer.load(folder)


def test_weights_that_were_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is no readable safetensors file"):
        ImageTokenizer.load(folder)


def test_weights_of_other_names(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"holds the tensor 'extra' that config\.json has no place for"):
        ImageTokenizer.load(folder)
    del weights["encoder.1.weight"]
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"lacks the tensor 'encoder\.1\.weight' that config\.json asks for"):
        ImageTokenizer.load(folder)


def test_a_failing_save_leaves_the_folder_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from earlyfusion.tokenizers import weights

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(weights, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        build(codebook_size=8).save(folder)
    with pytest.raises(OSError, match="No space left"):
        build(codebook_size=8).save(folder.parent / "other")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]
