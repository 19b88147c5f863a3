"""LPIPS and FID with weights that the user supplies; nothing is downloaded, or measured without weights.

- LPIPS: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
  (arXiv:1801.03924), with the linear heads in torchmetrics' wheel. The backbone is torchvision's AlexNet
  or VGG16 as a state dict (``alexnet-owt-7be5be79.pth``, ``vgg16-397923af.pth``, or a safetensors file with
  the same names in it); torchvision itself is not needed.
- FID: Heusel et al. (arXiv:1706.08500), torchmetrics' ``FrechetInceptionDistance``. The Inception network is
  either TorchScript that takes uint8 images and ``return_features=True`` (NVIDIA's
  ``inception-2015-12-05.pt``), or torch-fidelity's state dict (``pt_inception-2015-12-05-6726825d.pth``,
  which needs torch-fidelity). "rFID" is that distance between originals and reconstructions.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
import torchmetrics.functional.image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from ...storage.pickles import check_stored
from ...storage.safetensors_header import check_header

WITHOUT_LPIPS = "no weights were given (--lpips-weights: torchvision's AlexNet or VGG16)"
WITHOUT_FID = "no weights were given (--fid-weights: Inception as TorchScript, or torch-fidelity's)"
INCEPTION_FEATURES = 2048


def lpips(weights: str | Path) -> "LPIPS":
    """LPIPS with the backbone in the file ``weights``, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It contains another network.
    """
    state = _state_dict(Path(weights))
    state = {name.removeprefix("features."): tensor for name, tensor in state.items()}
    first = list(state["0.weight"].shape) if "0.weight" in state else None
    kind = "alex" if first == [64, 3, 11, 11] else "vgg" if first == [64, 3, 3, 3] else None
    if kind is None:
        raise ValueError(
            f"{weights} is not a backbone for LPIPS: expected torchvision's AlexNet or VGG16 (state dict)"
        )
    return LPIPS(kind, state, str(weights))


class LPIPS(nn.Module):
    """Distance of two batches of images, differentiable in both; the weights are frozen."""

    shift: Tensor
    scale: Tensor

    def __init__(self, kind: str, backbone: dict[str, Tensor], name: str) -> None:
        """
        Args:
            kind: "alex" or "vgg".
            backbone: Weights by the index of their layer ("0.weight", ...).
            name: The file, for error messages.
        """
        super().__init__()
        self.kind = kind
        self.features, self.taps, self.least_side = _alexnet() if kind == "alex" else _vgg16()
        wanted = self.features.state_dict()
        wrong = [n for n, tensor in wanted.items() if n not in backbone or backbone[n].shape != tensor.shape]
        if wrong:
            raise ValueError(
                f"{name} is not a complete {kind} backbone: {wrong[0]} is missing or has another shape"
            )
        self.features.load_state_dict({n: backbone[n] for n in wanted})
        for i, head in enumerate(_heads(kind)):
            self.register_buffer(f"head{i}", head)  # (1, C, 1, 1)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "LPIPS":
        """Keep evaluation mode, even inside a module in training mode."""
        return super().train(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Two batches (B, 3, H, W) in [-1, 1] -> distances (B,).

        Images too small for the backbone (AlexNet 31 px, VGG16 16 px) are enlarged by a whole number.
        """
        distance = images.new_zeros(len(images))
        for i, (a, b) in enumerate(zip(self._features(images), self._features(targets))):
            difference = (_unit(a) - _unit(b)).square()  # (B, C, h, w)
            distance = distance + (difference * getattr(self, f"head{i}")).sum(1).mean((1, 2))
        return distance

    def _features(self, x: Tensor) -> list[Tensor]:
        if (side := min(x.shape[-2:])) < self.least_side:
            factor = float(-(-self.least_side // side))
            x = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        x = (x - self.shift) / self.scale
        found = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                found.append(x)
        return found


class Perceptual:
    """LPIPS and FID of several sets of pictures against the same originals."""

    def __init__(
        self, lpips_weights: str | Path | None, fid_weights: str | Path | None, device: str = "cpu"
    ) -> None:
        """
        Args:
            lpips_weights: File of weights for :func:`lpips`, which raises its errors; None skips LPIPS.
            fid_weights: File of weights for :func:`fid`, which raises its errors; None skips FID.
            device: Where the networks run.
        """
        self.device = device
        self.lpips = lpips(lpips_weights).to(device) if lpips_weights else None
        self.fid = fid(fid_weights).to(device) if fid_weights else None

    def begin(self) -> None:
        """Forget all images, before a new set of originals."""
        if self.fid is not None:
            self.fid.reset_real_features = True
            self.fid.reset()
            self.fid.reset_real_features = False

    def missing(self) -> dict[str, str]:
        """Reasons for which "lpips" and "rfid" are not measured, by name; empty if both are."""
        missing = {} if self.lpips else {"lpips": WITHOUT_LPIPS}
        return missing if self.fid else {**missing, "rfid": WITHOUT_FID}


def fid(weights: str | Path) -> FrechetInceptionDistance:
    """FID with the Inception network in the file ``weights``; takes images in [0, 1].

    A reset keeps the real images, so that several sets can be compared with the same originals.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It contains another network.
        ImportError: The file needs torch-fidelity, which is not installed.
    """
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"Inception's weights for FID not found: {path}")
    try:
        if _is_torchscript(path):
            network = _Inception(torch.jit.load(str(path), map_location="cpu").eval())
            return FrechetInceptionDistance(network, normalize=True, reset_real_features=False)
        return FrechetInceptionDistance(
            INCEPTION_FEATURES,
            normalize=True,
            reset_real_features=False,
            feature_extractor_weights_path=str(path),
        )
    except ModuleNotFoundError:
        raise ImportError(
            f"{path} is a state dict for torch-fidelity's Inception: pip install torch-fidelity, or use a "
            "TorchScript file (inception-2015-12-05.pt)"
        ) from None
    except Exception as error:  # loading raises all kinds of errors
        line = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ValueError(f"cannot use {path} as Inception for FID: {line}") from None


class _Inception(nn.Module):
    """Adapts TorchScript for uint8 images to torchmetrics: images in [0, 1] -> features (B, 2048)."""

    def __init__(self, script: Any) -> None:
        super().__init__()
        self.script = script
        self.num_features = int(self.forward(torch.rand(1, 3, 64, 64)).shape[1])

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)
        return self.script(pixels, return_features=True).flatten(1)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any("/code/" in name for name in file.namelist())


