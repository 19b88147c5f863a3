"""The adversarial loss: its formulae, what it learns, what it leaves alone, and its state."""

import io
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from earlyfusion.train.image import adversary
from earlyfusion.train.image.adversary import (
    Adversary,
    AdversaryConfig,
    PatchDiscriminator,
    adaptive_weight,
    hinge_loss,
)

CONFIG = AdversaryConfig(weight=0.5, start=0, warmup=0, lr=1e-3, channels=8, layers=2)


def pictures(count: int = 8, seed: int = 0) -> Tensor:
    """Black strokes on white (count, 3, 16, 24)."""
    generator = torch.Generator().manual_seed(seed)
    strokes = (torch.rand(count, 1, 16, 24, generator=generator) > 0.3).float() * 2 - 1
    return strokes.expand(-1, 3, -1, -1).contiguous()


def blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


class Decoder(nn.Module):
    """A generator of one layer, last_layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(images)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_hinge_loss_against_plain_lines():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.25, 1.0])
    expected = ((0 + 0.5 + 2.0) / 3 + (0 + 1.25 + 2.0) / 3) / 2
    assert float(hinge_loss(real, fake)) == pytest.approx(expected)


def test_adaptive_weight_by_hand():
    """Reconstruction w x against y, gradient 2 x (w x - y) / n; generator's loss -a w, gradient -a."""
    w = torch.tensor([2.0, -1.0], requires_grad=True)
    x, y, a = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0]), torch.tensor([0.3, 0.4])
    weight = adaptive_weight((w * x - y).square().mean(), -(a * w).sum(), w)
    gradient = [1.0 * 2.0, 3.0 * -3.0]
    assert float(weight) == pytest.approx(math.hypot(*gradient) / 0.5, rel=1e-5)
    assert not weight.requires_grad
    assert w.grad is None
    assert float(adaptive_weight((w * x).sum(), (0 * w).sum(), w)) == pytest.approx(1e4)


def test_the_term_is_as_strong_as_its_weight_says_and_grows_over_the_warmup():
    decoder, images = Decoder(), pictures()
    norms = {}
    for step in (100, 103, 107, 200):
        adversary = Adversary(replace(CONFIG, start=100, warmup=8))
        output = decoder(blurred(images))
        reconstruction = (output - images).abs().mean()
        term, values = adversary.generator_loss(
            output,
            reconstruction,
            next(m.weight for m in decoder.modules() if isinstance(m, nn.Conv2d)),
            step,
        )
        (wanted,) = torch.autograd.grad(reconstruction, decoder.out.weight, retain_graph=True)
        (got,) = torch.autograd.grad(term, decoder.out.weight)
        norms[step] = float(got.norm() / wanted.norm())
        assert set(values) == {"g_loss", "adaptive_weight"}
    assert norms == pytest.approx({100: 0.5 / 8, 103: 0.25, 107: 0.5, 200: 0.5}, rel=1e-3)


def test_nothing_happens_before_the_start():
    adversary, images = Adversary(replace(CONFIG, start=5)), pictures()
    before = {name: value.clone() for name, value in adversary.network.state_dict().items()}
    adversary.network.forward = None  # type: ignore[assignment]  # would raise
    output = Decoder()(images)
    assert adversary.discriminator_step(images, output, 4) == {}
    term, values = adversary.generator_loss(output, output.mean(), output, 4)
    assert (float(term), values) == (0.0, {})
    assert equal(adversary.network.state_dict(), before)
    assert adversary.state_dict() == {}  # nor does a checkpoint grow
    adversary.load_state_dict({})


def test_without_a_weight_no_discriminator_is_built(monkeypatch: pytest.MonkeyPatch):
    taught, images = Adversary(CONFIG), pictures()
    taught.discriminator_step(images, blurred(images), 0)

    def build(*sizes: int) -> None:
        raise AssertionError(f"a discriminator of {sizes} is built for nothing")

    monkeypatch.setattr("earlyfusion.train.image.adversary.PatchDiscriminator", build)
    adversary = Adversary(replace(CONFIG, weight=0.0))
    output = Decoder()(images)
    assert not adversary.active(10**6)
    assert adversary.discriminator_step(images, output, 0) == {}
    term, values = adversary.generator_loss(output, output.mean(), output, 0)
    assert (float(term), values) == (0.0, {})
    for state in ({}, taught.state_dict()):
        adversary.load_state_dict(state)
        assert adversary.state_dict() == {}


def test_the_discriminator_tells_images_from_blurred_ones():
    adversary = Adversary(CONFIG)
    losses = []
    for step in range(40):
        images = pictures(seed=step)
        values = adversary.discriminator_step(images, blurred(images), step)
        losses.append(float(values["d_loss"]))
    assert set(values) == {"d_loss", "logits_real", "logits_fake"}
    assert losses[0] == pytest.approx(1, abs=0.1)
    assert losses[-1] < 0.2
    assert float(values["logits_real"]) > 0.5 > -0.5 > float(values["logits_fake"])
    with torch.no_grad():
        unseen = pictures(seed=99)
        real, fake = adversary.network(unseen), adversary.network(blurred(unseen))
    assert float(real.mean()) > 0.5 > -0.5 > float(fake.mean())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_whole_step_leaves_the_other_network_alone(precision: torch.dtype):
    adversary, decoder, images = Adversary(CONFIG), Decoder(), pictures()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        output = decoder(blurred(images))
        reconstruction = (output.float() - images).abs().mean()
        adversary.discriminator_step(images, output, 0)
        assert decoder.out.weight.grad is None
        before = {name: value.clone() for name, value in adversary.network.state_dict().items()}
        term, _ = adversary.generator_loss(
            output, reconstruction, next(m.weight for m in decoder.modules() if isinstance(m, nn.Conv2d)), 0
        )
        # the discriminator of after its step has judged, not a cached copy from before
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16, cache_enabled=False):
            judged = -adversary.network(output).float().mean()
    weight = adaptive_weight(reconstruction, judged, decoder.out.weight)
    assert term.item() == pytest.approx((0.5 * weight * judged).item(), rel=1e-3)
    (reconstruction + term).backward()
    assert decoder.out.weight.grad is not None
    assert all(parameter.grad is None for parameter in adversary.network.parameters())
    assert equal(adversary.network.state_dict(), before)


