import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from earlyfusion.eval.metrics import perceptual
from earlyfusion.eval.metrics.perceptual import Perceptual, fid, lpips


def backbone(kind: str) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers, *_ = perceptual._alexnet() if kind == "alex" else perceptual._vgg16()
    return layers


@pytest.fixture(scope="module", params=["alex", "vgg"])
def weights(request, tmp_path_factory):
    """A state dict with torchvision's names (and a classifier, which is left alone), drawn at random."""
    state = {f"features.{name}": tensor for name, tensor in backbone(request.param).state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, path)
    return path


def test_lpips_equals_torchmetrics(weights, monkeypatch):
    from torchmetrics.functional.image import lpips as theirs

    kind = weights.stem
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *args: backbone(kind))
    witness = theirs._LPIPS(pretrained=True, net=kind, pnet_rand=True)
    a, b = torch.rand(2, 3, 3, 64, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours = lpips(weights)(a, b)
    assert ours.shape == (3,) and (ours > 0).all()
    torch.testing.assert_close(ours, witness(a, b).flatten(), rtol=1e-4, atol=1e-7)


def test_lpips_is_differentiable_and_frozen(weights):
    metric = lpips(weights).train()
    assert not metric.training and not any(p.requires_grad for p in metric.parameters())
    a = torch.rand(2, 3, 16, 40, requires_grad=True)
    (gradient,) = torch.autograd.grad(metric(a, torch.zeros_like(a)).sum(), a)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert metric(a, a).abs().max() == 0


def test_lpips_reads_safetensors_too(weights, tmp_path):
    save_file(torch.load(weights, weights_only=True), tmp_path / "w.safetensors")
    a, b = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(lpips(tmp_path / "w.safetensors")(a, b), lpips(weights)(a, b))


def test_weights_that_do_not_fit_are_one_line(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    name = list(state)[-3]
    torch.save({n: t for n, t in state.items() if n != name}, tmp_path / "cut.pth")
    torch.save({"0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for file, more in (
        ("cut.pth", name.removeprefix("features.")),
        ("other.pth", "AlexNet.*VGG16"),
        ("list.pth", "state dict"),
        ("text.pth", ""),
    ):
        with pytest.raises(ValueError, match=f"{file}.*{more}") as caught:
            lpips(tmp_path / file)
        assert "\n" not in str(caught.value)
    for load in (lpips, fid):
        with pytest.raises(FileNotFoundError, match="none.pth"):
            load(tmp_path / "none.pth")


class TinyInception(nn.Module):
    """The calling convention of NVIDIA's file: uint8 images, `return_features=True`."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert images.dtype == torch.uint8 and return_features
        x = images.double()
        return torch.cat([x.mean([2, 3]), x[:, :, 0, 0]], 1)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.pt"
    torch.jit.script(TinyInception()).save(str(path))
    return path


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|mean difference|^2 + trace(Ca + Cb - 2 sqrt(Ca Cb))."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.real(np.sqrt(np.linalg.eigvals(ca @ cb).astype(complex))).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * roots)


def test_fid_equals_the_formula_and_keeps_the_originals(script):
    noise = torch.Generator().manual_seed(0)
    real, one, two = torch.rand(3, 40, 3, 8, 8, generator=noise) * torch.tensor([1.0, 0.5, 0.8]).view(
        3, 1, 1, 1, 1
    )
    features = [TinyInception()((x * 255).round().byte(), True).numpy() for x in (real, one, two)]
    metric = fid(script)
    metric.update(real, real=True)
    for images, expected in ((one, features[1]), (two, features[2])):
        metric.reset()
        metric.update(images, real=False)
        assert float(metric.compute()) == pytest.approx(frechet(features[0], expected), rel=1e-3)


def test_a_state_dict_for_fid_names_what_it_needs(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(ImportError, match="torch-fidelity"):
        fid(weights)
    torch.jit.script(nn.ReLU()).save(str(tmp_path / "relu.pt"))
    with pytest.raises(ValueError, match="relu.pt") as caught:
        fid(tmp_path / "relu.pt")
    assert "\n" not in str(caught.value)


def test_without_weights_nothing_is_measured():
    nothing = Perceptual(None, None)
    assert nothing.lpips is None and nothing.fid is None
    assert "--lpips-weights" in nothing.missing()["lpips"] and "--fid-weights" in nothing.missing()["rfid"]
    assert "torchvision" not in sys.modules
