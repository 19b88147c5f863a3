"""The small network of the image tokenizer, whose stem is a pixel-unshuffle.

A CPU is slowest at narrow convolutions at full resolution, so the first convolution sees stem x stem pixels
as channels. Residual blocks as in VQGAN (Esser et al., arXiv:2012.09841), without attention.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..image_config import ImageTokenizerConfig, Norm


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def build_norm(kind: Norm, channels: int) -> nn.Module:
    """LayerNorm per position, or GroupNorm with at most 8 groups.

    A group has at least 2 channels, since one channel of a 1 x 1 grid cannot be normalized.
    """
    return ChannelNorm(channels) if kind == "layer" else nn.GroupNorm(min(8, channels // 2), channels)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.norm1 = build_norm(norm, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = build_norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


def build_encoder(config: ImageTokenizerConfig) -> nn.Sequential:
    """(B, 3, H, W) -> latents (B, latent_dim, h, w)."""
    width = config.channels[0]
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(config.stem),
        nn.Conv2d(3 * config.stem**2, width, 3, padding=1),
    ]
    for level, channels in enumerate(config.channels):
        if level:
            layers.append(nn.Conv2d(width, channels, 2, stride=2))
        layers += [ResBlock(channels, config.norm) for _ in range(config.res_blocks)]
        width = channels
    return nn.Sequential(
        *layers, build_norm(config.norm, width), nn.SiLU(), nn.Conv2d(width, config.latent_dim, 1)
    )


def build_decoder(config: ImageTokenizerConfig) -> nn.Sequential:
    """Latents (B, latent_dim, h, w) -> (B, 3, H, W)."""
    width = config.decoder_widths[-1]
    layers: list[nn.Module] = [nn.Conv2d(config.latent_dim, width, 3, padding=1)]
    for level, channels in enumerate(reversed(config.decoder_widths)):
        if level:
            layers += [nn.Conv2d(width, 4 * channels, 1), nn.PixelShuffle(2)]
        layers += [ResBlock(channels, config.norm) for _ in range(config.decoder_blocks)]
        width = channels
    out = nn.Conv2d(width, 3 * config.stem**2, 3, padding=1)
    return nn.Sequential(
        *layers, build_norm(config.norm, width), nn.SiLU(), out, nn.PixelShuffle(config.stem)
    )
