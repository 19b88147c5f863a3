"""Settings of the image tokenizer's training."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

from ...tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from ..loop.settings import TrainingSettings
from .adversary import AdversaryConfig

Part = Literal["all", "decoder"]
"""What is trained: everything; the decoder, with codes that stay as they are."""
DECODER = ("decoder", "decoder_channels", "decoder_res_blocks")
"""Fields in which a decoder that is trained alone may differ from that of ``init_from``."""


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerSettings(TrainingSettings):
    """Settings of :class:`.module.ImageTokenizerTraining`."""

    renamed: ClassVar[Mapping[str, str]] = {"quantised_lr": "quantized_lr", "recogniser": "recognizer"}
    removed: ClassVar[Mapping[str, Any]] = {"l1_weight": 1.0, "commitment_weight": 1.0}
    nested: ClassVar[Mapping[str, type]] = {"config": ImageTokenizerConfig, "adversary": AdversaryConfig}

    config: ImageTokenizerConfig = ImageTokenizerConfig()
    """The network."""
    quantized_lr: float | None = None
    """Learning rate from the first quantized step on; default: the same."""
    warmup_steps: int = 50
    """Steps until the learning rate is reached; again after the codebook was made."""
    autoencoder_steps: int = 300
    """First steps without quantization; then k-means makes the codebook."""
    latent_noise: float = 0.15
    """Standard deviation of the noise on the latents during those steps: the network learns to bear noise
    before it meets the quantizer's. For "cosine", whose latents are unit vectors."""
    kmeans_images: int = 4096
    """Training images whose latents k-means sees."""
    kmeans_latents: int = 32768
    """Latents drawn from them."""
    mse_weight: float = 1.0
    """Weight of the mean squared error; the mean absolute error has weight 1."""
    chroma_weight: float = 0.0
    """Weight of both errors of the color alone, the channels less their mean. Black type has no color, and a
    codebook that mostly sees type neglects it in pictures too."""
    edge_weight: float = 0.0
    """Weight of the mean absolute error of the gray image's first differences
    (benchmarks/studies/tokenizer/study.py, row "edge 0.5")."""
    text_weight: float = 0.7
    """Weight of the text-aware loss, the distance of a recognizer's features in the text boxes of the images
    (column objects): see losses.text_distance."""
    recognizer: str | None = None
    """Folder of that recognizer, written by `earlyfusion recognizer fit`; default: the one in the package."""
    lpips_weight: float = 0.0
    """Weight of LPIPS, which VQGAN's recipe has."""
    lpips_backbone: str | None = None
    """File with the weights of LPIPS's backbone, torchvision's AlexNet or VGG16."""
    adversary: AdversaryConfig = AdversaryConfig()
    """The adversarial loss; weight 0: none."""
    ema_decay: float = 0.0
    """Decay of the average of the weights that is validated and saved; 0: no average."""
    init_from: str | None = None
    """Folder of an image tokenizer whose weights to begin with."""
    trained_part: Part = "all"
    """all; decoder: encoder and codebook stay those of init_from, so that every image keeps its codes, and
    transformers trained on them stay valid. The decoder may have another size (config.decoder_channels,
    config.decoder_res_blocks), and then begins with random weights."""
    seed: int = 0
    """Random seed of the draw for k-means."""

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
    """For ``trained_part=decoder``: the network's config is that of ``init_from``, except the decoder's."""
    if options.model.trained_part != "decoder" or options.model.init_from is None:
        return
    given = ImageTokenizer.read_config(options.model.init_from)
    for name, value in asdict(given).items():
        if name not in DECODER:
            options.model.config[name] = value
    options.data.factor = given.factor
