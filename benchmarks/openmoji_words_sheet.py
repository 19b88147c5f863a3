"""The README's sheet of drawings: what the packaged model draws from every tenth of its names, one each.

.venv/bin/python benchmarks/openmoji_words_sheet.py --out docs/openmoji_words.png
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from earlyfusion.eval.split import DRAW, demo_concepts, sentence
from earlyfusion.eval.words import train_fonts
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.fusion_lm.stream import sample

COLUMNS, ROWS, WIDTH, HEIGHT, ENLARGED = 8, 3, 110, 125, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    names = sorted(concept.name for concept in demo_concepts().train)[::10][: COLUMNS * ROWS]
    drawn = sample(
        load_model(weights="auto"),
        [[sentence(DRAW, name)] for name in names],
        image=Sampling(temperature=0.4),
        then="image",
        stop_after_image=True,
    )
    sheet = Image.new("RGB", (COLUMNS * WIDTH, ROWS * HEIGHT), "white")
    face = ImageFont.truetype(train_fonts()[0].path, 8)
    for number, (name, document) in enumerate(zip(names, drawn, strict=True)):
        left, top = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT
        [image] = [part for part in document if isinstance(part, Image.Image)]
        larger = image.resize((ENLARGED * image.width, ENLARGED * image.height), Image.Resampling.NEAREST)
        sheet.paste(larger, (left, top))
        ImageDraw.Draw(sheet).text((left, top + ENLARGED * 48 + 2), name, "black", face)
    sheet.save(args.out)


if __name__ == "__main__":
    main()
