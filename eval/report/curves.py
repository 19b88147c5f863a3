"""A training's curves, metric -> (step, value) pairs: read from ``metrics.csv``, and drawn as charts.

The demo's report and the playground show the same ones; a chart without a curve is "".
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .page.charts import Series, line_chart

Run = Mapping[str, Sequence[tuple[float, float]]]
METRICS = "metrics.csv"
"""What a training logs, a row per step, in the folder of its run."""
OTHER = "other run/"
"""Before the names of a run's curves that are drawn beside those of another, see ``beside``."""
FIRST = ("text", "image", "structure")
"""Modalities that come first on a chart; the others follow by name."""
KINDS = {"word": False, "random": True}
"""Kinds of held-out texts -> whether their curves are dashed."""


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


def beside(run: Run, other: Run) -> dict[str, Sequence[tuple[float, float]]]:
    """A run whose charts show the curves of another one, too, paler."""
    return {**run, **{OTHER + name: points for name, points in other.items()}}


def smoothed(points: Sequence[tuple[float, float]], share: float = 0.05) -> list[tuple[float, float]]:
    """Each value is the mean of its neighbors, ``share`` of all points; those that are not finite go."""
    points = [(x, y) for x, y in points if math.isfinite(y)]
    half = int(len(points) * share / 2)
    sums = np.cumsum([0.0, *(y for _, y in points)])
    places = np.arange(len(points))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(points))
    means = (sums[high] - sums[low]) / (high - low)
    return [(x, float(mean)) for (x, _), mean in zip(points, means)]


def charts_of(run: Run) -> list[str]:
    """The charts of a run of any kind."""
    if "train/reward" in run:
        return alignment_charts(run)
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


def alignment_charts(run: Run) -> list[str]:
    """An alignment: its reward beside its judges (``train.rl.judges``), and what it costs."""
    run = judged(run)
    engines = dict.fromkeys(key.split("/")[-2] for key in run if "judge/writing/" in key)
    written = [
        one
        for engine, color in zip(engines, (*FIRST, *engines))
        for kind, dashed in KINDS.items()
        for one in _drawn(run, f"judge/writing/{engine}/{kind}", color, f"{engine}, {kind}", dashed)
    ]
    read = [
        one
        for kind, dashed in KINDS.items()
        for one in _drawn(run, f"judge/reading/{kind}", "text", f"reading, {kind}", dashed)
    ]
    rewards = dict.fromkeys(key[key.index("train/reward/") :] for key in run if "train/reward/" in key)
    bits = (("bits_per_byte", "text"), ("bits_per_pixel", "image"))
    return [
        line_chart(
            [*_one(run, "train/reward", "all", "reward"), *written],
            title="Reward and judges of writing",
            y_label="share",
            note="The mean reward of the samples, and the shares of held-out texts that OCR reads exactly. "
            "Dashed: random strings. The judges should rise with the reward.",
        ),
        line_chart(
            [*read, *_one(run, "judge/naming", "image"), *_one(run, "judge/drawing", "structure")],
            title="Reading, naming, drawing",
            y_label="share",
            note="Exact matches: texts in held-out fonts (dashed: random strings), names of known things, "
            "and drawings whose nearest picture shows their thing.",
        ),
        *(
            line_chart(
                _one(run, f"judge/{name}", color),
                title=name.replace("_", " ").capitalize(),
                y_label="bits",
                note="How well the model still predicts real documents; a rise is what the alignment costs.",
            )
            for name, color in bits
        ),
        line_chart(
            [one for name, color in zip(rewards, (*FIRST, *rewards)) for one in _one(run, name, color)],
            title="Each reward",
            note="Before its weight, the mean over the samples to which it applies.",
        ),
        line_chart(
            [*_one(run, "train/kl", "all", "KL"), *_one(run, "train/entropy", "structure")],
            title="Distance from the first model",
            y_label="nats per token",
            note="KL divergence from the model that the run started from, and entropy of the samples. "
            "Entropy near 0 means that all samples are alike and teach nothing.",
        ),
        line_chart(
            [
                *_one(run, "train/length", "all", "samples"),
                *_one(run, "judge/length", "image", "judged pictures"),
            ],
            title="Length",
            y_label="tokens",
            note="Mean length of the samples, and of the pictures that the judges read.",
        ),
        line_chart(
            [*_one(run, "train/clipped", "all"), *_one(run, "judge/unfinished", "image")],
            title="Clipped tokens, unfinished pictures",
            y_label="share",
            note="Tokens whose ratio to the model that drew them was clipped, and judged texts that got no "
            "complete picture.",
        ),
        line_chart(_one(run, "train/grad_norm", "all", "before clipping"), title="Gradient norm", log_y=True),
    ]


def judged(run: Run) -> dict[str, Sequence[tuple[float, float]]]:
    """A run with the steps of its judges' figures as the number of steps before them.

    A row of the log has the reward of the model before its step, and the judges' figures of the one after it.
    """
    return {
        name: [(x + 1, y) for x, y in points] if name.removeprefix(OTHER).startswith("judge/") else points
        for name, points in run.items()
    }


def _modalities(run: Run, part: str, dashed: bool = False) -> list[Series]:
    suffix = ", validation" if dashed else ""
    named = ("validation/perplexity/", "telemetry/leakage/")  # metrics that every modality has
    others = {key.rpartition("/")[2] for key in run if key.startswith(named)} - {*FIRST}
    names = (*FIRST, *sorted(others))
    return [one for name in names for one in _drawn(run, f"{part}/{name}", name, name + suffix, dashed)]


def _both(run: Run, name: str, color: str) -> list[Series]:
    training = _drawn(run, f"train/{name}", color, "training")
    return [*training, *_drawn(run, f"validation/{name}", color, "validation", dashed=True)]


def _one(run: Run, key: str, color: str, label: str = "") -> list[Series]:
    return _drawn(run, key, color, label or key.rpartition("/")[2].replace("_", " "))


def _drawn(run: Run, key: str, color: str, label: str, dashed: bool = False) -> list[Series]:
    """The curve of a metric, and that of the other run, if there are any."""
    found = []
    if run.get(key):
        found.append(Series(label, run[key], color, dashed))
    if run.get(OTHER + key):
        found.append(Series(f"{label}, other run", run[OTHER + key], color, dashed, faint=True))
    return found
