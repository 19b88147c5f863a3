"""Quantizers of every kind: codes, their vectors, gradients, compared with the library's own classes."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vector_quantize_pytorch import GroupedResidualVQ, ResidualSimVQ, ResidualVQ

from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.vqvae.quantizer import IBQ, Quantizer

K, WIDTH = 16, 4
KINDS: dict[str, dict[str, Any]] = {
    "vq": {},
    "vq-learnable": {"learnable_codebook": True},
    "vq-straight": {"rotation_trick": False},
    "cosine": {},
    "cosine-groups": {"groups": 2},
    "simvq": {},
    "simvq-straight": {"rotation_trick": False},
    "fsq": {"fsq_levels": (4, 4)},
    "fsq-plain": {"fsq_levels": (4, 4), "codebook_dim": 2},
    "fsq-groups": {"fsq_levels": (4, 4), "groups": 2},
    "lfq": {},
    "lfq-groups": {"groups": 2},
    "ibq": {},
    "ibq-groups": {"groups": 2},
    "vq-residual": {"residual": 2},
    "vq-residual-straight": {"residual": 2, "rotation_trick": False},
    "simvq-residual": {"residual": 3},
    "vq-groups-residual": {"groups": 2, "residual": 2},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def config(kind: str, **fields: Any) -> ImageTokenizerConfig:
    """A small image tokenizer of 8 px per position and 16 codes, with the quantizer ``kind``."""
    settings = {"stem": 4, "channels": (8, 16), "res_blocks": 1, "codebook_size": K, "codebook_dim": WIDTH}
    return ImageTokenizerConfig(**{**settings, "quantizer": kind.split("-")[0], **KINDS[kind], **fields})


def draw(settings: ImageTokenizerConfig, seed: int = 0, side: int = 8) -> Tensor:
    """Latents (4, latent_dim, side, side) as an encoder gives them: uneven spread, not around 0."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(4, settings.latent_dim, side, side, generator=generator)
    latents = 0.3 + latents * torch.linspace(0.3, 2, settings.latent_dim)[:, None, None]
    if settings.quantizer == "cosine":
        latents = F.normalize(latents.unflatten(1, (settings.groups, -1)), dim=2).flatten(1, 2)
    return latents


def build(kind: str, *, ready: bool = True, **fields: Any) -> Quantizer:
    """A quantizer in evaluation mode; ``ready``: fitted to latents of another seed."""
    settings = config(kind, **fields)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        quantizer = Quantizer(settings).eval()
        if ready:
            quantizer.initialize(rows(draw(settings, seed=9)))
    return quantizer


def rows(latents: Tensor) -> Tensor:
    """(B, D, h, w) -> (B * h * w, D)."""
    return latents.movedim(1, -1).flatten(0, 2)


def error(quantizer: Quantizer, latents: Tensor) -> float:
    """Mean squared distance of latents (N, D) to the vectors of their codes."""
    return float((quantizer.decode(quantizer.encode(latents)) - latents).square().mean())


@every_kind
def test_codes_and_their_latents(kind: str) -> None:
    quantizer = build(kind)
    latents, n = draw(quantizer.config), quantizer.config.codes_per_position
    codes = quantizer.encode(latents.movedim(1, -1))
    assert codes.dtype == torch.int64 and codes.shape == (4, 8, 8, *((n,) if n > 1 else ()))
    assert 0 <= codes.min() and codes.max() < K
    assert all(len(slot.unique()) > K / 2 for slot in codes.view(-1, n).T) or kind == "fsq-plain"
    vectors = quantizer.decode(codes)
    assert vectors.shape == (4, 8, 8, quantizer.config.latent_dim) and not vectors.requires_grad

    output = quantizer(latents)
    assert torch.equal(output.codes, codes) and output.loss.shape == ()
    torch.testing.assert_close(output.latents.movedim(1, -1), vectors, atol=1e-5, rtol=1e-5)
    # one position alone, and no position at all
    assert torch.equal(quantizer.encode(latents[0, :, 3, 4]), codes[0, 3, 4])
    assert quantizer.encode(latents.movedim(1, -1)[:0]).shape == (0, *codes.shape[1:])


@every_kind
def test_a_position_is_the_sum_of_rows_of_the_codebook(kind: str) -> None:
    quantizer = build(kind)
    book, n = quantizer.codebook.detach(), quantizer.config.codes_per_position
    assert book.shape == (n * K, quantizer.config.latent_dim)
    codes = torch.randint(K, (5, n), generator=torch.Generator().manual_seed(1))
    expected = torch.stack([sum(book[s * K + int(c)] for s, c in enumerate(some)) for some in codes])
    torch.testing.assert_close(quantizer.decode(codes if n > 1 else codes[:, 0]), expected)
    for s in range(n):  # a slot moves its own group alone
        first = s // quantizer.config.residual * quantizer.config.codebook_dim
        others = torch.ones(quantizer.config.latent_dim, dtype=torch.bool)
        others[first : first + quantizer.config.codebook_dim] = False
        assert not book[s * K : (s + 1) * K, others].any()


