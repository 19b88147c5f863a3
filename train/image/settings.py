"""Settings of the image tokenizer's training."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

from ...tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from ..loop.settings import TrainingSettings
from .adversary import AdversaryConfig

Part = Literal["all", "decoder"]
"""What is trained: everything, or only the decoder, with unchanged codes."""
DECODER = ("decoder", "decoder_channels", "decoder_res_blocks")
"""Fields of a decoder trained alone that may differ from ``init_from``."""


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerSettings(TrainingSettings):
    """Settings of the image tokenizer's training."""

    renamed: ClassVar[Mapping[str, str]] = {"quantised_lr": "quantized_lr", "recogniser": "recognizer"}
    removed: ClassVar[Mapping[str, Any]] = {"l1_weight": 1.0, "commitment_weight": 1.0}
    nested: ClassVar[Mapping[str, type]] = {"config": ImageTokenizerConfig, "adversary": AdversaryConfig}

    config: ImageTokenizerConfig = ImageTokenizerConfig()
    """The network."""
    quantized_lr: float | None = None
    """Learning rate from the first quantized step on; null uses lr."""
    warmup_steps: int = 50
    """Steps of linear warm-up to the learning rate, repeated after k-means makes the codebook."""
    autoencoder_steps: int = 300
    """Initial steps without quantization; then k-means makes the codebook."""
    latent_noise: float = 0.15
    """Standard deviation of noise on the latents during autoencoder_steps, to prepare the network for the
    quantizer's. For quantizer cosine, whose latents are unit vectors."""
    kmeans_images: int = 4096
    """Number of training images for k-means."""
    kmeans_latents: int = 32768
    """Number of latents drawn from them for k-means."""
    mse_weight: float = 1.0
    """Weight of the mean squared error; the mean absolute error has weight 1."""
    chroma_weight: float = 0.0
    """Weight of the color errors: L1 and MSE of the channels minus their mean. Raise it if most images are
    black type, which makes the codebook neglect the colors of the others."""
    edge_weight: float = 0.0
    """Weight of the edge error: L1 of the gray image's first differences
    (benchmarks/studies/tokenizer/study.py, row "edge 0.5")."""
    text_weight: float = 0.7
    """Weight of the text-aware loss, the distance of a recognizer's features in the text boxes of the images
    (column objects); see losses.text_distance."""
    recognizer: str | None = None
    """Folder of the recognizer, written by `earlyfusion recognizer fit`; null uses the packaged one."""
    lpips_weight: float = 0.0
    """Weight of LPIPS, as in VQGAN's recipe; needs lpips_backbone."""
    lpips_backbone: str | None = None
    """File with the weights of LPIPS's backbone: torchvision's AlexNet or VGG16."""
    adversary: AdversaryConfig = AdversaryConfig()
    """The adversarial loss (weight 0: off)."""
    ema_decay: float = 0.0
    """Decay of the moving average (EMA) of the weights, which is validated and saved; 0 turns it off."""
    init_from: str | None = None
    """Folder of an image tokenizer to start from."""
    trained_part: Part = "all"
    """What to train. all; decoder: only the decoder, with encoder and codebook of init_from, so that images
    keep their codes and transformers trained on them stay valid. A decoder of another size
    (config.decoder_channels, config.decoder_res_blocks) starts with random weights."""
    seed: int = 0
    """Random seed of the images and latents for k-means."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantized_lr is not None and not self.quantized_lr > 0:
            raise ValueError(f"quantized_lr must be positive, got {self.quantized_lr}")
        for name in ("latent_noise", "autoencoder_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        size = self.config.codebook_size
        if self.trained_part == "all" and self.kmeans_latents < size:
            raise ValueError(
                f"kmeans_latents is {self.kmeans_latents}, expected at least codebook_size, {size}"
            )
        if self.adversary.weight and self.adversary.start < self.autoencoder_steps:
            raise ValueError(
                f"adversary.start is {self.adversary.start}, expected at least autoencoder_steps, "
                f"{self.autoencoder_steps}"
            )
        if self.trained_part not in get_args(Part):
            allowed = ", ".join(get_args(Part))
            raise ValueError(f"trained_part is {self.trained_part!r}, expected one of {allowed}")
        if self.trained_part == "decoder" and (self.init_from is None or not self.config.decoder):
            raise ValueError(
                "trained_part=decoder trains the decoder of an image tokenizer: give init_from, and "
                "config.decoder=true"
            )
        if self.lpips_weight and self.lpips_backbone is None:
            raise ValueError(
                f"lpips_weight is {self.lpips_weight}, but lpips_backbone is missing: give a file with the "
                "weights of torchvision's AlexNet or VGG16"
            )


def factor_of(stem: int, channels: Sequence[int]) -> int:
    """Pixels per code along each side, for the option data.factor."""
    return stem * 2 ** (len(channels) - 1)


def keep_encoder(options: Any) -> None:
    """For ``trained_part=decoder``: take the network's config from ``init_from``, except the decoder's
    fields."""
    if options.model.trained_part != "decoder" or options.model.init_from is None:
        return
    given = ImageTokenizer.read_config(options.model.init_from)
    for name, value in asdict(given).items():
        if name not in DECODER:
            options.model.config[name] = value
    options.data.factor = given.factor
