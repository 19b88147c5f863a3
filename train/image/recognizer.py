"""A small text recognizer, whose features measure how similar two images of text are (the text-aware loss).

A convolutional network that reads one line at its own size, trained with CTC (Graves et al., 2006) on this
project's rendered text. ``losses.text_distance`` compares the features of its early layers, as LPIPS
(arXiv:1801.03924) compares those of an image classifier. The OCR engines that measure results are not
involved.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...storage.fields import check_fields
from ...storage.files import read_json
from ...storage.weights import CONFIG, load_network, save_network

KIND = "recognizer"
OLD_KIND = "recogniser"
"""The kind in folders of earlier versions."""
SHIPPED = Path(__file__).parents[2] / "pretrained" / KIND
"""The recognizer that comes with the package, trained by ``earlyfusion recognizer fit`` on the images of
``earlyfusion text-images``: benchmarks/studies/tokenizer/README.md has the commands and its figures."""
CHARACTERS = "".join(map(chr, range(32, 127)))
"""Printable ASCII."""
BLANK = 0
"""CTC's blank; character i of the config is class i + 1."""


@dataclass(frozen=True)
class RecognizerConfig:
    """Hyper-parameters of ``Recognizer``."""

    channels: tuple[int, ...] = (48, 96, 128)
    """Width of each of the three stages."""
    characters: str = CHARACTERS
    """Characters that it can read; training skips others."""

    def __post_init__(self) -> None:
        if isinstance(self.channels, list):
            object.__setattr__(self, "channels", tuple(self.channels))
        check_fields(self, {"channels": (1, 4096)})
        if len(self.channels) != 3:
            raise ValueError(f"channels must be three positive widths, got {self.channels}")
        if not self.characters or len(set(self.characters)) != len(self.characters):
            raise ValueError(f"characters must be distinct and at least one, got {self.characters!r}")


class Recognizer(nn.Module):
    """Gray strips (N, 1, 32, W), W a multiple of 4 -> log-probabilities of characters, one step per 4 px."""

    height = 32
    """Height of a strip in pixels; type of 8 to 28 px fits at its own size."""

    def __init__(self, config: RecognizerConfig):
        super().__init__()
        self.config = config
        first, second, third = config.channels
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.PixelUnshuffle(4), *_conv(16, first), *_conv(first, first)),
                nn.Sequential(*_conv(first, second, stride=(2, 1)), *_conv(second, second)),
                nn.Sequential(
                    *_conv(second, third, stride=(2, 1)), *_conv(third, third, kernel=(2, 3), padding=(0, 1))
                ),
            ]
        )
        self.head = nn.Conv2d(third, len(config.characters) + 1, 1)

    def forward(self, strips: Tensor) -> Tensor:
        """(N, 1, 32, W) in [-1, 1] -> log-probabilities (W / 4, N, classes), as ``F.ctc_loss`` takes them."""
        for stage in self.stages:
            strips = stage(strips)
        return self.head(strips)[:, :, 0].permute(2, 0, 1).log_softmax(-1)

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1], any sides that are multiples of 8 -> features of the first two
        stages, (B, C1, H / 4, W / 4) and (B, C2, H / 8, W / 4)."""
        x = images.mean(dim=1, keepdim=True)
        found = []
        for stage in self.stages[:2]:
            x = stage(x)
            found.append(x)
        return found

    @torch.no_grad()
    def read(self, strips: Tensor) -> list[str]:
        """(N, 1, 32, W) -> texts: the likeliest class of each step, repeats and blanks left out."""
        texts = []
        for classes in self(strips).argmax(-1).T.tolist():
            kept = [c for c, before in zip(classes, [BLANK, *classes]) if c != before and c != BLANK]
            texts.append("".join(self.config.characters[c - 1] for c in kept))
        return texts

    def classes(self, text: str) -> list[int]:
        """The classes of the known characters of ``text``."""
        known = {character: i for i, character in enumerate(self.config.characters, start=1)}
        return [known[character] for character in text if character in known]

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        save_network(self, self.config, Path(folder), KIND)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder written by ``save``, strictly, in evaluation mode.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: The files do not fit together.
        """
        return load_network(cls, RecognizerConfig, Path(folder), _kind(Path(folder))).eval()


def _kind(folder: Path) -> str:
    """The kind to expect in ``folder``: that of earlier versions if it has it."""
    config = folder / CONFIG
    found = read_json(config, "a recognizer's config").get("kind") if config.is_file() else KIND
    return OLD_KIND if found == OLD_KIND else KIND


def _conv(
    into: int,
    out: int,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
) -> list[nn.Module]:
    return [nn.Conv2d(into, out, kernel, stride, padding), nn.BatchNorm2d(out), nn.ReLU()]


def degrade(strips: Tensor, generator: torch.Generator) -> Tensor:
    """Degrade strips (N, 1, 32, W) as an image tokenizer might: a quarter blurred, a quarter scaled down and
    up, half with noise, a fifth inverted. Each strip is drawn separately, so that batches are similar, as
    BatchNorm requires."""

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(strips.device)

    count = len(strips)
    order = torch.randperm(count, generator=generator).to(strips.device)
    blurred, scaled = order[: count // 4], order[count // 4 : count // 2]
    strips = strips.clone()
    if len(blurred):
        padded = F.pad(strips[blurred], (1, 1, 1, 1), mode="replicate")
        strips[blurred] = F.avg_pool2d(padded, 3, stride=1)
    if len(scaled):
        factor = 1 / float(1.5 + draw(1))
        small = F.interpolate(strips[scaled], scale_factor=factor, mode="bilinear", antialias=True)
        strips[scaled] = F.interpolate(small, size=strips.shape[-2:], mode="bilinear")
    noise = torch.randn(strips.shape, generator=generator).to(strips.device)
    strips = strips + 0.4 * noise * draw(count, 1, 1, 1) * (draw(count, 1, 1, 1) < 0.5)
    return torch.where(draw(count, 1, 1, 1) < 0.2, -strips, strips)