@pytest.mark.parametrize("kind", [k for k in KINDS if k.split("-")[0] in ("vq", "cosine", "simvq")])
def test_codes_are_the_nearest_by_brute_force(kind: str) -> None:
    quantizer = build(kind)
    depth, width = quantizer.config.residual, quantizer.config.codebook_dim
    books = quantizer.codebook.detach().view(-1, K, quantizer.config.latent_dim)
    latents = rows(draw(quantizer.config))
    expected = []
    for s, book in enumerate(books):
        group = slice(s // depth * width, s // depth * width + width)
        left = latents[:, group] if s % depth == 0 else left - books[s - 1][expected[-1], group]  # noqa: F821
        expected.append((left[:, None] - book[None, :, group]).square().sum(-1).argmin(1))
    found = quantizer.encode(latents).view(len(latents), -1)
    assert torch.equal(found, torch.stack(expected, 1))


def test_fsq_rounds_each_channel() -> None:
    quantizer = build("fsq-plain", fsq_levels=(5, 3), codebook_size=15)
    latents = rows(draw(quantizer.config))
    levels = torch.tensor([5, 3])
    digits = (latents.tanh() * (levels - 1) / 2 * (1 + 1e-3)).round() + levels // 2
    assert torch.equal(quantizer.encode(latents), (digits[:, 0] + 5 * digits[:, 1]).long())
    expected = (digits - levels // 2) / (levels // 2)
    torch.testing.assert_close(quantizer.decode(quantizer.encode(latents)), expected)


def test_lfq_takes_signs() -> None:
    quantizer = build("lfq")
    latents = rows(draw(quantizer.config))
    slot = quantizer.slots[0]
    with torch.no_grad():
        signs = slot.project_in(latents) > 0
        expected = slot.project_out(signs * 2.0 - 1)
    codes = quantizer.encode(latents)
    assert torch.equal(codes, (signs * torch.tensor([8, 4, 2, 1])).sum(1))
    torch.testing.assert_close(quantizer.decode(codes), expected)


def test_ibq_takes_the_largest_product() -> None:
    quantizer = build("ibq")
    latents = rows(draw(quantizer.config))
    assert torch.equal(quantizer.encode(latents), (latents @ quantizer.slots[0].codebook.T).argmax(1))


@pytest.mark.parametrize("kind", ["fsq", "fsq-plain", "lfq"])
def test_vectors_are_the_librarys(kind: str) -> None:
    quantizer = build(kind)
    codes = torch.arange(K)
    expected = quantizer.slots[0].indices_to_codes(codes[None])[0]
    torch.testing.assert_close(quantizer.decode(codes), expected)


def test_residual_vq_is_the_librarys() -> None:
    quantizer = build("vq-residual")
    witness = ResidualVQ(dim=WIDTH, num_quantizers=2, codebook_size=K).eval()
    for layer, slot in zip(witness.layers, quantizer.slots):
        layer.codebook = slot.codebook
    latents = draw(quantizer.config)
    expected, codes, _ = witness(latents.flatten(2).mT)
    assert torch.equal(quantizer.encode(latents.flatten(2).mT), codes)
    torch.testing.assert_close(quantizer.decode(codes), expected)


def test_residual_simvq_is_the_librarys() -> None:
    quantizer = build("simvq-residual")
    witness = ResidualSimVQ(dim=WIDTH, num_quantizers=3, codebook_size=K, rotation_trick=False).eval()
    for layer, slot in zip(witness.layers, quantizer.slots):
        layer.load_state_dict(slot.state_dict())
    latents = draw(quantizer.config)
    expected, codes, _ = witness(latents.flatten(2).mT)
    assert torch.equal(quantizer.encode(latents.flatten(2).mT), codes)
    torch.testing.assert_close(quantizer.decode(codes), expected.detach())


def test_groups_of_residuals_are_the_librarys() -> None:
    quantizer = build("vq-groups-residual")
    witness = GroupedResidualVQ(dim=2 * WIDTH, groups=2, num_quantizers=2, codebook_size=K).eval()
    layers = [layer for group in witness.rvqs for layer in group.layers]
    for layer, slot in zip(layers, quantizer.slots, strict=True):
        layer.codebook = slot.codebook
    latents = draw(quantizer.config)
    expected, codes, _ = witness(latents.flatten(2).mT)  # codes (groups, B, N, depth)
    slots = codes.movedim(0, 2).flatten(2)
    assert torch.equal(quantizer.encode(latents.flatten(2).mT), slots)
    torch.testing.assert_close(quantizer.decode(slots), expected)


@every_kind
def test_gradients_pass_the_quantizer(kind: str) -> None:
    quantizer = build(kind).train()
    latents = draw(quantizer.config).requires_grad_()
    output = quantizer(latents)
    (output.latents * torch.randn_like(latents)).sum().backward()
    assert latents.grad is not None and latents.grad.isfinite().all()
    assert (latents.grad.abs().amax(dim=1) > 0).float().mean() > 0.9  # at nearly every position
    if kind.endswith("straight"):
        latents.grad = None
        (3 * quantizer(latents).latents).sum().backward()
        torch.testing.assert_close(latents.grad, torch.full_like(latents, 3))


@every_kind
def test_a_training_step_decodes_the_codes_themselves(kind: str) -> None:
    """The values are those of decode; only the gradient differs."""
    quantizer = build(kind)
    latents = draw(quantizer.config)
    expected = quantizer.decode(quantizer.encode(latents.movedim(1, -1)))  # before the averages move on
    found = quantizer.train()(latents.requires_grad_()).latents.movedim(1, -1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("fsq")])
def test_the_loss_draws_latents_to_their_codes(kind: str) -> None:
    quantizer = build(kind, dead_code_threshold=0.0).train()
    latents = draw(quantizer.config).requires_grad_()
    loss = quantizer(latents).loss
    assert loss.shape == () and loss.isfinite()
    loss.backward()
    assert latents.grad is not None and latents.grad.any()
    if quantizer.config.quantizer not in ("vq", "cosine", "simvq"):
        return  # the others' entropy terms may draw elsewhere
    before = build(kind)
    with torch.no_grad():
        step = latents - 0.1 * latents.grad / latents.grad.abs().amax()
        assert error(before, rows(step)) < error(before, rows(latents))


@pytest.mark.parametrize("kind", ["vq-learnable", "simvq", "ibq", "vq-residual", "vq"])
def test_the_codebook_learns(kind: str) -> None:
    """By gradients or by its moving average, it approximates constant latents better and better."""
    quantizer = build(kind, ready=False).train()
    latents = draw(quantizer.config)
    parameters = list(quantizer.parameters())
    assert bool(parameters) == (kind not in ("vq", "vq-residual"))
    optimizer = torch.optim.Adam(parameters, 0.05) if parameters else None
    torch.manual_seed(0)
    before = error(quantizer.eval(), rows(latents))
    quantizer.train()
    for _ in range(60):
        loss = quantizer(latents.clone().requires_grad_()).loss
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert error(quantizer.eval(), rows(latents)) < 0.8 * before


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "fsq-plain"])
def test_initialize_fits_the_codebook(kind: str) -> None:
    quantizer = build(kind, ready=False)
    latents = rows(draw(quantizer.config))
    before = error(quantizer, latents)
    torch.manual_seed(0)
    quantizer.initialize(latents)
    after = error(quantizer, latents)
    assert after < 0.6 * before
    assert after < 0.7 * float((latents - latents.mean(0)).square().mean())  # better than one code for all
    assert error(quantizer, rows(draw(quantizer.config, seed=1))) < 0.7 * before  # and for others
    with pytest.raises(ValueError, match=rf"{K} latents.*{K - 1}"):
        quantizer.initialize(latents[: K - 1])


