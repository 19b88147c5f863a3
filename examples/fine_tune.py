"""Fine-tune the packaged model on ten pictures, then let it draw them.

    python examples/fine_tune.py
    python examples/fine_tune.py --pictures my/folder --out runs/mine

Draws ten flags, which the model has never seen, or reads a folder of pictures with metadata.jsonl, one line
{"file_name": ..., "text": "A caption:"} for each. OUT/model is the new model; OUT/drawn.png shows each
picture, what the model drew before the training, and what it draws after.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from earlyfusion import Sampling, load_model, sample
from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.eval.report.page.canvas import picture_sheet
from earlyfusion.storage.hub import PRETRAINED
from earlyfusion.tokenizers.pixels import contain, load_image
from earlyfusion.train.lm.data import TokenData
from earlyfusion.train.lm.module import FusionLMTraining
from earlyfusion.train.lm.settings import LMSettings
from earlyfusion.train.loop.fit import fit

FLAGS = """Italy | green white red; Ireland | green white orange; Mali | green gold red; Peru | red white red;
Nigeria | green white green; Austria - red white red; Germany - black red gold; Hungary - red white green;
Bolivia - red gold green; Lithuania - gold green red""".split(";")

parser = argparse.ArgumentParser(description="fine-tune the packaged model on ten pictures")
parser.add_argument("--pictures", help="folder with metadata.jsonl (default: ten flags)")
parser.add_argument("--out", default="runs/examples/flags", help="folder to write (default: %(default)s)")
parser.add_argument("--steps", type=int, default=60, help="steps of training (default: 60)")
args = parser.parse_args()

folder, lines = Path(args.pictures or f"{args.out}/pictures"), []
if not args.pictures:
    folder.mkdir(parents=True, exist_ok=True)
    for country, along, *colors in map(str.split, FLAGS):
        flag = Image.new("RGB", (48, 48), "white")
        for n, color in enumerate(colors):
            box = (4 + 13 * n, 10, 17 + 13 * n, 38) if along == "|" else (4, 10 + 9 * n, 44, 19 + 9 * n)
            flag.paste(color, box)
        flag.save(folder / f"{country}.png")
        lines.append(json.dumps({"file_name": f"{country}.png", "text": f"The flag of {country}:"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
tokens, base = f"{args.out}/tokens", str(PRETRAINED)  # windows, made with the model's own tokenizers
limits = {"context_length": 256, "max_side": 48, "validation_share": 0}
prepare(PrepareConfig(str(folder), tokens, model=base, order="text_first", **limits))
settings = LMSettings(tokenizer=tokens, init_from=base, lr=1e-3, warmup_steps=1, max_steps=args.steps)
model = fit(FusionLMTraining(settings), TokenData(tokens, batch_size=2), args.out, tensorboard=False)
options = {"then": "image", "stop_after": "image", "sampling": Sampling(0)}  # 0: the likeliest code
drawn = [sample(load_model(m), [[row["text"]] for row in rows], **options) for m in (base, model)]
originals = [contain(load_image(folder / row["file_name"]), 48, 48) for row in rows]
picture_sheet([[o, a, b] for o, [a], [b] in zip(originals, *drawn)], width=1020).save(f"{args.out}/drawn.png")
print(f"written to {args.out}/drawn.png (from top to bottom: picture, before, after)")
