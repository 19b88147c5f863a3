"""The grid: every recipe, stream, learning rate and seed of the study, and the settings of all cells."""

from dataclasses import dataclass, field
from typing import Any, Self

LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Three decades, those of Wortsman et al. (arXiv:2309.14322)."""
NETWORK: dict[str, Any] = {"n_layers": 4, "width": 128, "n_heads": 4, "n_kv_heads": 4, "ffn_width": 352}
"""The demo's transformer."""
STEPS, BATCH = 400, 4
WARMUP = 0.05
"""Fraction of the steps; then a cosine to 0, as in Wortsman et al."""
BETAS, EPS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0
"""AdamW as in torch: the weight decay of a step is lr * WEIGHT_DECAY (Chameleon's), on matrices only."""


@dataclass(frozen=True)
class Recipe:
    """Settings that may keep a training stable; all are given explicitly, since defaults may change."""

    config: dict[str, Any] = field(default_factory=dict)
    """Fields of ``FusionLMConfig``."""
    z_loss_weight: float = 0.0


_NONE: dict[str, Any] = {
    "qk_norm": "none",
    "norm_placement": "pre",
    "logit_soft_cap": None,
    "dropout": 0.0,
    "tie_embeddings": False,
}
_QK: dict[str, Any] = {**_NONE, "qk_norm": "layer"}
PLAIN, QK_NORM, DEFAULT = "plain", "+ QK-norm", "default"
RECIPES = {
    PLAIN: Recipe(_NONE),
    QK_NORM: Recipe(_QK),
    "+ re-ordered norms": Recipe({**_NONE, "norm_placement": "reordered"}),
    "+ z-loss": Recipe(_NONE, z_loss_weight=1e-4),
    "+ dropout": Recipe({**_NONE, "dropout": 0.1}),
    "+ soft-cap": Recipe({**_NONE, "logit_soft_cap": 30.0}),
    DEFAULT: Recipe(_QK, z_loss_weight=1e-4),
    "Chameleon 7B": Recipe({**_QK, "dropout": 0.1}, z_loss_weight=1e-5),
    "Chameleon 34B": Recipe({**_QK, "norm_placement": "reordered"}, z_loss_weight=1e-5),
}
"""plain, and plain with one addition; the default of ``FusionLMConfig`` and ``FusionLMTraining`` (QK-norm and
z-loss); Chameleon's two recipes (arXiv:2405.09818, section 2.3)."""


@dataclass(frozen=True)
class Stream:
    """The documents that a cell reads, and the weights of its targets."""

    kind: str | None = None
    """Keep only segments of this modality, text or image; None: keep all."""
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Weights of structure, text and image targets (``FusionLMTraining.modality_weights``)."""


MIXED = "mixed"
STREAMS = {
    MIXED: Stream(),
    "no image targets": Stream(weights=(0.0, 1.0, 0.0)),
    "text alone": Stream("text"),
    "images alone": Stream("image"),
}


@dataclass(frozen=True)
class Cell:
    """One training."""

    part: str
    recipe: str
    stream: str
    lr: float
    seed: int = 0

    @property
    def key(self) -> str:
        """The key of its row."""
        return f"{self.recipe}, {self.stream}, lr {self.lr:g}, seed {self.seed}"

    @property
    def file(self) -> str:
        """The file name of its time series."""
        return self.key.replace(" ", "-").replace(",", "") + ".csv"

    @classmethod
    def of_row(cls, row: dict[str, str]) -> Self:
        """The cell that a row of cells.csv belongs to."""
        return cls(row["part"], row["recipe"], row["stream"], float(row["lr"]), int(row["seed"]))


def cells() -> list[Cell]:
    """All cells, the most important first."""
    leaders = (PLAIN, QK_NORM, DEFAULT)
    out: list[Cell] = []

    def add(part: str, recipes: tuple[str, ...], stream: str, *seeds: int) -> None:
        out.extend(
            Cell(part, recipe, stream, lr, seed)
            for seed in seeds
            for recipe in recipes
            for lr in LEARNING_RATES
        )

    add("recipes", (PLAIN, DEFAULT, QK_NORM), MIXED, 0)
    add("recipes", ("+ re-ordered norms", "+ z-loss", "+ dropout", "+ soft-cap"), MIXED, 0)
    add("seeds", leaders, MIXED, 1, 2)
    for stream in list(STREAMS)[1:]:
        add(stream, (PLAIN, DEFAULT), stream, 0)
    add("chameleon", ("Chameleon 7B", "Chameleon 34B"), MIXED, 0)
    return out