@pytest.mark.parametrize("kind", ["vq", "simvq"])
def test_each_further_code_lowers_the_error(kind: str) -> None:
    latents = rows(draw(config(kind)))
    errors = []
    for residual in (1, 2, 3):
        torch.manual_seed(0)
        quantizer = build(kind, ready=False, residual=residual)
        quantizer.initialize(latents)
        errors.append(error(quantizer, latents))
    assert errors[2] < 0.7 * errors[1] < 0.7 * 0.7 * errors[0]


def test_fitting_latents_that_hardly_vary() -> None:
    """Principal components without spread, codes that occur once: no inf, no NaN."""
    for kind in ("fsq", "lfq", "ibq", "vq", "simvq"):
        quantizer = build(kind, ready=False)
        flat = torch.ones(64, WIDTH) + 1e-4 * torch.randn(64, 1)
        quantizer.initialize(flat)
        assert all(tensor.isfinite().all() for tensor in quantizer.state_dict().values()), kind
        assert quantizer.decode(quantizer.encode(flat)).isfinite().all()


def test_ibq_by_hand() -> None:
    """The loss term by term, with loops where the module has matrices."""
    torch.manual_seed(0)
    module = IBQ(WIDTH, 5, commitment=0.3, entropy=0.2)
    x = torch.randn(2, 3, WIDTH, requires_grad=True)
    quantized, codes, loss = module(x)
    book = module.codebook.detach()
    probabilities = []
    commitment = torch.tensor(0.0)
    for b in range(2):
        for i in range(3):
            probability = torch.softmax(book @ x[b, i].detach(), 0)
            assert int(codes[b, i]) == int(probability.argmax())
            torch.testing.assert_close(quantized[b, i], book[codes[b, i]])
            commitment += (x[b, i].detach() - book[codes[b, i]]).square().mean() / 6
            probabilities.append(probability)
    mean = torch.stack(probabilities).mean(0)
    single = torch.stack([-(p * p.log()).sum() for p in probabilities]).mean()
    expected = (1 + 1 + 0.3) * commitment + 0.2 * (single + (mean * mean.log()).sum())
    torch.testing.assert_close(loss.detach(), expected)
    quantized.sum().backward()
    gradient = module.codebook.grad
    assert gradient is not None and (gradient.abs().sum(1) > 0).all()  # every code learns, used or not


