"""The adversarial loss: a PatchGAN with VQGAN's adaptive weight.

PatchGAN: Isola et al., arXiv:1611.07004. Adaptive weight: Esser et al., arXiv:2012.09841, equation 7. The
discriminator has its own optimizer, which steps inside ``training_step``, so that the training keeps a single
optimizer, Lightning's gradient clipping and its step count.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

MAX_ADAPTIVE_WEIGHT = 1e4
"""Largest adaptive weight, as in VQGAN."""
CLIP = 1.0
"""Largest norm of the discriminator's gradient."""


@dataclass(frozen=True)
class AdversaryConfig:
    """Hyper-parameters of ``Adversary``."""

    weight: float = 0.0
    """Weight of the adversarial loss, on top of the adaptive weight, which makes its gradient at the
    decoder's last layer as large as that of the reconstruction loss; 0 turns it off, VQGAN uses 0.8."""
    start: int = 5000
    """Step at which it starts; too early, on plainly wrong images, the discriminator wins at once."""
    warmup: int = 500
    """Steps over which its weight then grows from 0, while the discriminator learns."""
    lr: float = 2e-4
    """Learning rate of the discriminator."""
    betas: tuple[float, float] = (0.5, 0.9)
    """AdamW's betas of the discriminator; VQGAN's values."""
    channels: int = 64
    """Width of the discriminator's first layer; each further layer doubles it, up to 8 times."""
    layers: int = 3
    """Layers that halve height and width: 1, 2, 3 of them judge patches of 16, 34, 70 px."""
    seed: int = 0
    """Random seed of the discriminator's initial weights."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in ("weight", "start", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"adversary.{name} must not be negative, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"adversary.lr must be positive, got {self.lr}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"adversary.betas must be two numbers in [0, 1), got {self.betas}")
        if self.channels < 8 or self.channels % 8:
            raise ValueError(f"adversary.channels must be a multiple of 8, got {self.channels}")
        if self.layers < 1:
            raise ValueError(f"adversary.layers must be at least 1, got {self.layers}")


class PatchDiscriminator(nn.Module):
    """Images (B, 3, H, W) -> logits (B, 1, h, w), above 0 where a patch looks real.

    taming-transformers' ``NLayerDiscriminator`` with GroupNorm instead of BatchNorm, which is unstable with
    tiny batches and several ranks. Images below 3 * 2^layers px are padded with their last row and column.
    """

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.smallest_side = 3 * 2**layers
        widths = [min(2**level, 8) * channels for level in range(layers + 1)]
        modules: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, layers + 1):
            stride = 2 if level < layers else 1
            modules += [
                nn.Conv2d(widths[level - 1], widths[level], 4, stride, 1, bias=False),
                nn.GroupNorm(8, widths[level]),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*modules, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        below, right = (max(0, self.smallest_side - side) for side in images.shape[-2:])
        if below or right:
            images = F.pad(images, (0, right, 0, below), mode="replicate")
        return self.main(images)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: half the mean of max(0, 1 - real) plus that of max(0, 1 + fake) (Lim and Ye,
    arXiv:1705.02894); real and fake are logits of any shape."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction_loss: Tensor, generator_loss: Tensor, last_layer: Tensor) -> Tensor:
    """|gradient of the reconstruction loss| / |gradient of the generator's loss| at ``last_layer``, the
    weight of the decoder's last layer; clamped and detached (VQGAN, equation 7)."""
    (reconstruction,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (adversarial,) = torch.autograd.grad(generator_loss, last_layer, retain_graph=True)
    weight = reconstruction.norm() / (adversarial.norm() + 1e-6)
    return weight.clamp(0, MAX_ADAPTIVE_WEIGHT).detach()


class Adversary:
    """The discriminator with its optimizer, and its term for the image tokenizer's loss. Both exist only if
    the loss has a weight.

    Call ``discriminator_step`` before ``generator_loss`` in every training step: in the other order
    the discriminator's weights would change before the generator's backward pass. Not an ``nn.Module``, so it
    is neither in the tokenizer's weights nor wrapped by DDP.
    """

    network: PatchDiscriminator
    optimizer: torch.optim.AdamW

    def __init__(self, config: AdversaryConfig) -> None:
        self.config = config
        if not config.weight:
            return
        with torch.random.fork_rng(devices=[]):
            self.network = PatchDiscriminator(config.channels, config.layers)
        generator = torch.Generator().manual_seed(config.seed)
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), config.lr, config.betas)
        self.network.requires_grad_(False)

    def active(self, step: int) -> bool:
        """Whether the loss is on at ``step`` (0 is the first)."""
        return self.config.weight > 0 and step >= self.config.start

    def discriminator_step(self, images: Tensor, reconstruction: Tensor, step: int) -> dict[str, Tensor]:
        """Train the discriminator to tell images (B, 3, H, W) from their reconstructions, which get no
        gradient.

        Returns:
            Figures to log: its loss and the mean logits of both.
        """
        if not self.active(step):
            return {}
        self._follow(images.device)
        self.network.requires_grad_(True)
        with torch.enable_grad(), self._autocast(images.device.type):
            logits = self.network(torch.cat([images, reconstruction.detach()]))
            real, fake = logits.float().chunk(2)
            loss = hinge_loss(real, fake)
        loss.backward()
        self._average_gradients()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.network.requires_grad_(False)
        means = {"d_loss": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
        return {name: value.detach() for name, value in means.items()}

    def generator_loss(
        self, reconstruction: Tensor, reconstruction_loss: Tensor, last_layer: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The term to add to the loss for ``reconstruction`` (B, 3, H, W), and figures to log.

        Args:
            reconstruction: The decoder's output.
            reconstruction_loss: The other losses of the image, whose gradient scales this one.
            last_layer: Weight of the decoder's last layer, ``ImageTokenizer.last_layer``.
            step: The training step, from 0.
        """
        if not self.active(step):
            return reconstruction.new_zeros(()), {}
        self._follow(reconstruction.device)
        with self._autocast(reconstruction.device.type):
            loss = -self.network(reconstruction).float().mean()
        adaptive = adaptive_weight(reconstruction_loss, loss, last_layer)
        grown = min(1.0, (step - self.config.start + 1) / max(1, self.config.warmup))
        values = {"g_loss": loss.detach(), "adaptive_weight": adaptive}
        return self.config.weight * grown * adaptive * loss, values

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, so that a checkpoint opens with ``weights_only=True``; empty before the
        first step, since the seed gives the initial weights."""
        if not self.config.weight or not self.optimizer.state:
            return {}
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``; ignored if the loss has no weight here."""
        if state and self.config.weight:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])

    def _follow(self, device: torch.device) -> None:
        """Move network and optimizer state to ``device``."""
        if next(self.network.parameters()).device != device:
            self.network.to(device)
            self.optimizer.load_state_dict(
                self.optimizer.state_dict()
            )  # casts its state to the weights' device

    @staticmethod
    def _autocast(device: str) -> torch.autocast:
        """The training's precision, without the cache of cast weights, which would return those from before
        the step. No float16, which would need another gradient scaler."""
        dtype = torch.get_autocast_dtype(device)
        on = torch.is_autocast_enabled(device) and dtype == torch.bfloat16
        return torch.autocast(device, dtype=dtype, enabled=on, cache_enabled=False)

    def _average_gradients(self) -> None:
        """Average gradients over the ranks, so that their discriminators stay equal."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
            gradient.copy_(mean.view_as(gradient))
