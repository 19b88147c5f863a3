"""Writes what the playground shows of the packaged model: showcase.json, and a thumbnail of each thing.

The thumbnails are the model's drawings, none picked by hand (about two minutes of CPU time).

.venv/bin/python benchmarks/studies/packaged_model/showcase.py --out pretrained/openmoji-words
"""

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image

from earlyfusion.data.render.split import DRAW, demo_concepts, sentence
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.fusion_lm.stream import sample
from earlyfusion.playground.showcase import FILE, THUMBNAIL, THUMBNAILS

COLUMNS, BATCH = 21, 16
DRAWING = {
    "then": "image",
    "temperature": 0,
    "image_temperature": 0.4,
    "guidance": 1.5,
    "best_of": 4,
    "best_by": "both",
}
TYPE = {
    "then": "image",
    "temperature": 0,
    "image_temperature": 0.5,
    "guidance": 2,
    "best_of": 8,
    "best_by": "both",
}
READ = {"then": "text", "temperature": 0, "best_of": 1, "best_by": "forward"}
WORDS = [
    *([16, 3, top, tall] for top, tall in ((1, 14), (1, 11), (4, 11), (4, 8))),
    *([24, 4, top, tall] for top, tall in ((1, 22), (3, 19), (2, 16), (4, 14), (6, 17), (6, 12))),
]
"""Frequent places of ink in the words of its training: height of the picture, left, top, height of ink."""
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
    {
        "label": "start from nothing",
        "prompt": [],
        "settings": {
            "temperature": 0.7,
            "image_temperature": 0.4,
            "guidance": 1.5,
            "best_of": 2,
            "best_by": "forward",
            "seed": 28,
        },
    },
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    args = parser.parse_args()
    concepts = demo_concepts()
    names = sorted(concept.name for concept in concepts.train)
    things = {name: sentence(DRAW, name) for name in names}
    values = {
        "about": f"A toy with 4 million parameters: it draws and names {len(things)} plants, foods and "
        "animals, and reads and writes short words in type. Whatever else you ask for becomes one of these.",
        "good_at": "one printed word, black on white, or a drawing like an emoji",
        "guidance": 1.5,
        "most_guidance": 3,
        "views": 3,
        "fits": {"words": WORDS, "drawings": [[48, inner] for inner in (48, 44, 40, 36)]},
        "both": True,
        "turns": False,
        "preset": "balanced",
        "presets": {
            "likeliest": {
                "temperature": 0,
                "image_temperature": 0,
                "guidance": 1.5,
                "best_of": 1,
                "best_by": "forward",
            },
            "balanced": {
                "temperature": 0.3,
                "image_temperature": 0.4,
                "guidance": 1.5,
                "best_of": 4,
                "best_by": "both",
            },
            "bold": {
                "temperature": 0.8,
                "image_temperature": 0.9,
                "guidance": 1,
                "best_of": 1,
                "best_by": "forward",
            },
        },
        "draw": DRAWING,
        "examples": EXAMPLES,
        "things": things,
        "never_seen": sorted(concept.name for concept in concepts.held_out),
    }
    (args.out / FILE).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    model = load_model(args.out, weights="auto")
    sheet = Image.new("RGB", (COLUMNS * THUMBNAIL, -(-len(things) // COLUMNS) * THUMBNAIL), "white")
    prompts, number = list(things.values()), 0
    for start in range(0, len(prompts), BATCH):
        documents = sample(
            model,
            [[prompt] for prompt in prompts[start : start + BATCH]],
            then="image",
            stop_after="image",
            best_of=DRAWING["best_of"],
            best_by="both",
            guidance=Guidance(DRAWING["guidance"]),
            sampling={"image": Sampling(DRAWING["image_temperature"])},
            seed=start * DRAWING["best_of"],
        )
        for drawn in documents:
            place = number % COLUMNS * THUMBNAIL, number // COLUMNS * THUMBNAIL
            sheet.paste(drawn[0].resize((THUMBNAIL, THUMBNAIL)), place)
            number += 1
    sheet.save(args.out / THUMBNAILS, quality=80, method=6)


if __name__ == "__main__":
    main()
