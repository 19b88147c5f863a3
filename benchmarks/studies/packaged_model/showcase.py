"""Writes what the playground shows of the packaged model: showcase.json, and a thumbnail of each thing.

The thumbnails are the model's drawings, none picked by hand (about two minutes of CPU time).

.venv/bin/python benchmarks/studies/packaged_model/showcase.py --out pretrained/openmoji-words
"""

import argparse
from pathlib import Path
from typing import Any

from earlyfusion.eval.report.showcase import write_showcase
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.fusion_lm.stream import sample
from earlyfusion.train.demo.budget import CONFIGS, load_budget
from earlyfusion.train.demo.showcase import READ, fits, never_seen, presets, things

BATCH = 16
GUIDANCE = 1.5
STYLES = presets(GUIDANCE)
DRAWING = {"then": "image", **STYLES["balanced"], "temperature": 0}
TYPE = {
    "then": "image",
    "temperature": 0,
    "image_temperature": 0.5,
    "guidance": 2,
    "best_of": 8,
    "best_by": "both",
}
EXAMPLES: list[dict[str, Any]] = [
    {"label": "draw a tiger", "prompt": [{"text": "A tiger:"}], "settings": {**DRAWING, "seed": 1}},
    {"label": "name this", "prompt": [{"picture": "drawing.png"}], "settings": READ},
    {"label": "read this", "prompt": [{"picture": "word.png"}], "settings": READ},
    {"label": "write “house” in type", "prompt": [{"text": "house"}], "settings": {**TYPE, "seed": 3}},
    {
        "label": "a carrot, then an apple",
        "prompt": [{"picture": "drawing.png"}, {"text": " This is a carrot. Here is a red apple:"}],
        "settings": {**DRAWING, "max_new_tokens": 40, "seed": 1},  # one picture
    },
    {"label": "start from nothing", "prompt": [], "settings": {**STYLES["likeliest"], "then": "text"}},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    args = parser.parse_args()
    known = things()
    values = {
        "about": f"A toy with 4 million parameters: it draws and names {len(known)} plants, foods and "
        "animals, and reads and writes short words in type. Whatever else you ask for becomes one of these.",
        "good_at": "one printed word, black on white, or a drawing like an emoji",
        "guidance": GUIDANCE,
        "most_guidance": 3,
        "views": 3,
        "fits": fits(load_budget(CONFIGS / "long").corpus),
        "both": True,
        "turns": False,
        "preset": "balanced",
        "presets": STYLES,
        "draw": DRAWING,
        "examples": EXAMPLES,
        "things": known,
        "never_seen": never_seen(),
    }
    model = load_model(args.out, weights="auto")
    prompts, drawings = list(known.values()), []
    for start in range(0, len(prompts), BATCH):
        documents = sample(
            model,
            [[prompt] for prompt in prompts[start : start + BATCH]],
            then="image",
            stop_after="image",
            best_of=DRAWING["best_of"],
            best_by="both",
            guidance=Guidance(GUIDANCE),
            sampling={"image": Sampling(DRAWING["image_temperature"])},
            seed=start * DRAWING["best_of"],
        )
        drawings += [drawn[0] for drawn in documents]
    write_showcase(args.out, values, drawings)


if __name__ == "__main__":
    main()