def test_a_generator_learns_from_it():
    """Under the adversary alone, the judgment of a generator's pictures improves."""
    adversary, decoder, images = Adversary(CONFIG), Decoder(), pictures()
    for step in range(20):
        adversary.discriminator_step(images, blurred(images), step)
    optimizer = torch.optim.SGD(decoder.parameters(), 0.1)
    losses = []
    for step in range(20):
        output = decoder(blurred(images))
        reconstruction = (output - images).abs().mean()
        term, values = adversary.generator_loss(
            output,
            reconstruction,
            next(m.weight for m in decoder.modules() if isinstance(m, nn.Conv2d)),
            step,
        )
        optimizer.zero_grad()
        term.backward()
        optimizer.step()
        losses.append(float(values["g_loss"]))
    assert losses[-1] < losses[0] - 0.1


def test_its_state_goes_on_bit_equal_and_opens_without_pickle():
    straight, stopped = Adversary(CONFIG), Adversary(CONFIG)
    for step in range(3):
        images = pictures(seed=step)
        assert equal(
            straight.discriminator_step(images, blurred(images), step),
            stopped.discriminator_step(images, blurred(images), step),
        )
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = Adversary(CONFIG)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(3, 6):
        images = pictures(seed=step)
        values = [a.discriminator_step(images, blurred(images), step) for a in (straight, resumed)]
        assert equal(*values)
    assert equal(straight.state_dict(), resumed.state_dict())


def test_the_trainings_random_numbers_are_not_touched():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    adversaries = [Adversary(CONFIG), Adversary(replace(CONFIG, seed=1))]
    assert torch.equal(torch.rand(3), expected)
    again = Adversary(CONFIG)
    assert equal(again.network.state_dict(), adversaries[0].network.state_dict())
    assert not equal(again.network.state_dict(), adversaries[1].network.state_dict())


@pytest.mark.parametrize(("layers", "sees"), [(1, 16), (2, 34), (3, 70)])
def test_the_discriminator_has_the_papers_field_of_view_and_takes_any_size(layers: int, sees: int):
    network = PatchDiscriminator(8, layers)
    for module in network.modules():  # GroupNorm looks at the whole image: leave it out of the measurement
        if isinstance(module, nn.GroupNorm):
            module.forward = nn.Identity().forward
    images = torch.zeros(1, 3, 160, 160, requires_grad=True)
    logits = network(images)
    center = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, center, center], images)
    touched = gradient[0].abs().sum((0, 1)).nonzero().flatten()
    assert int(touched[-1] - touched[0]) + 1 == sees
    for height, width in ((8, 8), (16, 24), (32, 128), (17, 31)):
        assert network(torch.zeros(2, 3, height, width)).numel() >= 2


RANK = """
import os
import torch
from earlyfusion.train.image.adversary import Adversary, AdversaryConfig

torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
saved = torch.load(f"{folder}/data.pt", weights_only=True)
adversary = Adversary(AdversaryConfig(**saved["config"]))
images, fakes = (saved[name].chunk(2)[rank] for name in ("images", "fakes"))
for step in range(2):
    adversary.discriminator_step(images, fakes, step)
torch.save(adversary.network.state_dict(), f"{folder}/{rank}.pt")
torch.distributed.barrier()
os._exit(0)  # the threads of gloo may abort a process that ends in order
"""


def test_ranks_learn_the_same_as_one_process_with_both_batches(tmp_path: Path, start):
    images = pictures(8)
    data = {"config": asdict(CONFIG), "images": images, "fakes": blurred(images)}
    torch.save(data, tmp_path / "data.pt")
    ranks = [start(RANK, rank=rank, folder=tmp_path) for rank in (0, 1)]
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    weights = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert equal(*weights)
    alone = Adversary(CONFIG)
    for step in range(2):
        alone.discriminator_step(images, blurred(images), step)
    for name, value in alone.network.state_dict().items():
        torch.testing.assert_close(weights[0][name], value, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_ranks_are_averaged(monkeypatch: pytest.MonkeyPatch):
    """Adam hides their size, so the weights do not show it."""
    group = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda: 2,
        all_reduce=lambda flat: flat.mul_(2),  # the other rank has the same
    )
    monkeypatch.setattr(adversary, "dist", group)
    one = Adversary(CONFIG)
    for parameter in one.network.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    one._average_gradients()
    for parameter in one.network.parameters():
        assert parameter.grad is not None and parameter.grad.eq(3).all()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weight", -1.0, "adversary.weight.*-1.0"),
        ("start", -1, "adversary.start.*-1"),
        ("warmup", -1, "adversary.warmup.*-1"),
        ("lr", 0.0, "adversary.lr.*0.0"),
        ("betas", (0.5, 1.0), "adversary.betas.*1.0"),
        ("channels", 12, "adversary.channels.*8.*12"),
        ("layers", 0, "adversary.layers.*0"),
    ],
)
def test_settings_that_make_no_sense(field: str, value: Any, message: str):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **{field: value})


def test_a_config_comes_back_from_plain_values():
    assert AdversaryConfig(**{**asdict(CONFIG), "betas": [0.5, 0.9]}) == CONFIG
