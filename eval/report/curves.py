"""A training's curves, metric -> (step, value) pairs: read from ``metrics.csv``, and drawn as charts.

The demo's report and the playground show the same ones; a chart without a curve is "".
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from .page.charts import Series, line_chart

Run = Mapping[str, Sequence[tuple[float, float]]]
METRICS = "metrics.csv"
"""What a training logs, a row per step, in the folder of its run."""
FIRST = ("text", "image", "structure")
"""Modalities that come first on a chart; the others follow by name."""


def read_metrics(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run, in order; empty as long as nothing was logged."""
    path, curves = Path(folder) / METRICS, {}
    if not path.is_file():
        return curves
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if step := row.pop("step", None):  # a row that is being written may lack it
                for name, value in row.items():
                    if name and value:
                        curves.setdefault(name, []).append((int(float(step)), float(value)))
    return curves


def charts_of(run: Run) -> list[str]:
    """The charts of a run of either kind."""
    return [*lm_charts(run), *telemetry_charts(run)] if "train/z" in run else image_tokenizer_charts(run)


def lm_charts(run: Run) -> list[str]:
    """The transformer's losses."""
    return [
        line_chart(
            [*_modalities(run, "train"), *_modalities(run, "validation", dashed=True)],
            title="Transformer: loss by modality",
            y_label="nats per token",
            log_y=True,
            note="Surprise at the next letter, image code or structure token; lower is better.",
        ),
        line_chart(
            _both(run, "loss", "all"),
            title="Transformer: loss of all tokens",
            y_label="nats per token",
            note="The mean over all of these. It begins near ln V, the loss of guessing among V tokens.",
        ),
    ]


def telemetry_charts(run: Run) -> list[str]:
    """Whether the transformer's training is stable (``train.telemetry``)."""
    norms = [*_modalities(run, "telemetry/output_norm"), *_one(run, "telemetry/output_norm", "all")]
    ratios = {name: points for name, points in run.items() if name.startswith("telemetry/update_ratio/")}
    updates = [Series(name.rpartition("/")[2], points, "all") for name, points in ratios.items()]
    return [
        line_chart(
            norms,
            title="Output norm",
            y_label="L2, before the last norm",
            note="Size of the last layer's output. Steady growth is a warning of divergence.",
        ),
        line_chart(
            _one(run, "telemetry/attention_logit", "all", "largest"),
            title="Largest attention logit",
            note="Above about 100, attention looks at single tokens and trainings tend to diverge.",
        ),
        line_chart(
            _modalities(run, "telemetry/leakage"),
            title="Probability given to other modalities",
            y_label="nats per token",
            note="The loss that knowing the modality of the next token would save; near 0 is good.",
        ),
        line_chart(
            _one(run, "train/grad_norm", "all", "before clipping"),
            title="Gradient norm",
            log_y=True,
            note="Length of the gradient of a step. Single spikes are cut by clipping; a steady rise is not.",
        ),
        line_chart(
            _one(run, "train/lr", "structure"),
            title="Learning rate",
            note="The schedule: warm-up, a constant part, and the decay, which settles the details.",
        ),
        line_chart(
            updates,
            title="Size of the updates",
            y_label="of the weights",
            log_y=True,
            note="How much a step changes the weights, relative to their size; about 0.001 is usual.",
        ),
    ]


def image_tokenizer_charts(run: Run) -> list[str]:
    """The image tokenizer's fidelity, and how much of its codebook is in use."""
    return [
        line_chart(
            _both(run, "psnr", "image"),
            title="Image tokenizer: PSNR",
            y_label="dB",
            note="How close reconstructions are to their originals; higher is better. A dip marks "
            "the first step with codes.",
        ),
        line_chart(
            _both(run, "codebook_perplexity", "all"),
            title="Image tokenizer: codebook perplexity",
            y_label="codes",
            note="How many codes are in use, as if all of them were used equally often; higher is better.",
        ),
        line_chart(
            _both(run, "codebook_usage", "all"),
            title="Image tokenizer: codebook usage",
            y_label="share",
            note="Share of the codes that occur at all. A validation set is small and needs fewer of them.",
        ),
        line_chart(
            _both(run, "l1", "image"),
            title="Image tokenizer: L1",
            log_y=True,
            note="Mean difference of pixel values, which go from -1 to 1; lower is better.",
        ),
    ]


def _modalities(run: Run, part: str, dashed: bool = False) -> list[Series]:
    suffix = ", validation" if dashed else ""
    named = ("validation/perplexity/", "telemetry/leakage/")  # metrics that every modality has
    others = {key.rpartition("/")[2] for key in run if key.startswith(named)} - {*FIRST}
    found = [(name, run.get(f"{part}/{name}", ())) for name in (*FIRST, *sorted(others))]
    return [Series(name + suffix, points, name, dashed) for name, points in found if points]


def _both(run: Run, name: str, color: str) -> list[Series]:
    found = [("training", f"train/{name}", False), ("validation", f"validation/{name}", True)]
    return [Series(label, run[key], color, dashed) for label, key, dashed in found if run.get(key)]


def _one(run: Run, key: str, color: str, label: str = "") -> list[Series]:
    return (
        [Series(label or key.rpartition("/")[2].replace("_", " "), run[key], color)] if run.get(key) else []
    )
