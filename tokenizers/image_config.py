"""Hyper-parameters of the image tokenizer: which network, which quantizer, how many codes."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from ..storage.fields import Bounds, check_fields

Architecture = Literal["unshuffle", "vqgan"]
Norm = Literal["group", "layer"]
QuantizerKind = Literal["vq", "cosine", "simvq", "fsq", "lfq", "ibq"]
Policy = Literal["resize", "pad"]
"""How an image gets sides that are multiples of the factor: resize it, or pad it with white."""
Preprocessing = Literal["meta", "hf"]
"""meta: pixels x become x / 127.5 - 1, as in Chameleon's training and everywhere in this project. hf:
x * 0.0078 - 1, as in its port in ``transformers``, so that white is 0.989."""


BOUNDS: Bounds = {
    "stem": (1, 64),
    "channels": (8, 8192),
    "res_blocks": (1, 64),
    "decoder_channels": (8, 8192),
    "decoder_res_blocks": (0, 64),
    "z_channels": (1, 8192),
    "attention_levels": (0, 7),
    "codebook_size": (1, 2**20),
    "codebook_dim": (1, 4096),
    "groups": (1, 64),
    "residual": (1, 64),
    "fsq_levels": (3, 1024),
    "codebook_decay": (0, 1),
    "dead_code_threshold": (0, 1e6),
}
"""Far above any image tokenizer that exists."""
LEVELS, SLOTS = 8, 64
"""Most levels of a network, and most codes per position."""


@dataclass(frozen=True)
class ImageTokenizerConfig:
    """Hyper-parameters of ``image.ImageTokenizer``."""

    architecture: Architecture = "unshuffle"
    """"unshuffle": a small network that starts at reduced resolution (``unshuffle.py``). "vqgan":
    Chameleon's and VQGAN's, with taming's module names (``vqgan.py``)."""
    stem: int = 4
    """Pixel-unshuffle factor of the first layer: stem x stem pixels become the channels of one position.
    1: without a stem, as in taming's network."""
    channels: tuple[int, ...] = (64, 128)
    """Width of each level; every level after the first halves height and width."""
    res_blocks: int = 2
    """Residual blocks per level, in the encoder and in the decoder (vqgan: one more there)."""
    decoder_channels: tuple[int, ...] = ()
    """Width of each level of the decoder; (): as in the encoder."""
    decoder_res_blocks: int = 0
    """Residual blocks per level of the decoder; 0: as in the encoder."""
    norm: Norm = "layer"
    """"layer": LayerNorm at each position, so that a code only depends on its neighborhood and a page is
    exactly the sum of its tiles. "group": GroupNorm, whose statistics span the whole image."""
    z_channels: int = 256
    """Channels between vqgan's encoder and its quant_conv; unshuffle has none."""
    attention_levels: tuple[int, ...] = ()
    """Levels of vqgan with self-attention after each residual block, 0 the finest."""
    mid_attention: bool = True
    """Self-attention between the middle blocks of vqgan."""
    preprocessing: Preprocessing = "meta"
    """How the pixels of an image become numbers: "meta", or "hf" as in ``transformers``."""
    decoder: bool = True
    """False: images can be encoded but not decoded (Chameleon in ``transformers``)."""
    quantizer: QuantizerKind = "cosine"
    """"vq": the nearest code (VQ-VAE, arXiv:1711.00937). "cosine": the same among unit vectors (ViT-VQGAN,
    arXiv:2110.04627). "simvq": one linear map of a frozen codebook (arXiv:2411.02038). "fsq": rounding of a
    few channels (arXiv:2309.15505). "lfq": signs of a few channels (MAGVIT-v2, arXiv:2310.05737). "ibq": all
    codes learn through a softmax (arXiv:2412.02692)."""
    codebook_size: int = 1024
    """K, the number of codes of each slot."""
    codebook_dim: int = 8
    """Width of a codebook vector."""
    groups: int = 1
    """Parts of a latent, each quantized by its own codebook (product quantization)."""
    residual: int = 1
    """Codes of each group, each quantizing the residual of the previous one ("vq" and "simvq")."""
    fsq_levels: tuple[int, ...] = ()
    """Steps of each channel of "fsq"; their product is ``codebook_size``."""
    rotation_trick: bool = True
    """Gradients pass the quantizer through a rotation (arXiv:2410.06424); False: straight-through."""
    learnable_codebook: bool = False
    """The codebook of "vq" learns by gradients instead of a moving average of its latents."""
    codebook_decay: float = 0.99
    """Decay of the codebook's exponential moving average."""
    dead_code_threshold: float = 0.002
    """A code used less than this per batch (moving average) is replaced by a current latent; 0 = never."""

    def __post_init__(self) -> None:
        for name in ("channels", "decoder_channels", "attention_levels", "fsq_levels"):
            if isinstance(value := getattr(self, name), list):  # JSON has no tuples
                object.__setattr__(self, name, tuple(value))
        check_fields(self, BOUNDS)
        if len(self.channels) > LEVELS:
            raise ValueError(f"channels are {len(self.channels)} levels, expected at most {LEVELS}")
        if self.codes_per_position > SLOTS:
            raise ValueError(
                f"groups x residual is {self.codes_per_position} codes per position, expected at most {SLOTS}"
            )
        if self.stem & (self.stem - 1):
            raise ValueError(f"stem must be a power of two (1, 2, 4, ...), got {self.stem}")
        if not self.channels or any(c % 8 for c in self.channels):
            raise ValueError(f"channels must be multiples of 8, one per level, got {self.channels}")
        if len(self.decoder_widths) != len(self.channels) or any(c % 8 for c in self.decoder_widths):
            raise ValueError(
                f"decoder_channels must be multiples of 8, one for each of the {len(self.channels)} levels, "
                f"or empty, got {self.decoder_channels}"
            )
        if any(not 0 <= level < len(self.channels) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels must be in 0..{len(self.channels) - 1}, got {self.attention_levels}"
            )
        if not 0 < self.codebook_decay < 1:
            raise ValueError(f"codebook_decay must be between 0 and 1, got {self.codebook_decay}")
        self._check_quantizer()

    def _check_quantizer(self) -> None:
        if self.residual > 1 and self.quantizer not in ("vq", "simvq"):
            raise ValueError(
                f"residual is {self.residual}, which quantizer {self.quantizer!r} does not support: use "
                "'vq' or 'simvq', or set groups instead"
            )
        if self.learnable_codebook and self.quantizer != "vq":
            raise ValueError(f"learnable_codebook needs quantizer 'vq', got {self.quantizer!r}")
        if self.quantizer == "lfq" and (
            self.codebook_size < 2 or self.codebook_size & self.codebook_size - 1
        ):
            raise ValueError(f"codebook_size of lfq must be a power of two, got {self.codebook_size}")
        channels = {"fsq": len(self.fsq_levels), "lfq": self.codebook_size.bit_length() - 1}
        if self.codebook_dim < channels.get(self.quantizer, 0):
            raise ValueError(
                f"codebook_dim is {self.codebook_dim}, expected at least {channels[self.quantizer]}, the "
                f"number of channels that {self.quantizer} rounds"
            )
        if self.quantizer == "fsq":
            if math.prod(self.fsq_levels) != self.codebook_size or not self.fsq_levels:
                raise ValueError(
                    f"fsq_levels are {self.fsq_levels}, expected levels whose product is codebook_size = "
                    f"{self.codebook_size}, such as [8, 8, 8, 4] for 2048"
                )
        elif self.fsq_levels:
            raise ValueError(f"fsq_levels need quantizer 'fsq', got {self.quantizer!r}")

    @property
    def factor(self) -> int:
        """Downsampling factor: pixels per position along each side."""
        return self.stem * 2 ** (len(self.channels) - 1)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Width of each level of the decoder, the finest first."""
        return self.decoder_channels or self.channels

    @property
    def decoder_blocks(self) -> int:
        """Residual blocks per level of the decoder."""
        return self.decoder_res_blocks or self.res_blocks

    @property
    def codes_per_position(self) -> int:
        """n, the codes of each position."""
        return self.groups * self.residual

    @property
    def latent_dim(self) -> int:
        """Channels of the latents."""
        return self.groups * self.codebook_dim


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the fields of an earlier config.json: ``cosine`` became a kind of quantizer, and every norm was
    GroupNorm."""
    values = {"norm": "group", **values}
    cosine = values.pop("cosine", None)
    return values if cosine is None else {"quantizer": "cosine" if cosine else "vq", **values}
