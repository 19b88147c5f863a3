# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportMissingImports=false, reportOperatorIssue=false
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig

K = 16
NEAREST = pytest.mark.parametrize("quantizer", ["cosine", "vq"])

SEVERAL: dict[str, dict] = {
    "cosine in groups": {"groups": 3},
    "residual": {"quantizer": "vq", "residual": 2},
    "both": {"quantizer": "simvq", "groups": 2, "residual": 2},
    "fsq in groups": {"quantizer": "fsq", "fsq_levels": (4, 4), "groups": 2},
    "vqgan": {"architecture": "vqgan", "z_channels": 8, "groups": 2, "mid_attention": False},
}


def build(*, ready: bool = True, **fields) -> ImageTokenizer:
    """An untrained tokenizer of 8 x 8 pixels, 16 codes; ``ready``: its codebook is fitted to its latents."""
    settings = {"stem": 4, "channels": (8, 16), "res_blocks": 1, "codebook_size": K, "codebook_dim": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = ImageTokenizer(ImageTokenizerConfig(**{**settings, **fields})).eval()
        if ready:
            tokenizer.initialize_codebook(flat(tokenizer, noise(8, 8 * tokenizer.factor, 64, seed=9)))
    return tokenizer


def noise(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images of random pixels, each with a different mean color."""
    generator = torch.Generator().manual_seed(seed)
    color = torch.rand(batch, 3, 1, 1, generator=generator) * 2 - 1
    return (color + 0.5 * torch.randn(batch, 3, height, width, generator=generator)).clamp(-1, 1)


def flat(tokenizer: ImageTokenizer, images: Tensor) -> Tensor:
    """Latents (N, D) of ``images``."""
    with torch.no_grad():
        return tokenizer.latents(images).movedim(1, -1).flatten(0, 2)


def vectors(tokenizer: ImageTokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Latents (N, D) of ``images``, and the vectors (N, D) of their codes."""
    return flat(tokenizer, images), tokenizer.codebook[tokenizer.encode(images).flatten()]


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
    """The same input gives bit-identical output, in training mode too, and no weight changes."""
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


@NEAREST
def test_batched_is_single(quantizer: str) -> None:
    tokenizer = build(quantizer=quantizer).double()  # in float32 a batch's last bits are not a single image's
    images = noise(5, 16, 24).double()
    codes = tokenizer.encode(images)
    single = torch.cat([tokenizer.encode(image[None]) for image in images])
    assert torch.equal(codes, single)
    decoded = torch.cat([tokenizer.decode(grid[None]) for grid in codes])
    torch.testing.assert_close(tokenizer.decode(codes), decoded, atol=1e-12, rtol=0)


@NEAREST
def test_codes_are_the_nearest_vectors(quantizer: str) -> None:
    tokenizer = build(quantizer=quantizer)
    images = noise(3, 24, 32)
    latents, codes = flat(tokenizer, images), tokenizer.encode(images)
    assert latents.shape == (3 * 3 * 4, 4)
    if quantizer == "cosine":
        torch.testing.assert_close(latents.norm(dim=1), torch.ones(len(latents)))
        torch.testing.assert_close(tokenizer.codebook.norm(dim=1), torch.ones(K))
        nearest = torch.cosine_similarity(latents[:, None], tokenizer.codebook[None], dim=-1).argmax(1)
    else:
        nearest = (latents[:, None] - tokenizer.codebook[None]).square().sum(-1).argmin(1)
    assert torch.equal(codes.flatten(), nearest)
    # and the quantizer of the training step agrees
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
    with pytest.raises(ValueError, match=rf"\(B, 3, H, W\).* 8.*{re.escape(str(shape))}.*pixels\.fit"):
        call(build(ready=False), torch.zeros(shape))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.int64), r"\(B, h, w\).*\(2, 2\)"),
        (torch.full((1, 2, 2), K), rf"codes.*0\.\.{K - 1}.*{K}\.\.{K}"),
        (torch.tensor([[[0, -1]]]), rf"codes.*0\.\.{K - 1}.*-1\.\.0"),
        (torch.zeros(1, 2, 2, 3, dtype=torch.int64), r"\(B, h, w\).*\(1, 2, 2, 3\)"),
    ],
)
def test_invalid_codes_are_refused(codes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(ready=False).decode(codes)


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 2, 2, 2), (1, 2, 2, 4), (1, 2, 2, 3, 1)])
def test_several_codes_have_an_axis_of_their_own(shape: tuple[int, ...]) -> None:
    tokenizer = build(ready=False, groups=3)
    with pytest.raises(ValueError, match=rf"\(B, h, w, 3\).*{re.escape(str(shape))}"):
        tokenizer.decode(torch.zeros(shape, dtype=torch.int64))
    assert tokenizer.decode(torch.full((1, 2, 2, 3), K - 1)).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match=rf"codes.*0\.\.{K - 1}"):
        tokenizer.decode(torch.full((1, 2, 2, 3), K))  # each slot has its own K


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_codes_per_position(kind: str) -> None:
    tokenizer = build(**SEVERAL[kind])
    n, images = tokenizer.codes_per_position, noise(3, 16, 24)
    codes = tokenizer.encode(images)
    assert codes.dtype == torch.int64 and codes.shape == (3, 2, 3, n)
    assert tokenizer.bits_per_pixel == pytest.approx(n * 4 / 64)
    decoded = tokenizer.decode(codes)
    assert decoded.shape == images.shape
    output = tokenizer(images)
    assert output.codes is not None and torch.equal(output.codes, codes)
    torch.testing.assert_close(output.images.clamp(-1, 1), decoded, atol=1e-4, rtol=1e-4)
    if tokenizer.config.quantizer == "cosine":  # unit vectors, group by group
        norms = tokenizer.latents(images).unflatten(1, (n, -1)).norm(dim=2)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    book = tokenizer.codebook.detach()
    assert book.shape == (n * K, tokenizer.config.latent_dim)
    latents = book[codes + K * torch.arange(n)].sum(-2).movedim(-1, 1)
    torch.testing.assert_close(tokenizer.reconstruct(latents).clamp(-1, 1), decoded, atol=1e-5, rtol=1e-4)
    slot = codes.clone()
    slot[1, 0, 2, n - 1] = (slot[1, 0, 2, n - 1] + 1) % K  # one code of one image is another
    changed = (tokenizer.decode(slot) - decoded).abs().amax(dim=(1, 2, 3))
    assert (changed > 0).tolist() == [False, True, False]


