"""The image tokenizer: a convolutional VQ-VAE around ``vector-quantize-pytorch``.

An image (B, 3, H, W) in [-1, 1] becomes a grid of codes (B, h, w) with h = H / factor, w = W / factor, and
the grid becomes an image again. After van den Oord et al., "Neural Discrete Representation Learning"
(arXiv:1711.00937); the residual blocks follow VQGAN (Esser et al., arXiv:2012.09841), the pixel-unshuffle
stem keeps wide convolutions away from full resolution, which is what makes a CPU fast.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans

from .weights import load_network, save_network

KIND = "image_tokenizer"


@dataclass(frozen=True)
class ImageTokenizerConfig:
    """Hyper-parameters of :class:`ImageTokenizer`."""

    stem: int = 4
    """Pixel-unshuffle factor of the first layer: stem x stem pixels become the channels of one position."""
    channels: tuple[int, ...] = (64, 128)
    """Width of each level; every level after the first halves height and width once more."""
    res_blocks: int = 2
    """Residual blocks per level, in the encoder and in the decoder."""
    codebook_size: int = 1024
    """K, the number of codes."""
    codebook_dim: int = 16
    """Width of a codebook vector."""
    cosine: bool = True
    """Latents and codes are unit vectors, so that the nearest code is the one with the largest cosine
    (ViT-VQGAN, arXiv:2110.04627, section 3.2); False compares by Euclidean distance (VQ-VAE)."""
    codebook_decay: float = 0.95
    """Decay of the codebook's exponential moving average."""
    dead_code_threshold: float = 0.002
    """A code whose moving-average use per batch falls below this becomes a current latent; 0 = never."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.stem < 1 or self.stem & (self.stem - 1):
            raise ValueError(f"stem must be a power of two (1, 2, 4, ...), got {self.stem}")
        if not self.channels or any(c < 8 or c % 8 for c in self.channels):
            raise ValueError(f"channels must be multiples of 8, one per level, got {self.channels}")
        for name in ("res_blocks", "codebook_size", "codebook_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.codebook_decay < 1:
            raise ValueError(f"codebook_decay must lie between 0 and 1, got {self.codebook_decay}")
        if not self.dead_code_threshold >= 0:
            raise ValueError(f"dead_code_threshold must be 0 (off) or more, got {self.dead_code_threshold}")

    @property
    def factor(self) -> int:
        """Downsampling factor: pixels per code along each side."""
        return self.stem * 2 ** (len(self.channels) - 1)


class ImageTokenizerOutput(NamedTuple):
    """What a training step needs."""

    images: Tensor
    """Reconstruction (B, 3, H, W), not clamped."""
    codes: Tensor | None
    """(B, h, w) int64, or None when quantisation was skipped."""
    commitment_loss: Tensor
    """Mean squared distance of latents to their codes (scalar); 0 in evaluation and without quantisation."""


def group_norm(channels: int) -> nn.GroupNorm:
    """8 groups, fewer where they would be single channels: a 1 x 1 grid would have nothing to normalise."""
    return nn.GroupNorm(min(8, channels // 2), channels)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = group_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        return x + self.conv2(nn.functional.silu(self.norm2(h)))


def build_encoder(config: ImageTokenizerConfig) -> nn.Sequential:
    """(B, 3, H, W) -> latents (B, codebook_dim, h, w)."""
    width = config.channels[0]
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(config.stem),
        nn.Conv2d(3 * config.stem**2, width, 3, padding=1),
    ]
    for level, channels in enumerate(config.channels):
        if level:
            layers.append(nn.Conv2d(width, channels, 2, stride=2))
        layers += [ResBlock(channels) for _ in range(config.res_blocks)]
        width = channels
    return nn.Sequential(*layers, group_norm(width), nn.SiLU(), nn.Conv2d(width, config.codebook_dim, 1))


def build_decoder(config: ImageTokenizerConfig) -> nn.Sequential:
    """Latents (B, codebook_dim, h, w) -> (B, 3, H, W)."""
    width = config.channels[-1]
    layers: list[nn.Module] = [nn.Conv2d(config.codebook_dim, width, 3, padding=1)]
    for level, channels in enumerate(reversed(config.channels)):
        if level:
            layers += [nn.Conv2d(width, 4 * channels, 1), nn.PixelShuffle(2)]
        layers += [ResBlock(channels) for _ in range(config.res_blocks)]
        width = channels
    out = nn.Conv2d(width, 3 * config.stem**2, 3, padding=1)
    return nn.Sequential(*layers, group_norm(width), nn.SiLU(), out, nn.PixelShuffle(config.stem))


class ImageTokenizer(nn.Module):
    """Images <-> grids of codes."""

    def __init__(self, config: ImageTokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.decoder = build_decoder(config)
        self.quantizer = VectorQuantize(
            dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            decay=config.codebook_decay,
            threshold_ema_dead_code=config.dead_code_threshold,  # type: ignore[arg-type]  # only compared
            use_cosine_sim=config.cosine,
            accept_image_fmap=True,
        )

    @property
    def factor(self) -> int:
        """Pixels per code along each side."""
        return self.config.factor

    @property
    def codebook_size(self) -> int:
        """K, the number of codes."""
        return self.config.codebook_size

    @property
    def bits_per_pixel(self) -> float:
        """log2 K / factor^2: what the codes of an image cost."""
        return math.log2(self.codebook_size) / self.factor**2

    def forward(self, images: Tensor, quantize: bool = True) -> ImageTokenizerOutput:
        """Reconstruct ``images`` (B, 3, H, W); ``quantize=False`` is the plain autoencoder of the warm-up."""
        latents = self._latents(images)
        if not quantize:
            return ImageTokenizerOutput(self.decoder(latents), None, latents.new_zeros(()))
        with torch.autocast(latents.device.type, enabled=False):  # distances in bfloat16 choose other codes
            quantized, codes, loss = self.quantizer(latents.float())
        return ImageTokenizerOutput(self.decoder(quantized), codes, loss.sum())

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> codes (B, h, w) int64.

        :raises ValueError: H or W is no multiple of the factor (see :func:`..pixels.fit`).
        """
        return self.nearest(self._latents(images).movedim(1, -1))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> images (B, 3, h * factor, w * factor) in [-1, 1]."""
        if codes.ndim != 3:
            raise ValueError(f"codes must have the shape (B, h, w), got {tuple(codes.shape)}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(
                f"codes must lie in 0..{self.codebook_size - 1}, got {codes.min()}..{codes.max()}"
            )
        return self.decoder(self.codebook[codes].movedim(-1, 1)).clamp(-1, 1)

    @property
    def codebook(self) -> Tensor:
        """Codebook vectors (K, codebook_dim)."""
        return self.quantizer.codebook

    def nearest(self, latents: Tensor) -> Tensor:
        """Index of the codebook vector that is nearest to each of ``latents`` (..., codebook_dim).

        By squared distance; for unit vectors that is the one with the largest cosine.
        """
        flat = latents.reshape(-1, latents.shape[-1])
        distance = self.codebook.square().sum(1) - 2 * flat @ self.codebook.T
        return distance.argmin(1).view(latents.shape[:-1])

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Unquantised latents (B * h * w, codebook_dim), for :meth:`initialise_codebook`."""
        return self._latents(images).movedim(1, -1).flatten(0, 2)

    @torch.no_grad()
    def initialise_codebook(self, latents: Tensor, iterations: int = 10) -> None:
        """Set the codebook to the k-means centres of ``latents`` (N, codebook_dim), N >= K.

        :raises ValueError: fewer latents than codes.
        """
        if len(latents) < self.codebook_size:
            raise ValueError(f"k-means needs at least K = {self.codebook_size} latents, got {len(latents)}")
        means, bins = kmeans(
            latents[None].float(), self.codebook_size, num_iters=iterations, use_cosine_sim=self.config.cosine
        )
        book: Any = self.quantizer._codebook
        centres = means[0]
        share = bins[0] * (self.codebook_size / len(latents))  # mean use 1, as at the start
        share = share.clamp(min=self.config.dead_code_threshold)
        book.embed.copy_(centres[None])
        book.cluster_size.copy_(share[None])
        book.embed_avg.copy_((centres * share[:, None])[None])
        book.initted.fill_(True)

    def _latents(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> what is quantised (B, codebook_dim, h, w)."""
        sides_fit = all(side and side % self.factor == 0 for side in images.shape[2:])
        if images.ndim != 4 or images.shape[1] != 3 or not sides_fit:
            raise ValueError(
                f"images must have the shape (B, 3, H, W) with H and W multiples of {self.factor}, got "
                f"{tuple(images.shape)}; pixels.fit resizes or pads"
            )
        latents = self.encoder(images)
        return nn.functional.normalize(latents, dim=1) if self.config.cosine else latents

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        save_network(self, self.config, Path(folder), KIND)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder written by :meth:`save`, strictly, in evaluation mode.

        :raises FileNotFoundError: a file is missing.  :raises ValueError: the files do not fit together.
        """
        return load_network(cls, ImageTokenizerConfig, Path(folder), KIND).eval()
