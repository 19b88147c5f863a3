"""The image tokenizer: an autoencoder whose latents are codes (VQ-VAE).

An image (B, 3, H, W) in [-1, 1] becomes a grid of codes (B, h, w), or (B, h, w, n) with n codes per position,
h = H / factor, w = W / factor, and the grid becomes an image again. After van den Oord et al., "Neural
Discrete Representation Learning" (arXiv:1711.00937). Networks and quantizers are in ``vqvae/``.
"""

import math
from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..storage.weights import load_network, read_config, save_network
from .image_config import ImageTokenizerConfig, upgrade
from .layout import Layout, Shape
from .pixels import Policy, contain, cover, fit, load_image, to_pil, to_tensor
from .vqvae import unshuffle
from .vqvae.cpu import Conv
from .vqvae.quantizer import Quantizer

__all__ = ["KIND", "ImageTokenizer", "ImageTokenizerConfig", "ImageTokenizerOutput"]

KIND = "image_tokenizer"


class ImageTokenizerOutput(NamedTuple):
    """The result of a training step's forward pass."""

    images: Tensor
    """Reconstruction (B, 3, H, W), not clamped."""
    codes: Tensor | None
    """(B, h, w) or (B, h, w, n) int64; None without quantization."""
    quantizer_loss: Tensor
    """Commitment loss and the quantizer's other losses (scalar); 0 without quantization, and for quantizers
    that have none in evaluation mode."""