def test_what_is_far_away_changes_no_code_with_layer_norm() -> None:
    """With norms per position, a code depends only on its neighborhood."""
    images = noise(1, 32, 160)
    other = images.clone()
    other[..., 128:] = -images[..., 128:]
    same = {}
    for norm in ("layer", "group"):
        tokenizer = build(norm=norm, codebook_size=64).double()
        near, far = (tokenizer.latents(x.double())[..., :10] for x in (images, other))
        same[norm] = torch.equal(near, far)
        if norm == "layer":
            codes, others = tokenizer.encode(images.double()), tokenizer.encode(other.double())
            assert torch.equal(codes[..., :10], others[..., :10])
            assert not torch.equal(codes[..., 16:], others[..., 16:])
    assert same == {"layer": True, "group": False}


def test_the_last_layer_is_the_last_convolution() -> None:
    tokenizer = build()
    images = noise(1, 16, 16)
    before = tokenizer.reconstruct(tokenizer.latents(images))
    with torch.no_grad():
        tokenizer.last_layer.mul_(2)
        last = [m for m in tokenizer.decoder.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        assert last.bias is not None
        last.bias.mul_(2)
    torch.testing.assert_close(tokenizer.reconstruct(tokenizer.latents(images)), 2 * before)


# the codebook


@NEAREST
def test_k_means_makes_a_better_codebook(quantizer: str) -> None:
    tokenizer = build(ready=False, quantizer=quantizer)
    images = noise(8, 64, 64)
    unready = error(tokenizer, images)
    tokenizer.quantizer.slots[0]._codebook.initted.fill_(False)
    torch.manual_seed(0)
    tokenizer.initialize_codebook(flat(tokenizer, images))
    assert tokenizer.quantizer.slots[0]._codebook.initted
    ready = error(tokenizer, images)
    assert ready < 0.7 * unready
    latents, _ = vectors(tokenizer, images)
    assert ready < 0.6 * float((latents - latents.mean(0)).square().mean())  # better than one code for all
    assert len(tokenizer.encode(images).unique()) > K / 2
    assert error(tokenizer, noise(8, 64, 64, seed=1)) < unready  # and for images it has not seen

    book = tokenizer.quantizer.slots[0]._codebook
    torch.testing.assert_close(book.embed_avg, book.embed * book.cluster_size[..., None])
    assert float(book.cluster_size.mean()) == pytest.approx(1, abs=0.01)
    tokenizer.train()(images)  # the moving averages continue without a jump
    assert error(tokenizer, images) < 1.1 * ready


def test_k_means_is_reproduced_by_its_seed() -> None:
    books = []
    for seed in (1, 1, 2):
        tokenizer = build(ready=False)
        torch.manual_seed(seed)
        tokenizer.initialize_codebook(flat(tokenizer, noise(4, 32, 32)))
        books.append(tokenizer.codebook.clone())
    assert torch.equal(books[0], books[1]) and not torch.equal(books[0], books[2])


def test_k_means_needs_a_latent_for_each_code() -> None:
    tokenizer = build(ready=False)
    before = tokenizer.codebook.clone()
    with pytest.raises(ValueError, match=r"16 latents.*15"):
        tokenizer.initialize_codebook(torch.randn(15, 4))
    assert torch.equal(tokenizer.codebook, before)


@NEAREST
def test_dead_codes_are_replaced_in_training(quantizer: str) -> None:
    def replaced(threshold: float, train: bool) -> bool:
        torch.manual_seed(0)
        tokenizer = build(quantizer=quantizer, codebook_decay=0.5, dead_code_threshold=threshold)
        images = noise(2, 32, 32)
        with torch.no_grad():
            tokenizer.encoder[-1].bias.fill_(1.0)  # all latents point to one side
        away = -100 * flat(tokenizer, images).mean(0)  # opposite to all latents, and far away
        if quantizer == "cosine":
            away = torch.nn.functional.normalize(away, dim=0)
        book = tokenizer.quantizer.slots[0]._codebook
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
            latents = flat(tokenizer, images)
            gap = torch.cdist(tokenizer.codebook[: K // 2], latents).min(1).values
            assert gap.max() < 0.05  # each lies among the latents now
        return bool((distance > 0.1).all())

    assert replaced(threshold=0.1, train=True)
    assert not replaced(threshold=0.0, train=True)
    assert not replaced(threshold=0.1, train=False)


@NEAREST
def test_gradients_pass_the_codebook(quantizer: str) -> None:
    tokenizer = build(quantizer=quantizer).train()
    images = noise(2, 16, 16)
    book = tokenizer.codebook.clone()
    output = tokenizer(images)
    assert output.codes is not None and output.codes.shape == (2, 2, 2)
    # the decoder gets the vectors of the codes themselves: only the gradient differs
    torch.testing.assert_close(
        output.images, tokenizer.decoder(book[output.codes].movedim(-1, 1)), atol=1e-5, rtol=1e-4
    )
    (output.images - images).abs().mean().backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert not torch.equal(tokenizer.codebook, book)  # it follows its moving average, not a gradient
    assert not any(name.startswith("quantizer") for name, _ in tokenizer.named_parameters())


@NEAREST
def test_the_commitment_loss_draws_latents_to_their_codes(quantizer: str) -> None:
    tokenizer = build(quantizer=quantizer).train()
    images = noise(2, 16, 16)
    expected = error(tokenizer, images)
    loss = tokenizer(images).quantizer_loss
    assert loss.shape == ()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tokenizer.encoder.parameters())
    assert all(p.grad is None or not p.grad.any() for p in tokenizer.decoder.parameters())


def test_the_warm_up_is_a_plain_autoencoder() -> None:
    tokenizer = build().train()
    before = {name: tensor.clone() for name, tensor in tokenizer.quantizer.state_dict().items()}
    images = noise(2, 16, 24)
    output = tokenizer(images, quantize=False)
    assert output.codes is None and output.quantizer_loss == 0 and output.images.shape == images.shape
    latents = tokenizer.latents(images)
    assert latents.shape == (2, 4, 2, 3)
    torch.testing.assert_close(output.images, tokenizer.decoder(latents))
    output.images.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in tokenizer.encoder.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in tokenizer.quantizer.state_dict().items())


@NEAREST
def test_it_learns_an_image(quantizer: str, photo) -> None:
    from earlyfusion.tokenizers.pixels import to_tensor

    torch.manual_seed(0)
    images = to_tensor(photo.crop((0, 0, 32, 24)))[None]  # 12 codes
    tokenizer = build(quantizer=quantizer, codebook_size=8).train()
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    before = float((tokenizer.decode(tokenizer.encode(images)) - images).square().mean())
    for step in range(40):
        output = tokenizer(images, quantize=step >= 20)
        loss = (output.images - images).square().mean() + 0.25 * output.quantizer_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 19:
            tokenizer.initialize_codebook(flat(tokenizer, images))
    assert float((tokenizer.decode(tokenizer.encode(images)) - images).square().mean()) < 0.5 * before