def test_ibqs_gradients_by_hand() -> None:
    """Where each term's gradient may go, written out: the paper's (5) and the straight-through estimator."""
    torch.manual_seed(0)
    module = IBQ(WIDTH, 5, commitment=0.3, entropy=0.0).double()
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    book, codes = module.codebook, module(x)[1]

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, (x, book))

    # Hard codes forward; backward each code's vector as it is, and the softmax where the codes come from.
    out = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    found = gradients((module(x)[0] * out).sum())
    hard = F.one_hot(codes, 5).double()
    soft = gradients(((x @ book.T).softmax(-1) * (out @ book.detach().T)).sum())
    torch.testing.assert_close(found[0], soft[0])
    torch.testing.assert_close(found[1], soft[1] + torch.einsum("bnk,bnd->kd", hard, out))

    # The loss: both move for the first term, only the codes for the second, only the latents for the third.
    n = x.numel()
    error = (book[codes] - x).detach()
    through = gradients((module(x)[0] * (2 * error / n)).sum())
    wanted = through[0] - 2 * error / n - 0.3 * 2 * error / n
    found = gradients(module(x)[2])
    torch.testing.assert_close(found[0], wanted)
    torch.testing.assert_close(found[1], through[1] + torch.einsum("bnk,bnd->kd", hard, 2 * error / n))


def test_the_quantizers_commitment_is_the_librarys() -> None:
    """Weight 1 on the mean squared distance to the code, for the latents alone."""
    quantizer = build("vq", dead_code_threshold=0.0).train()
    latents = draw(quantizer.config).requires_grad_()
    output = quantizer(latents)
    expected = F.mse_loss(latents, output.latents.detach())
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_distances_are_precise(dtype: torch.dtype) -> None:
    """Coarse latents still choose by float32 distances; float64 stays float64."""
    quantizer = build("vq").to(dtype)
    latents = rows(draw(quantizer.config)).to(dtype)
    book = quantizer.codebook.double()
    nearest = (latents.double()[:, None] - book[None]).square().sum(-1).argmin(1)
    assert (quantizer.encode(latents) == nearest).float().mean() > 0.995
    assert quantizer.decode(nearest).dtype == dtype


@pytest.mark.parametrize("kind", ["vq", "cosine", "simvq", "fsq", "lfq", "ibq", "vq-groups-residual"])
def test_autocast_changes_no_distance(kind: str) -> None:
    """Encoding within autocast chooses among latents of bfloat16 as a training step does."""
    settings = config(kind)
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(settings).eval()
    images = torch.rand(4, 3, 32, 64) * 2 - 1
    tokenizer.initialize_codebook(rows(tokenizer.latents(images).detach()))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        codes, trained = tokenizer.encode(images), tokenizer(images).codes
    assert codes.dtype == torch.int64 and torch.equal(codes, trained)


def test_batches_and_positions_are_independent() -> None:
    for kind in KINDS:
        quantizer = build(kind).double()
        latents = draw(quantizer.config).double().movedim(1, -1)
        codes = quantizer.encode(latents)
        assert torch.equal(torch.stack([quantizer.encode(image) for image in latents]), codes), kind
        order = torch.randperm(8)
        assert torch.equal(quantizer.encode(latents[:, order]), codes[:, order]), kind
