"""How many image codes change with the preprocessing of transformers' port instead of Meta's.

    .venv/bin/python benchmarks/studies/chameleon_preprocessing/study.py MODEL [MODEL ...]

Meta computes x / 127.5 - 1, transformers x * 0.0078 - 1, so that white is 0.989; Meta rounds the longer edge
of a scaled image, transformers truncates it. Chameleon's own image tokenizer was not available: MODEL are
folders of tokenizers trained here. Measured on 278 pictures of OpenMoji things, scaled from 160 to 64 px, and
on 600 rendered held-out words, which are not scaled.
"""

import argparse
import json
from pathlib import Path

import torch

from earlyfusion.benchmarks.speed.machine import write_figures
from earlyfusion.data.render.fonts import held_out_fonts
from earlyfusion.data.render.openmoji import concepts, render_drawing
from earlyfusion.eval.suites import word_suite
from earlyfusion.tokenizers.documents import TOKENIZER
from earlyfusion.tokenizers.image import ImageTokenizer
from earlyfusion.tokenizers.pixels import cover, fit, to_tensor

HERE = Path(__file__).parent
COUNT, SIDE, LARGE = 600, 64, 160


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="folders of image tokenizers")
    parser.add_argument("--json", type=Path, default=HERE / "results.json", help="JSON file to write")
    args = parser.parse_args(arguments)
    stems = [stem for concept in concepts() for stem in concept.drawings]
    pictures = [render_drawing(stem, LARGE) for stem in stems]
    words = [item.image for item in word_suite(0, fonts=held_out_fonts(), heights=(16, 24))[:COUNT]]
    figures = {}
    for folder in args.models:
        inner = folder / TOKENIZER / "image"
        tokenizer = ImageTokenizer.load(inner if inner.is_dir() else folder).eval()
        factor = tokenizer.factor
        kinds = {
            "pictures": [(cover(p, SIDE, SIDE, "meta"), cover(p, SIDE, SIDE, "hf")) for p in pictures],
            "words": [(image, image) for image in (fit(word, factor, "resize") for word in words)],
        }
        figures[str(folder)] = found = {}
        for kind, pairs in kinds.items():
            same = total = 0
            for meta, hf in pairs:
                with torch.no_grad():
                    codes = [
                        tokenizer.encode(to_tensor(image, mode)[None])
                        for image, mode in ((meta, "meta"), (hf, "hf"))
                    ]
                same += int((codes[0] == codes[1]).sum())
                total += codes[0].numel()
            found[kind] = {"images": len(pairs), "codes": total, "agreement": round(same / total, 5)}
        print(folder, json.dumps(found))
    write_figures(args.json, figures, timed=False)


if __name__ == "__main__":
    main()
