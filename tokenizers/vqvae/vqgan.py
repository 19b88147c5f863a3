"""The convolutional network of VQGAN and Chameleon, with the names of taming-transformers' modules.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (arXiv:2012.09841); Chameleon
(arXiv:2405.09818) uses the same with channels (128, 128, 256, 256, 512). The names of the tensors are
taming's, so that its checkpoints fit (see ``taming``); ``quant_conv`` and ``post_quant_conv`` belong to
``ImageTokenizer``. Additions to taming's network: a pixel-unshuffle stem, norms per position (with
``mid_attention`` off, a page is then exactly the sum of its tiles), and in-place inference.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..image_config import ImageTokenizerConfig, Norm
from .cpu import Conv, compute_dtype, fast_layout
from .unshuffle import ChannelNorm

EPS = 1e-6


def build_encoder(config: ImageTokenizerConfig) -> nn.Module:
    """(B, 3, H, W) -> (B, z_channels, H / factor, W / factor)."""
    return Encoder(config)


def build_decoder(config: ImageTokenizerConfig) -> nn.Module:
    """(B, z_channels, h, w) -> (B, 3, h * factor, w * factor)."""
    return Decoder(config)


class Encoder(nn.Module):
    """Levels from the finest to the coarsest, then the middle."""

    def __init__(self, config: ImageTokenizerConfig):
        super().__init__()
        channels = config.channels
        self.unshuffle = nn.PixelUnshuffle(config.stem)
        self.conv_in = conv3x3(3 * config.stem**2, channels[0])
        self.down = nn.ModuleList()
        width = channels[0]
        for level, out in enumerate(channels):
            last = level == len(channels) - 1
            step = {} if last else {"downsample": Downsample(out)}
            attention = level in config.attention_levels
            self.down.append(Level(width, out, config.res_blocks, attention, config.norm, **step))
            width = out
        self.mid = Middle(width, config.mid_attention, config.norm)
        self.norm_out = build_norm(config.norm, width)
        self.conv_out = conv3x3(width, config.z_channels)
        self.winograd = choose_convolutions(self, config.norm)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(fast_layout(self.unshuffle(images), self.winograd))
        for level in self.down:
            x = level(x)
        return self.conv_out(activate(self.norm_out, self.mid(x)))


class Decoder(nn.Module):
    """The middle, then levels from the coarsest to the finest; ``up`` counts them from the finest."""

    def __init__(self, config: ImageTokenizerConfig):
        super().__init__()
        channels = config.decoder_widths
        width = channels[-1]
        self.conv_in = conv3x3(config.z_channels, width)
        self.mid = Middle(width, config.mid_attention, config.norm)
        levels = []
        for level in reversed(range(len(channels))):
            out = channels[level]
            step = {"upsample": Upsample(out)} if level else {}
            attention = level in config.attention_levels
            levels.append(Level(width, out, config.decoder_blocks + 1, attention, config.norm, **step))
            width = out
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = build_norm(config.norm, width)
        self.conv_out = conv3x3(width, 3 * config.stem**2)
        self.shuffle = nn.PixelShuffle(config.stem)
        self.winograd = choose_convolutions(self, config.norm)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(fast_layout(latents, self.winograd)))
        for level in reversed(self.up):
            x = level(x)
        return self.shuffle(self.conv_out(activate(self.norm_out, x)))


class Level(nn.Module):
    """Residual blocks at one resolution, optional attention after each, and the step to the next level."""

    def __init__(self, width: int, out: int, blocks: int, attention: bool, norm: Norm, **step: nn.Module):
        super().__init__()
        self.block = nn.ModuleList(ResBlock(width if i == 0 else out, out, norm) for i in range(blocks))
        self.attn = nn.ModuleList(Attention(out, norm) for _ in range(blocks if attention else 0))
        self.step = list(step)
        for name, module in step.items():  # taming's names: downsample, upsample
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        for name in self.step:
            x = self.get_submodule(name)(x)
        return x


class Middle(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, width: int, attention: bool, norm: Norm):
        super().__init__()
        self.block_1 = ResBlock(width, width, norm)
        self.attn_1 = Attention(width, norm) if attention else nn.Identity()
        self.block_2 = ResBlock(width, width, norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); x passes a 1 x 1 convolution if the width changes."""

    def __init__(self, width: int, out: int, norm: Norm):
        super().__init__()
        self.norm1 = build_norm(norm, width)
        self.conv1 = conv3x3(width, out)
        self.norm2 = build_norm(norm, out)
        self.conv2 = conv3x3(out, out)
        if width != out:
            self.nin_shortcut = Conv(width, out, 1)
        self.widens = width != out

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(activate(self.norm1, x))
        h = self.conv2(activate(self.norm2, h))
        return add(h, self.nin_shortcut(x) if self.widens else x)


class Attention(nn.Module):
    """x + attention over all positions, one head of the full width."""

    def __init__(self, width: int, norm: Norm):
        super().__init__()
        self.norm = build_norm(norm, width)
        self.q, self.k, self.v, self.proj_out = (Conv(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        h = self.norm(x)
        dtype = compute_dtype(x)
        parts = (layer(h).flatten(2).mT.unsqueeze(1).to(dtype) for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(*parts)  # (B, 1, H * W, C), scaled by C ** -0.5
        return add(self.proj_out(h.squeeze(1).mT.reshape(B, C, H, W).to(x.dtype)), x)


class Downsample(nn.Module):
    """3 x 3 convolution with stride 2 over an image padded by one zero on the right and at the bottom.

    The convolution pads by two on every side and drops its first outputs, which gives the same without a copy
    of the image.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv(width, width, 3, stride=2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, 1:, 1:]


class Upsample(nn.Module):
    """Each position four times, then a 3 x 3 convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def conv3x3(width: int, out: int) -> Conv:
    """A convolution that keeps height and width."""
    return Conv(width, out, 3, padding=1)


def choose_convolutions(network: nn.Module, norm: Norm) -> bool:
    """Allow Winograd's algorithm in ``network``, unless a page must equal the sum of its tiles: its rounding
    differs between tiles.

    Returns:
        Whether it is allowed.
    """
    for layer in network.modules():
        if isinstance(layer, Conv):
            layer.winograd = norm != "layer"
    return norm != "layer"


def build_norm(kind: Norm, channels: int) -> nn.Module:
    """LayerNorm per position, or GroupNorm with taming's 32 groups.

    If 32 does not divide the channels, there are fewer groups, each of at least two channels.
    """
    if kind == "layer":
        return ChannelNorm(channels, eps=EPS)
    fewer = (groups for groups in range(32, 0, -1) if channels % (2 * groups) == 0)
    return nn.GroupNorm(32 if channels % 32 == 0 else next(fewer), channels, eps=EPS)


def activate(norm: nn.Module, x: Tensor) -> Tensor:
    """silu(norm(x)), in place unless a gradient needs the intermediate value."""
    h = norm(x)
    return F.silu(h, inplace=not (torch.is_grad_enabled() and h.requires_grad))


def add(h: Tensor, x: Tensor) -> Tensor:
    """h + x, written over ``h`` unless a gradient needs it."""
    if torch.is_grad_enabled() or h.dtype != x.dtype:
        return h + x
    return h.add_(x)
