"""Draw the curves of a training with the adversarial loss and one without: does it destabilize training?

.venv/bin/python benchmarks/studies/tokenizer/adversary.py RUN_WITH RUN_WITHOUT
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from earlyfusion.eval.report.curves import read_metrics

PANELS = {
    "PSNR of a batch, dB": ("train/psnr",),
    "text-aware loss": ("train/text",),
    "norm of the gradient": ("train/grad_norm",),
    "discriminator's hinge loss": ("train/adversary_d_loss",),
    "discriminator's mean logit": ("train/adversary_logits_real", "train/adversary_logits_fake"),
    "adaptive weight": ("train/adversary_adaptive_weight",),
}


def draw(with_it: Path, without: Path, out: Path) -> None:
    """Draw six panels over the steps; the run without the loss is gray."""
    runs = {"with": read_metrics(with_it), "without": read_metrics(without)}
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.5), constrained_layout=True)
    for panel, (title, names) in zip(axes.flat, PANELS.items(), strict=True):
        for name in names:
            label = name.rsplit("_", 1)[-1] if len(names) > 1 else "with"
            if name in runs["without"] and len(names) == 1:
                panel.plot(*zip(*runs["without"][name]), color="0.6", lw=1, label="without")
            panel.plot(*zip(*runs["with"][name]), lw=1, label=label)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("step")
        panel.legend(fontsize=8, frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("with_it", type=Path, metavar="RUN_WITH", help="folder with metrics.csv")
    parser.add_argument("without", type=Path, metavar="RUN_WITHOUT", help="the same, without the loss")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"), help="PNG to write")
    args = parser.parse_args()
    draw(args.with_it, args.without, args.out)


if __name__ == "__main__":
    main()
