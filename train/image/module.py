"""Training of the image tokenizer: first as a plain autoencoder, then k-means for the codebook, then
quantized.

Quantization from the first step learns slowly: this order gave 3 dB more in the same time.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.images import ImageBatch
from ...tokenizers.image import ImageTokenizer, ImageTokenizerOutput
from ..loop.logged_training import LoggedTraining
from ..loop.optim import adamw, scheduled
from ..loop.resume import check_config
from ..loop.schedule import warmup_stable_decay
from .adversary import Adversary
from .codebook_use import CodebookUse
from .ema import WeightEMA, averaged
from .losses import ReconstructionLoss, psnr
from .settings import DECODER, ImageTokenizerSettings


class ImageTokenizerTraining(LoggedTraining):
    """Trains an ``ImageTokenizer``, ``self.net``."""

    settings_class = ImageTokenizerSettings
    shown = ("loss", "psnr")
    settings: ImageTokenizerSettings
    net: ImageTokenizer

    def __init__(self, settings: ImageTokenizerSettings = ImageTokenizerSettings()) -> None:
        super().__init__(settings)
        self.config = settings.config
        self.net = ImageTokenizer(self.config)
        self.adversary = Adversary(settings.adversary)
        self.loss = ReconstructionLoss.of(settings)
        self.autoencoder_steps = settings.autoencoder_steps if settings.trained_part == "all" else 0
        self.codebook_ready = False
        """Whether the codebook exists: from k-means, or from ``init_from``."""
        if settings.init_from is not None:
            self._take_weights(settings.init_from)
        if settings.trained_part == "decoder":
            for part in (self.net.encoder, self.net.quant_conv, self.net.quantizer):
                part.requires_grad_(False)
        self.train_use = CodebookUse(self.config.codebook_size, self.config.codes_per_position)
        self.validation_use = CodebookUse(self.config.codebook_size, self.config.codes_per_position)

    # batch -> loss

    def forward(self, images: Tensor, quantize: bool = True, noise: float = 0.0) -> ImageTokenizerOutput:
        """``ImageTokenizer.forward``, or with ``trained_part=decoder`` the reconstruction of fixed codes."""
        if self.settings.trained_part == "decoder":  # forward could update the codebook
            codes = self.net.encode(images)
            latents = self.net.quantizer.decode(codes).movedim(-1, 1)
            return ImageTokenizerOutput(self.net.reconstruct(latents), codes, latents.new_zeros(()))
        return self.net(images, quantize=quantize, noise=noise)

    def on_train_start(self) -> None:
        if self.global_step == 0 and self.autoencoder_steps:  # a new run makes its own codebook
            self.codebook_ready = False
        data: Any = getattr(self.trainer, "datamodule", None)
        positions = getattr(data, "positions", None)
        if not self.codebook_ready and positions is not None and positions < self.config.codebook_size:
            raise ValueError(
                f"codebook_size is {self.config.codebook_size}, but all training images together have only "
                f"{positions} code positions: use fewer codes or more images"
            )

    def on_train_batch_start(self, batch: ImageBatch, batch_idx: int) -> None:
        if self.global_step >= self.autoencoder_steps and not self.codebook_ready:
            self._initialize_codebook()

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Images and their text boxes -> weighted loss (scalar)."""
        output = self(batch.images, quantize=self.codebook_ready, noise=self.settings.latent_noise)
        terms = self.loss.terms(output.images, batch.images, batch.boxes)
        loss = self.loss.weighted(terms)
        if self.adversary.active(self.global_step):
            loss = loss + self._adversarial(output.images, batch.images, loss)
        if output.codes is not None:
            if self.settings.trained_part == "all":  # else it is 0
                loss = loss + output.quantizer_loss
                self.means.add("commitment", output.quantizer_loss)
            self.train_use.update(output.codes)
        for name, value in (("loss", loss), *terms.items()):
            self.means.add(name, value)
        return loss

    def _adversarial(self, reconstruction: Tensor, images: Tensor, loss: Tensor) -> Tensor:
        """A step of the discriminator, then the term for the image tokenizer."""
        step = self.global_step
        values = self.adversary.discriminator_step(images, reconstruction, step)
        term, more = self.adversary.generator_loss(reconstruction, loss, self.net.last_layer, step)
        for name, value in {**values, **more}.items():
            self.means.add(f"adversary_{name}", value)
        return term

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Errors per image, means over the whole set."""
        self._check_trained()
        output = self(batch.images, quantize=self.codebook_ready)
        images = output.images.clamp(-1, 1)
        per_image = (images - batch.images).square().mean(dim=(1, 2, 3))
        values = {**self.loss.terms(images, batch.images, batch.boxes), "psnr": psnr(per_image).mean()}
        if "text" in values and not len(batch.boxes):
            del values["text"]
        self.log_dict(
            {f"validation/{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(batch.images),
            sync_dist=True,
        )
        if output.codes is not None:
            self.validation_use.update(output.codes)

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """Images (B, 3, H, W) -> their codes (B, h, w) or (B, h, w, n) and reconstructions (B, 3, H, W)."""
        self._check_trained()
        codes = self.net.encode(batch.images)
        return {"images": batch.images, "codes": codes, "reconstructions": self.net.decode(codes)}

    # loss -> step

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up, stable, decay, and a second warm-up after k-means."""
        s = self.settings
        if s.max_steps < 1:
            raise ValueError(f"max_steps must be positive to train, got {s.max_steps}: set trainer.max_steps")
        return scheduled(adamw(self.net, s.lr, s.betas, 1e-8, s.weight_decay), self.lr_factor)

    def lr_factor(self, step: int) -> float:
        """Factor of the learning rate at ``step``."""
        s = self.settings
        factor = warmup_stable_decay(step, s.max_steps, s.warmup_steps, s.decay_fraction)
        since = step - self.autoencoder_steps
        if since >= 0 and self.autoencoder_steps:
            quantized_lr = s.lr if s.quantized_lr is None else s.quantized_lr
            factor *= min(1.0, (since + 1) / max(1, s.warmup_steps)) * quantized_lr / s.lr
        return factor

    def configure_callbacks(self) -> Any:
        """Average the weights from the first quantized step on."""
        decay = self.settings.ema_decay
        return [WeightEMA(decay, self.autoencoder_steps)] if decay else []

    # figures

    def read_figures(self) -> dict[str, float]:
        """The means, their PSNR, and the use of the codebook once it exists."""
        values = super().read_figures()
        values["psnr"] = psnr(torch.tensor(values["mse"])).item()
        if int(self.train_use.counts.sum()):
            values |= {f"codebook_{name}": float(v) for name, v in self.train_use.compute().items()}
            self.train_use.reset()
        return values

    def load_figures(self, checkpoint: dict[str, Any]) -> None:
        super().load_figures(checkpoint)
        self.train_use.counts.copy_(checkpoint["train_use"])

    def on_validation_epoch_end(self) -> None:
        if int(self.validation_use.counts.sum()):
            use = self.validation_use.compute()
            self.log_dict({f"validation/codebook_{name}": value for name, value in use.items()})
        self.validation_use.reset()

    # weights

    def setup(self, stage: str) -> None:
        """
        Raises:
            ValueError: The data's images are not multiples of this tokenizer's factor.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        factor = getattr(data, "factor", self.config.factor)
        if factor != self.config.factor:
            raise ValueError(
                f"data.factor is {factor}, but the image tokenizer's is {self.config.factor}: use the same"
            )

    def _take_weights(self, folder: str) -> None:
        net = ImageTokenizer.load(folder)
        free = DECODER if self.settings.trained_part == "decoder" else ()
        check_config(folder, net.config, self.config, free)
        same = all(getattr(net.config, name) == getattr(self.config, name) for name in DECODER)
        taken = {name: w for name, w in net.state_dict().items() if same or not name.startswith("decoder.")}
        self.net.load_state_dict({**self.net.state_dict(), **taken})
        self.codebook_ready = True

    @torch.no_grad()
    def _initialize_codebook(self) -> None:
        """Make the codebook by k-means over the latents of training images."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "sample_images"):
            raise ValueError(
                "the codebook is made from training images: the data module needs sample_images()"
            )
        s = self.settings
        self.net.eval()
        batches = data.sample_images(s.kmeans_images, s.seed)
        grids = [self.net.latents(batch.to(self.device)) for batch in batches]
        latents = torch.cat([grid.movedim(1, -1).flatten(0, 2) for grid in grids])
        self.net.train()
        generator = torch.Generator().manual_seed(s.seed)
        chosen = torch.randperm(len(latents), generator=generator)[: s.kmeans_latents]
        self.net.initialize_codebook(latents[chosen.to(latents.device)])
        self.codebook_ready = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["codebook_ready"] = self.codebook_ready
        checkpoint["train_use"] = self.train_use.counts
        if self.adversary.config.weight:
            checkpoint["adversary"] = self.adversary.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.codebook_ready = checkpoint["codebook_ready"]
        if "adversary" in checkpoint:
            self.adversary.load_state_dict(checkpoint["adversary"])

    def averaged(self) -> AbstractContextManager[None]:
        return averaged(self.trainer, self)

    def save_folder(self, folder: str | Path) -> None:
        """Write the tokenizer as a folder that ``ImageTokenizer.load`` reads."""
        self.net.save(folder)

    def _check_trained(self) -> None:
        if not self.codebook_ready and self.trainer.state.fn != "fit":
            raise ValueError("the image tokenizer has no codebook: give --ckpt_path, or --model.init_from")