class ImageTokenizer(nn.Module):
    """Images <-> grids of codes."""

    def __init__(self, config: ImageTokenizerConfig):
        super().__init__()
        self.config = config
        if config.architecture == "vqgan":
            from .vqvae import vqgan

            self.encoder = vqgan.build_encoder(config)
            self.decoder = vqgan.build_decoder(config) if config.decoder else nn.Identity()
            self.quant_conv = Conv(config.z_channels, config.latent_dim, 1)
            self.post_quant_conv = Conv(config.latent_dim, config.z_channels, 1)
        else:
            self.encoder = unshuffle.build_encoder(config)
            self.decoder = unshuffle.build_decoder(config) if config.decoder else nn.Identity()
            self.quant_conv = self.post_quant_conv = nn.Identity()
        self.quantizer = Quantizer(config)

    @property
    def factor(self) -> int:
        """Pixels per position along each side."""
        return self.config.factor

    @property
    def codebook_size(self) -> int:
        """K, the number of codes of each slot."""
        return self.config.codebook_size

    @property
    def codes_per_position(self) -> int:
        """n, the codes of each position."""
        return self.config.codes_per_position

    @property
    def bits_per_pixel(self) -> float:
        """n log2 K / factor^2: the rate of an image's codes."""
        return self.codes_per_position * math.log2(self.codebook_size) / self.factor**2

    @property
    def codebook(self) -> Tensor:
        """(n * K, latent_dim): row s * K + c is what code c of slot s adds to the latent."""
        return self.quantizer.codebook

    @property
    def dtype(self) -> torch.dtype:
        """The type of the network's weights."""
        return next(self.encoder.parameters()).dtype

    @property
    def last_layer(self) -> Tensor:
        """Weight of the decoder's last convolution."""
        return [m for m in self._decoder().modules() if isinstance(m, nn.Conv2d)][-1].weight

    def forward(self, images: Tensor, quantize: bool = True, noise: float = 0.0) -> ImageTokenizerOutput:
        """Reconstruct ``images`` (B, 3, H, W).

        Args:
            images: In [-1, 1], H and W multiples of the factor.
            quantize: False skips the quantizer, which gives the plain autoencoder of the warm-up.
            noise: Standard deviation of Gaussian noise on the latents; used without quantization only.

        Raises:
            ValueError: The shape is wrong, or this tokenizer has no decoder.
        """
        latents = self.latents(images)
        if not quantize:
            if noise:
                latents = self._on_sphere(latents + noise * torch.randn_like(latents))
            return ImageTokenizerOutput(self.reconstruct(latents), None, latents.new_zeros(()))
        with torch.autocast(latents.device.type, enabled=False):  # bfloat16 would choose other codes
            quantized = self.quantizer(latents.float())
        return ImageTokenizerOutput(self.reconstruct(quantized.latents), quantized.codes, quantized.loss)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> codes (B, h, w) int64, or (B, h, w, n).

        Raises:
            ValueError: H or W is not a multiple of the factor; ``pixels.fit`` resizes or pads.
        """
        latents = self.latents(images).movedim(1, -1)
        with torch.autocast(latents.device.type, enabled=False):  # as in forward
            return self.quantizer.encode(latents.to(self.dtype))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w), or (B, h, w, n) -> images (B, 3, h * factor, w * factor) in [-1, 1].

        Raises:
            ValueError: The shape is wrong, a code is outside 0..K-1, or this tokenizer has no decoder.
        """
        n, K = self.codes_per_position, self.codebook_size
        if codes.ndim != (3 if n == 1 else 4) or (n > 1 and codes.shape[-1] != n):
            wanted = "(B, h, w)" if n == 1 else f"(B, h, w, {n})"
            raise ValueError(f"codes must have the shape {wanted}, got {tuple(codes.shape)}")
        if codes.numel():
            low, high = torch.stack(codes.aminmax()).tolist()  # one wait for the device
            if not 0 <= low <= high < K:
                raise ValueError(f"codes must be in 0..{K - 1}, got {low}..{high}")
        latents = self.quantizer.decode(codes).movedim(-1, 1)
        return self.reconstruct(latents.to(self.dtype)).clamp(-1, 1)

    # the codec of the modality "image" (``modality.Codec``)

    def takes(self, segment: object) -> bool:
        """Whether ``segment`` of a document is an image: a PIL image, or a tensor (3, H, W) in [-1, 1]."""
        return isinstance(segment, Image.Image | Tensor)

    def prepare(
        self,
        segment: Image.Image | Tensor,
        layout: Layout,
        *,
        whole: bool = False,
        policy: Policy = "resize",
        max_side: int | None = None,
        max_positions: int | None = None,
    ) -> Tensor:
        """Convert an image to a tensor (3, H, W) of a size that this tokenizer and the layout take.

        If the layout has one shape, the image is scaled and cropped to it (``pixels.cover``), or with
        ``whole`` scaled and padded (``pixels.contain``). Otherwise its sides become multiples of the factor
        (``pixels.fit``).

        Args:
            segment: The image.
            layout: Layout of images in the vocabulary, which sets their shape or their largest size.
            whole: Pad instead of cropping.
            policy: How sides become multiples of the factor.
            max_side: Longest side in pixels; larger images are scaled down.
            max_positions: Most positions (h * w) of an image; larger images are scaled down.

        Raises:
            ValueError: The image cannot be read.
        """
        factor, fixed = self.factor, layout.shape
        largest = layout.numbers and layout.numbers.count * factor
        limit = min((side for side in (max_side, largest) if side is not None), default=None)
        if isinstance(segment, Tensor):
            fits = segment.numel() and all(
                side % factor == 0 and side <= (limit or side) for side in segment.shape[1:]
            )
            if fixed and tuple(segment.shape[1:]) != (fixed[0] * factor, fixed[1] * factor):
                fits = False
            if max_positions is not None and segment.numel() > 3 * max_positions * factor**2:
                fits = False
            if fits and segment.ndim == 3 and segment.shape[0] == 3:
                return segment.float()  # exact; a PIL image would be rounded to 8 bits
            segment = to_pil(segment)
        kind = self.config.preprocessing
        if fixed:
            size = fixed[1] * factor, fixed[0] * factor
            image = load_image(segment)
            return to_tensor(contain(image, *size) if whole else cover(image, *size, kind), kind)
        return to_tensor(fit(load_image(segment), factor, policy, limit, max_positions), kind)

    def show(self, decoded: Tensor) -> Image.Image:
        """A decoded image (3, H, W) as a PIL image."""
        return to_pil(decoded)

    def preview(self, codes: Tensor, shape: Shape) -> Image.Image:
        """Decode an image of which only the first lines of codes are known; the rest is gray.

        Args:
            codes: (h', w') or (h', w', n).
            shape: (h, w) of the whole image, in positions.
        """
        picture = Image.new("RGB", (shape[1] * self.factor, shape[0] * self.factor), (128, 128, 128))
        device = next(self.parameters()).device
        picture.paste(to_pil(self.decode(codes[None].to(device))[0].cpu()))
        return picture

    def latents(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> latents (B, latent_dim, h, w) before quantization."""
        sides_fit = all(side and side % self.factor == 0 for side in images.shape[2:])
        if images.ndim != 4 or images.shape[1] != 3 or not sides_fit:
            raise ValueError(
                f"images must have the shape (B, 3, H, W) with H and W multiples of {self.factor}, got "
                f"{tuple(images.shape)}; pixels.fit resizes or pads"
            )
        return self._on_sphere(self.quant_conv(self.encoder(images)))

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Latents (B, latent_dim, h, w) -> images (B, 3, H, W), not clamped.

        Raises:
            ValueError: This tokenizer has no decoder.
        """
        return self._decoder()(self.post_quant_conv(latents))

    def initialize_codebook(self, latents: Tensor, iterations: int = 10) -> None:
        """Fit the quantizer to ``latents`` (N, latent_dim), N >= K: see ``Quantizer.initialize``."""
        self.quantizer.initialize(latents, iterations)

    def _decoder(self) -> nn.Module:
        if not self.config.decoder:
            raise ValueError(
                "this image tokenizer has no decoder (Chameleon in transformers has none): import the model "
                "again with --vqgan and Meta's vqgan.ckpt to get images"
            )
        return self.decoder

    def _on_sphere(self, latents: Tensor) -> Tensor:
        """Normalize each group to a unit vector for "cosine"; other kinds do not change the latents."""
        if self.config.quantizer != "cosine":
            return latents
        return F.normalize(latents.unflatten(1, (self.config.groups, -1)), dim=2).flatten(1, 2)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        save_network(self, self.config, Path(folder), KIND)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder written by ``save``, strictly; the result is in evaluation mode.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: The files do not fit together.
        """
        renamed = {"quantizer._codebook.": "quantizer.slots.0._codebook."}  # models older than slots
        network = load_network(
            cls, ImageTokenizerConfig, Path(folder), KIND, upgrade=upgrade, renamed=renamed
        )
        return network.eval()

    @staticmethod
    def read_config(folder: str | Path) -> ImageTokenizerConfig:
        """The config in a folder written by ``save``; errors as in ``load``."""
        return read_config(ImageTokenizerConfig, Path(folder), KIND, upgrade)
