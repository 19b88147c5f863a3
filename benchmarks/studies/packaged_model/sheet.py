"""The README's picture: drawings and words of the packaged model.

The drawings show every tenth thing, one drawing each. The words are eight held-out ones, each the best of
eight drawings by both directions.

.venv/bin/python benchmarks/studies/packaged_model/sheet.py --out docs/openmoji_words.png
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from earlyfusion.data.render.fonts import train_fonts
from earlyfusion.data.render.split import DRAW, demo_concepts, demo_words, sentence
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.fusion_lm.stream import sample

COLUMNS, ROWS, WIDTH, HEIGHT, ENLARGED = 8, 3, 110, 125, 2
WORD_COLUMNS, WORD_ROWS, WORD_HEIGHT = 4, 2, 75


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    args = parser.parse_args()
    names = sorted(concept.name for concept in demo_concepts().train)[::10][: COLUMNS * ROWS]
    model = load_model(weights="auto")
    drawn = sample(
        model,
        [[sentence(DRAW, name)] for name in names],
        sampling={"image": Sampling(temperature=0.4)},
        then="image",
        stop_after="image",
    )
    words = random.Random(0).sample(sorted(demo_words().held_out), WORD_COLUMNS * WORD_ROWS)
    written = sample(
        model,
        [[word] for word in words],
        sampling={"image": Sampling(temperature=0.5)},
        guidance=Guidance(2.0),
        best_of=8,
        best_by="both",
        then="image",
        stop_after="image",
    )
    sheet = Image.new("RGB", (COLUMNS * WIDTH, ROWS * HEIGHT + WORD_ROWS * WORD_HEIGHT), "white")
    face = ImageFont.truetype(train_fonts()[0].path, 8)
    for number, (name, document) in enumerate(zip(names, drawn, strict=True)):
        left, top = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT
        paste(sheet, document, left, top)
        ImageDraw.Draw(sheet).text((left, top + ENLARGED * 48 + 2), name, "black", face)
    for number, (word, document) in enumerate(zip(words, written, strict=True)):
        left = number % WORD_COLUMNS * (COLUMNS * WIDTH // WORD_COLUMNS)
        top = ROWS * HEIGHT + number // WORD_COLUMNS * WORD_HEIGHT
        paste(sheet, document, left, top)
        ImageDraw.Draw(sheet).text((left, top + ENLARGED * 24 + 2), word, "black", face)
    sheet.save(args.out)


def paste(sheet: Image.Image, document: Sequence[str | Image.Image], left: int, top: int) -> None:
    """Paste the image of a document, enlarged."""
    [image] = [part for part in document if isinstance(part, Image.Image)]
    larger = image.resize((ENLARGED * image.width, ENLARGED * image.height), Image.Resampling.NEAREST)
    sheet.paste(larger, (left, top))


if __name__ == "__main__":
    main()
