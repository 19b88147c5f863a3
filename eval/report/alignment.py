"""The report of an alignment: the reward beside what independent judges say, and the rewarded samples."""

import re
from pathlib import Path

from PIL import Image

from ...tokenizers.pixels import load_image
from .curves import Run, alignment_charts, judged, read_metrics
from .page import html
from .page.charts import charts_grid
from .page.html import Card, Mark
from .page.numbers import percent

REPORT = "report.html"
ROLLOUTS = "rollouts"
"""File and folder in a run's folder: this page, and the sheets of samples (step-N.png)."""


def alignment_page(run: str | Path) -> str:
    """The page of a run, from its metrics.csv and its sheets. What is missing is left out.

    Args:
        run: The folder of the run.
    """
    run = Path(run)
    curves = read_metrics(run)
    found = [
        ("curves", "Reward and judges", charts_grid(alignment_charts(curves)) if curves else ""),
        ("samples", "Samples and their rewards", _sheets(run / ROLLOUTS)),
    ]
    found = [one for one in found if "<svg" in one[2] or "<img" in one[2]]
    return html.page(
        f"earlyfusion: alignment {run.name}",
        f"<h1>Alignment: {html.escape(run.name)}</h1>",
        '<p class="lead">The model is trained on the reward. The judges are other readers, with held-out '
        "texts: if their figures fall while the reward rises, it only learns to please the reward.</p>",
        html.cards(_cards(curves)),
        *(html.section(title, body, id=id) for id, title, body in found),
        contents=html.contents([(id, title) for id, title, _ in found]),
    )


def _cards(curves: Run) -> list[Card]:
    """Every share that was judged, at the end, before the first step, and where the score was best."""
    scores = curves.get("judge/score", [])
    best = max(scores, key=lambda point: point[1])[0] if scores else None
    cards = []
    for name, points in judged(curves).items():
        if not name.startswith(("judge/writing/", "judge/reading/", "judge/naming", "judge/drawing")):
            continue
        marks = [Mark("before", points[0][1], "floor")] if points[0][0] == 0 else []
        marks += [
            Mark(f"step {x:,.0f}, best score", y) for x, y in points if best is not None and x == best + 1
        ]
        step, value = points[-1]
        label = name.removeprefix("judge/").replace("/", ", ").capitalize()
        cards.append(Card(percent(value), label, f"after {step:,.0f} steps", value, marks))
    return cards


def _sheets(folder: Path) -> str:
    """The first and the last sheet; a damaged one is left out."""
    drawn = {
        int(found[1]): path
        for path in folder.glob("step-*.png")
        if (found := re.fullmatch(r"step-([0-9]{1,18})\.png", path.name))
    }
    told = '<p class="note">Each prompt with all samples after it and their rewards; the best are framed.</p>'
    figures = []
    for step in dict.fromkeys([min(drawn), max(drawn)]) if drawn else []:
        try:
            sheet: Image.Image = load_image(drawn[step])
        except (OSError, ValueError):
            continue
        figures.append(html.figure(html.picture(sheet, 1), f"after <b>{step:,}</b> steps"))
    return told + "".join(figures) if figures else ""
