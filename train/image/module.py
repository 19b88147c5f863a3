"""Training of the image tokenizer: a plain autoencoder first, then k-means for the codebook, then quantised.

A VQ-VAE that is quantised from the first step learns slowly; this order gave 3 dB more in the same time.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...data.images import ImageBatch
from ...tokenizers.image import ImageTokenizer, ImageTokenizerConfig, ImageTokenizerOutput
from ..loop.logged_training import LoggedTraining
from ..loop.meters import CodebookUse
from ..loop.schedule import adamw, check_config, check_schedule, warmup_stable_decay
from . import losses as image_losses
from .adversary import Adversary, AdversaryConfig
from .ema import WeightEMA
from .recognizer import SHIPPED, Recogniser

PARTS = ("all", "decoder")
DECODER = ("decoder", "decoder_channels", "decoder_res_blocks")
"""What a decoder that is trained alone may have otherwise than that of ``init_from``."""


class ImageTokenizerTraining(LoggedTraining):
    """Trains an ``ImageTokenizer``, which stands in ``self.net``."""

    net: ImageTokenizer
    shown = ("loss", "psnr")

    def __init__(
        self,
        config: ImageTokenizerConfig = ImageTokenizerConfig(),
        lr: float = 1e-3,
        quantised_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.01,
        warmup_steps: int = 50,
        max_steps: int = -1,
        decay_fraction: float = 0.4,
        autoencoder_steps: int = 300,
        latent_noise: float = 0.15,
        kmeans_images: int = 4096,
        kmeans_latents: int = 32768,
        l1_weight: float = 1.0,
        mse_weight: float = 1.0,
        chroma_weight: float = 0.0,
        edge_weight: float = 0.0,
        text_weight: float = 0.7,
        recogniser: str | None = None,
        lpips_weight: float = 0.0,
        lpips_backbone: str | None = None,
        commitment_weight: float = 1.0,
        adversary: AdversaryConfig = AdversaryConfig(),
        ema_decay: float = 0.0,
        init_from: str | None = None,
        trained_part: Literal["all", "decoder"] = "all",
        seed: int = 0,
    ) -> None:
        """
        Args:
            config: The network.
            lr: Learning rate after the warm-up.
            quantised_lr: Learning rate from the first quantised step on; default: the same.
            betas: AdamW's.
            weight_decay: AdamW's, on filters only.
            warmup_steps: Steps until the learning rate is reached; again after the codebook was made.
            max_steps: Steps in all; the command takes it from trainer.max_steps.
            decay_fraction: Last part of the steps, over which the learning rate falls to 0.
            autoencoder_steps: First steps without quantisation; then k-means makes the codebook.
            latent_noise: Standard deviation of the noise on the latents during those steps: the network
                learns to bear noise before it meets the quantizer's. For "cosine", whose latents are unit
                vectors.
            kmeans_images: Training images whose latents k-means sees.
            kmeans_latents: Latents drawn from them.
            l1_weight: Weight of the mean absolute error.
            mse_weight: Weight of the mean squared error.
            chroma_weight: Weight of both errors of the colour alone, the channels less their mean. Black
                type has no colour, and a codebook that mostly sees type leaves it out of pictures too.
            edge_weight: Weight of the mean absolute error of the grey image's first differences.
            text_weight: Weight of the text-aware loss, the distance of a recogniser's features in the text
                boxes of the images (column objects): see ``image_losses.text_distance``.
            recogniser: Folder of that recogniser, as `earlyfusion recogniser fit` writes it; default: the one
                that comes with the package.
            lpips_weight: Weight of LPIPS.
            lpips_backbone: File with the weights of its backbone, torchvision's AlexNet or VGG16.
            commitment_weight: Weight of the latents' squared distance to their codes, and of whatever else
                the quantizer asks for.
            adversary: The adversarial loss; its weight 0 leaves it out.
            ema_decay: Decay of the average of the weights that is validated and saved; 0 = no average.
            init_from: Folder of an image tokenizer whose weights to begin with.
            trained_part: all; decoder: encoder and codebook stay those of init_from, so that every image
                keeps its codes, and transformers trained on them stay valid. Its decoder may then be another
                (config.decoder_channels, config.decoder_res_blocks), and begins anew.
            seed: Of the draw for k-means.
        """
        super().__init__()
        if isinstance(config, dict):  # from a checkpoint, which holds no classes
            config = ImageTokenizerConfig(**config)
        if isinstance(adversary, dict):
            adversary = AdversaryConfig(**adversary)
        check_schedule(lr, warmup_steps, max_steps, decay_fraction)
        if quantised_lr is not None:
            check_schedule(quantised_lr, warmup_steps, max_steps, decay_fraction)
        if latent_noise < 0:
            raise ValueError(f"latent_noise must not be negative, got {latent_noise}")
        if autoencoder_steps < 0:
            raise ValueError(f"autoencoder_steps must not be negative, got {autoencoder_steps}")
        if trained_part == "all" and kmeans_latents < config.codebook_size:
            raise ValueError(
                f"kmeans_latents must reach codebook_size ({config.codebook_size}), got {kmeans_latents}"
            )
        if adversary.weight and adversary.start < autoencoder_steps:
            raise ValueError(
                f"adversary.start is {adversary.start}, expected at least autoencoder_steps, "
                f"{autoencoder_steps}"
            )
        if trained_part not in PARTS:
            raise ValueError(f"trained_part is {trained_part!r}, expected one of {', '.join(PARTS)}")
        if trained_part == "decoder" and (init_from is None or not config.decoder):
            raise ValueError(
                "trained_part=decoder trains the decoder of an image tokenizer: give it as init_from, and "
                "config.decoder=true"
            )
        if lpips_weight and lpips_backbone is None:
            raise ValueError(
                f"lpips_weight is {lpips_weight}, which needs lpips_backbone: a file with the weights of "
                "torchvision's AlexNet or VGG16"
            )
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.save_hyperparameters(
            {**settings, "config": asdict(config), "adversary": asdict(adversary), "betas": list(betas)}
        )
        self.config, self.lr, self.betas, self.weight_decay = config, lr, tuple(betas), weight_decay
        self.quantised_lr = lr if quantised_lr is None else quantised_lr
        self.warmup_steps, self.max_steps, self.decay_fraction = warmup_steps, max_steps, decay_fraction
        self.trained_part = trained_part
        self.autoencoder_steps = autoencoder_steps if trained_part == "all" else 0
        self.latent_noise = latent_noise
        self.kmeans_images, self.kmeans_latents, self.seed = kmeans_images, kmeans_latents, seed
        self.weights = {
            "l1": l1_weight,
            "mse": mse_weight,
            "chroma": chroma_weight,
            "edge": edge_weight,
            "text": text_weight,
            "lpips": lpips_weight,
            "commitment": commitment_weight,
        }
        """Of the terms of the loss; a term of weight 0 is not computed."""
        self.ema_decay = ema_decay
        self.net = ImageTokenizer(config)
        self.adversary = Adversary(adversary)
        # In tuples, so that they are neither in the checkpoint nor moved and trained with the network.
        self._recogniser = (
            (Recogniser.load(recogniser or SHIPPED).requires_grad_(False),) if text_weight else ()
        )
        self._lpips = (_lpips(lpips_backbone),) if lpips_weight and lpips_backbone else ()
        self.codebook_ready = False
        """Whether the codebook was made: by k-means, or by the run that ``init_from`` comes from."""
        if init_from is not None:
            self._take_weights(init_from)
        if trained_part == "decoder":
            for part in (self.net.encoder, self.net.quant_conv, self.net.quantizer):
                part.requires_grad_(False)
        self.train_use = CodebookUse(config.codebook_size, config.codes_per_position)
        self.validation_use = CodebookUse(config.codebook_size, config.codes_per_position)

    def forward(self, images: Tensor, quantize: bool = True, noise: float = 0.0) -> Any:
        """``ImageTokenizer.forward``, or its reconstruction of codes that stay as they are."""
        if self.trained_part == "decoder":  # the codebook may follow what it quantises: it is only read
            codes = self.net.encode(images)
            latents = self.net.quantizer.decode(codes).movedim(-1, 1)
            return ImageTokenizerOutput(self.net.reconstruct(latents), codes, latents.new_zeros(()))
        return self.net(images, quantize=quantize, noise=noise)

    def on_train_start(self) -> None:
        """A new run that begins with a plain autoencoder makes its codebook anew."""
        if self.global_step == 0 and self.autoencoder_steps:
            self.codebook_ready = False
        data: Any = getattr(self.trainer, "datamodule", None)
        positions = getattr(data, "positions", None)
        if not self.codebook_ready and positions is not None and positions < self.config.codebook_size:
            raise ValueError(
                f"codebook_size is {self.config.codebook_size}, but all training images together have only "
                f"{positions} positions for codes: use fewer codes or more images"
            )

    def on_train_batch_start(self, batch: ImageBatch, batch_idx: int) -> None:
        """Make the codebook before the first quantised step."""
        if self.global_step >= self.autoencoder_steps and not self.codebook_ready:
            self._initialize_codebook()

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Images and their text boxes -> weighted loss (scalar)."""
        output = self(batch.images, quantize=self.codebook_ready, noise=self.latent_noise)
        terms = self.terms(output.images, batch)
        loss = self._weighted(terms)
        if self.adversary.active(self.global_step):
            loss = loss + self._adversarial(output.images, batch.images, loss)
        if output.codes is not None and self.trained_part == "all":  # else it is 0
            loss = loss + self.weights["commitment"] * output.quantizer_loss
            self.means.add("commitment", output.quantizer_loss)
        if output.codes is not None:
            self.train_use.update(output.codes)
        for name, value in (("loss", loss), *terms.items()):
            self.means.add(name, value)
        return loss

    def terms(self, reconstruction: Tensor, batch: ImageBatch) -> dict[str, Tensor]:
        """The terms of the loss that have a weight, and l1 and mse; unweighted scalars."""
        images = batch.images
        terms = {name: getattr(image_losses, name)(reconstruction, images) for name in ("l1", "mse")}
        for name in ("chroma", "edge"):
            if self.weights[name]:
                terms[name] = getattr(image_losses, name)(reconstruction, images)
        for recogniser in self._recogniser:
            recogniser.to(images.device)
            terms["text"] = image_losses.text_distance(recogniser, reconstruction, images, batch.boxes)
        for distance in self._lpips:
            terms["lpips"] = distance.to(images.device)(reconstruction, images).mean()
        return terms

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()

    def _adversarial(self, reconstruction: Tensor, images: Tensor, loss: Tensor) -> Tensor:
        """A step of the discriminator, then the term for the image tokenizer."""
        step = self.global_step
        values = self.adversary.discriminator_step(images, reconstruction, step)
        term, more = self.adversary.generator_loss(reconstruction, loss, self.net.last_layer, step)
        for name, value in {**values, **more}.items():
            self.means.add(f"adversary_{name}", value)
        return term

    def read_figures(self) -> dict[str, float]:
        """The means, their PSNR, and the use of the codebook once there is one."""
        values = super().read_figures()
        values["psnr"] = psnr(torch.tensor(values["mse"])).item()
        if int(self.train_use.counts.sum()):
            values |= {f"codebook_{name}": float(v) for name, v in self.train_use.compute().items()}
            self.train_use.reset()
        return values

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Errors per image, means over the whole set."""
        self._evaluate("validation", batch)

    def test_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """The same on the test images."""
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Codebook usage and perplexity over the whole set."""
        self._log_use("validation")

    def on_test_epoch_end(self) -> None:
        """Codebook usage and perplexity over the whole set."""
        self._log_use("test")

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """Images (B, 3, H, W) -> their codes (B, h, w) or (B, h, w, n) and reconstructions (B, 3, H, W)."""
        self._check_trained()
        codes = self.net.encode(batch.images)
        return {"images": batch.images, "codes": codes, "reconstructions": self.net.decode(codes)}

    def configure_optimizers(self) -> Any:
        """AdamW; warm-up, stable, decay, with a second warm-up after the codebook was made."""
        if self.max_steps < 1:
            raise ValueError(
                f"max_steps must be positive to train, got {self.max_steps}: set trainer.max_steps"
            )
        optimizer = adamw(self.net, self.lr, self.betas, 1e-8, self.weight_decay)  # type: ignore[arg-type]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_callbacks(self) -> Any:
        """The average of the weights, from the first quantised step on."""
        return [WeightEMA(self.ema_decay, self.autoencoder_steps)] if self.ema_decay else []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the curves, the codebook and the discriminator need to go on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["codebook_ready"] = self.codebook_ready
        checkpoint["train_use"] = self.train_use.counts
        if self.adversary.config.weight:
            checkpoint["adversary"] = self.adversary.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse other settings than the checkpoint's.

        Raises ValueError.
        """
        super().on_load_checkpoint(checkpoint)
        self.codebook_ready = checkpoint["codebook_ready"]
        if "adversary" in checkpoint:
            self.adversary.load_state_dict(checkpoint["adversary"])

    def load_figures(self, checkpoint: dict[str, Any]) -> None:
        """The means, and the use of the codebook."""
        super().load_figures(checkpoint)
        self.train_use.counts.copy_(checkpoint["train_use"])

    def save_folder(self, folder: str | Path) -> None:
        """Write the tokenizer as a folder that ``ImageTokenizer.load`` reads."""
        self.net.save(folder)

    def _lr_factor(self, step: int) -> float:
        factor = warmup_stable_decay(step, self.max_steps, self.warmup_steps, self.decay_fraction)
        since = step - self.autoencoder_steps
        if since >= 0 and self.autoencoder_steps:
            factor *= min(1.0, (since + 1) / max(1, self.warmup_steps)) * self.quantised_lr / self.lr
        return factor

    def _take_weights(self, folder: str) -> None:
        net = ImageTokenizer.load(folder)
        check_config(folder, net.config, self.config, DECODER if self.trained_part == "decoder" else ())
        same = all(getattr(net.config, name) == getattr(self.config, name) for name in DECODER)
        taken = {name: w for name, w in net.state_dict().items() if same or not name.startswith("decoder.")}
        self.net.load_state_dict({**self.net.state_dict(), **taken})
        self.codebook_ready = True

    @torch.no_grad()
    def _initialize_codebook(self) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "sample_images"):
            raise ValueError(
                "the codebook is made from training images: the data module needs sample_images()"
            )
        self.net.eval()
        batches = data.sample_images(self.kmeans_images, self.seed)
        grids = [self.net.latents(batch.to(self.device)) for batch in batches]
        latents = torch.cat([grid.movedim(1, -1).flatten(0, 2) for grid in grids])
        self.net.train()
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(latents), generator=generator)[: self.kmeans_latents]
        self.net.initialize_codebook(latents[chosen.to(latents.device)])
        self.codebook_ready = True

    def _evaluate(self, stage: str, batch: ImageBatch) -> None:
        self._check_trained()
        output = self(batch.images, quantize=self.codebook_ready)
        images = output.images.clamp(-1, 1)
        per_image = (images - batch.images).square().mean(dim=(1, 2, 3))
        values = {**self.terms(images, batch), "psnr": psnr(per_image).mean()}
        if "text" in values and not len(batch.boxes):
            del values["text"]
        self.log_dict(
            {f"{stage}/{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(batch.images),
            sync_dist=True,
        )
        if output.codes is not None:
            self.validation_use.update(output.codes)

    def _check_trained(self) -> None:
        if not self.codebook_ready and self.trainer.state.fn != "fit":
            raise ValueError(
                "the image tokenizer has no codebook yet: give a --ckpt_path, or --model.init_from"
            )

    def _log_use(self, stage: str) -> None:
        if int(self.validation_use.counts.sum()):
            self.log_dict({f"{stage}/codebook_{n}": v for n, v in self.validation_use.compute().items()})
        self.validation_use.reset()


def _lpips(backbone: str) -> torch.nn.Module:
    from ...eval.metrics.perceptual import lpips

    return lpips(backbone).requires_grad_(False)


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], whose peak is 2."""
    return 10 * torch.log10(4 / mse.clamp(min=1e-10))