def _state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"AlexNet's or VGG16's weights for LPIPS not found: {path}")
    try:
        if path.suffix == ".safetensors":
            check_header(path)
            return load_file(path)
        check_stored(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises all kinds of errors
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot read {path} as weights: {line}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a state dict: expected a dict of tensors by name")
    return state


def _heads(kind: str) -> list[Tensor]:
    """The linear heads in torchmetrics' wheel, (1, C, 1, 1) each."""
    path = Path(str(torchmetrics.functional.image.__file__)).parent / "lpips_models" / f"{kind}.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{i}.model.1.weight"] for i in range(5)]


def _unit(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Features (B, C, h, w) of unit length over the channels."""
    return x / (x.square().sum(1, keepdim=True) + eps).sqrt()


Backbone = tuple[nn.Sequential, frozenset[int], int]
"""Layers, indices of the layers whose outputs are compared, and the minimum side in px."""


def _alexnet() -> Backbone:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for before, after in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers), frozenset({1, 4, 7, 9, 11}), 31


def _vgg16() -> Backbone:
    layers: list[nn.Module] = []
    taps, before = [], 3
    for block, (channels, convolutions) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if block:
            layers.append(nn.MaxPool2d(2))
        for _ in range(convolutions):
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
        taps.append(len(layers) - 1)
    return nn.Sequential(*layers), frozenset(taps), 16
