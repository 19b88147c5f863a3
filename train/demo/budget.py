"""All numbers of the demo: how much data, how large the networks, how long they train."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...fusion_lm.model import FusionLMConfig
from ...fusion_lm.sampling import Sampling
from ...tokenizers.image import ImageTokenizerConfig
from .corpus import CorpusConfig

CORPUS, TEXT, IMAGE, TOKENS, LM = (
    "corpus",
    "text tokenizer",
    "image tokenizer",
    "documents to tokens",
    "transformer",
)
EVALUATION, SAMPLES, REPORT = "evaluation", "samples", "report"
"""The stages, in this order."""


@dataclass(frozen=True)
class DemoBudget:
    """One budget. Another number makes another plan, which needs another folder."""

    name: str
    corpus: CorpusConfig = CorpusConfig()
    text_vocab_size: int = 340
    """256 bytes and the characters of the corpus need about 310."""
    text_max_piece_length: int = 1
    """1: every letter is a token, so that spelling can be learned."""
    image: ImageTokenizerConfig = ImageTokenizerConfig()
    image_batch_pixels: int = 65_536
    image_training: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``ImageTokenizerTraining``; max_steps is the number of steps."""
    max_grid: int = 32
    """Largest number of rows or columns of codes in an image."""
    separator: bool = False
    """Whether the vocabulary has a token between the turns of conversations."""
    lm: FusionLMConfig = FusionLMConfig()
    lm_batch_size: int = 16
    """Windows of ``lm.context_length`` tokens."""
    lm_training: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``FusionLMTraining``; max_steps is the number of steps."""
    validations: int = 8
    """Times that the validation losses are measured during each training."""
    reconstruction_items: int = 450
    """Word images whose reconstructions are read, of each kind of fonts."""
    writing: Sampling = Sampling(temperature=0)
    """How the images of held-out words are drawn."""
    drawings: int = 64
    """Pictures drawn from training names; the report shows the first 16."""
    drawing: Sampling = Sampling(temperature=0.4)
    """How their codes are drawn, and those of the interleaved samples."""
    text: Sampling = Sampling(temperature=0.4)
    """How the text of the interleaved samples is drawn."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What each stage takes on two cores, for the time left before anything was measured."""

    def plan(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON holds it."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}


NETWORK: dict[str, Any] = {
    "stem": 4,
    "channels": (64, 128),
    "res_blocks": 1,
    "norm": "group",
    "codebook_dim": 16,
    "codebook_decay": 0.95,
}
"""Not the defaults: those keep more of the text (77 % of the held-out texts, not 69 %), but in codes that
are harder to learn. With them the same transformer wrote 29 % of the held-out words, not 51 %, and
19 of 64 drawings came out, not 46: benchmarks/tokenizer/README.md, benchmarks/tokenizer/demo_trials.json."""

FULL = DemoBudget(
    name="full",
    corpus=CorpusConfig(
        words=20_000,
        random_share=0.45,
        large_strips=600,
        picture_documents=10,
        picture_images=12,
        other_drawings=300,
        interleaved=1_500,
        typed=500,
    ),
    image=ImageTokenizerConfig(**NETWORK, codebook_size=2048),
    image_batch_pixels=16_384,
    image_training={
        "lr": 2e-3,
        "quantized_lr": 3e-3,
        "warmup_steps": 100,
        "max_steps": 5_000,
        "autoencoder_steps": 800,
        "latent_noise": 0.0,
        "chroma_weight": 2.0,
        "text_weight": 0.3,
    },
    lm=FusionLMConfig(context_length=192, n_layers=4, width=128, n_heads=4, n_kv_heads=4, ffn_width=352),
    lm_batch_size=5,
    lm_training={
        "lr": 6e-3,
        "muon_lr": 0.02,
        "weight_decay": 0.05,
        "warmup_steps": 100,
        "max_steps": 3_300,
        "decay_fraction": 0.6,
    },
    seconds={CORPUS: 11, TEXT: 1, IMAGE: 165, TOKENS: 15, LM: 350, EVALUATION: 55, SAMPLES: 2, REPORT: 1},
)

QUICK = DemoBudget(
    name="quick",
    corpus=CorpusConfig(
        words=4_000,
        large_strips=200,
        picture_documents=4,
        picture_images=4,
        other_drawings=50,
        interleaved=300,
        typed=100,
        validation=100,
        test_words=500,
        test_large=30,
    ),
    image=ImageTokenizerConfig(**NETWORK, codebook_size=512),
    image_batch_pixels=16_384,
    image_training={
        "lr": 2e-3,
        "quantized_lr": 3e-3,
        "warmup_steps": 50,
        "max_steps": 900,
        "autoencoder_steps": 250,
        "latent_noise": 0.0,
        "chroma_weight": 2.0,
        "text_weight": 0.3,
    },
    lm=FusionLMConfig(context_length=192, n_layers=4, width=128, n_heads=4, n_kv_heads=4, ffn_width=352),
    lm_batch_size=5,
    lm_training={"lr": 6e-3, "muon_lr": 0.02, "weight_decay": 0.05, "warmup_steps": 50, "max_steps": 500},
    validations=4,
    reconstruction_items=60,
    drawings=16,
    seconds={CORPUS: 4, TEXT: 1, IMAGE: 30, TOKENS: 5, LM: 55, EVALUATION: 40, SAMPLES: 2, REPORT: 1},
)

LONG = replace(
    FULL,
    name="long",
    corpus=replace(
        FULL.corpus,
        words=50_000,
        heights=(16, 24),
        large_strips=1_000,
        smallest_drawing=34,
        picture_documents=30,
        naming_documents=200,
        picture_images=120,
        other_drawings=3_000,
        interleaved=6_000,
        typed=2_000,
    ),
    image=ImageTokenizerConfig(**NETWORK, codebook_size=4096),
    image_training={
        **FULL.image_training,
        "max_steps": 15_000,
        "autoencoder_steps": 2_400,
        "chroma_weight": 3.0,
    },
    separator=True,
    lm=FusionLMConfig(context_length=256, n_layers=6, width=192, n_heads=6, n_kv_heads=6, ffn_width=512),
    lm_batch_size=8,
    lm_training={
        **FULL.lm_training,
        "lr": 4e-3,
        "warmup_steps": 200,
        "max_steps": 8_500,
        "condition_dropout": 0.1,
    },
    validations=12,
    seconds={CORPUS: 30, TEXT: 2, IMAGE: 600, TOKENS: 45, LM: 6_000, EVALUATION: 90, SAMPLES: 4, REPORT: 2},
)
"""The model that ships, pretrained/openmoji-words/: larger type as well, pictures of all sizes and at all
places, colours, guidance."""

TINY = DemoBudget(
    name="tiny",
    corpus=CorpusConfig(
        words=120,
        large_strips=10,
        picture_documents=1,
        picture_images=1,
        other_drawings=4,
        interleaved=40,
        typed=20,
        validation=20,
        test_words=10,
        test_large=4,
    ),
    image=ImageTokenizerConfig(
        stem=4, channels=(16, 32), res_blocks=1, norm="layer", codebook_size=64, codebook_dim=8
    ),
    image_batch_pixels=8_192,
    image_training={
        "lr": 2e-3,
        "warmup_steps": 2,
        "max_steps": 8,
        "autoencoder_steps": 4,
        "kmeans_images": 64,
        "latent_noise": 0.15,
        "text_weight": 0.7,
    },
    lm=FusionLMConfig(context_length=256, n_layers=1, width=32, n_heads=2, n_kv_heads=2, ffn_width=64),
    lm_batch_size=4,
    lm_training={"lr": 3e-3, "warmup_steps": 2, "max_steps": 6},
    validations=2,
    reconstruction_items=6,
    drawings=3,
    seconds={CORPUS: 2, TEXT: 1, IMAGE: 2, TOKENS: 2, LM: 2, EVALUATION: 4, SAMPLES: 3, REPORT: 1},
)
"""For the tests: everything happens, and nothing is learned."""

BUDGETS = {budget.name: budget for budget in (FULL, QUICK, LONG, TINY)}
