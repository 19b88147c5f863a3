"""Hyper-parameters of the image tokenizer: which network, which quantizer, how many codes."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Architecture = Literal["unshuffle", "vqgan"]
Norm = Literal["group", "layer"]
QuantizerKind = Literal["vq", "cosine", "simvq", "fsq", "lfq", "ibq"]
Policy = Literal["resize", "pad"]
"""How an image gets sides that are multiples of the factor: resize it, or pad it with white."""
Preprocessing = Literal["meta", "hf"]
"""meta: pixels x become x / 127.5 - 1, as in Chameleon's training and everywhere in this project. hf:
x * 0.0078 - 1, as in its port in ``transformers``, so that white is 0.989."""


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
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, choices in (
            ("architecture", Architecture),
            ("norm", Norm),
            ("quantizer", QuantizerKind),
            ("preprocessing", Preprocessing),
        ):
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {known}")
        if self.stem < 1 or self.stem & (self.stem - 1):
            raise ValueError(f"stem must be a power of two (1, 2, 4, ...), got {self.stem}")
        if not self.channels or any(c < 8 or c % 8 for c in self.channels):
            raise ValueError(f"channels must be multiples of 8, one per level, got {self.channels}")
        if len(self.decoder_widths) != len(self.channels) or any(c < 8 or c % 8 for c in self.decoder_widths):
            raise ValueError(
                f"decoder_channels must be multiples of 8, one for each of the {len(self.channels)} levels, "
                f"or empty, got {self.decoder_channels}"
            )
        if self.decoder_res_blocks < 0:
            raise ValueError(
                f"decoder_res_blocks must not be negative (0: as res_blocks), got {self.decoder_res_blocks}"
            )
        for name in ("res_blocks", "codebook_size", "codebook_dim", "groups", "residual", "z_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if any(not 0 <= level < len(self.channels) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels must be in 0..{len(self.channels) - 1}, got {self.attention_levels}"
            )
        if not 0 < self.codebook_decay < 1:
            raise ValueError(f"codebook_decay must be between 0 and 1, got {self.codebook_decay}")
        if not self.dead_code_threshold >= 0:
            raise ValueError(f"dead_code_threshold must be 0 (off) or more, got {self.dead_code_threshold}")
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
            if any(level < 3 for level in self.fsq_levels):
                raise ValueError(f"each of fsq_levels must be 3 or more, got {self.fsq_levels}")
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
