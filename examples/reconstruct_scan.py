"""Send a scan through the image tokenizer, and see what OCR no longer reads.

    python examples/reconstruct_scan.py
    python examples/reconstruct_scan.py --enlarge 2 --out runs/mine my-scan.jpg

Prints each line as OCR reads it before and after. OUT holds before.png, after.png and side-by-side.png.
Without a file, the script typesets a line in each of seven sizes: small type is lost first. Needs OCR:
pip install 'earlyfusion[ocr]'.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from earlyfusion import load_model
from earlyfusion.eval.metrics.ocr import RapidReader
from earlyfusion.eval.metrics.text import t_ned
from earlyfusion.eval.report.page.canvas import row
from earlyfusion.eval.tasks.reconstruction import reconstruct_pictures
from earlyfusion.tokenizers.pixels import fit, load_image

parser = argparse.ArgumentParser(description="see what OCR loses when a scan becomes codes")
parser.add_argument("scan", nargs="?", help="image file (default: a page that the script typesets)")
parser.add_argument("--enlarge", type=float, default=1, help="scale the scan first (default: 1)")
parser.add_argument("--model", help="model folder (default: the packaged model)")
parser.add_argument("--out", default="runs/examples/scan", help="folder to write (default: %(default)s)")
args = parser.parse_args()
try:
    reader = RapidReader()
except ImportError as error:
    sys.exit(str(error))

if args.scan:
    scan = load_image(args.scan)
else:
    scan = Image.new("RGB", (448, 288), "white")
    for line, size in enumerate((10, 12, 14, 16, 20, 24, 32)):
        font = ImageFont.load_default(size)
        ImageDraw.Draw(scan).text((8, 8 + 38 * line), f"seven green apples, {size} px", "black", font)
scan = scan.resize((round(scan.width * args.enlarge), round(scan.height * args.enlarge)))

tokenizer = (load_model(args.model) if args.model else load_model()).tokenizer.codecs["image"]
before = fit(scan, tokenizer.factor, "pad")  # sides become multiples of the pixels per code
[after] = reconstruct_pictures(tokenizer, [before])

boxes = reader.find(before)  # the lines of the original, as (left, top, right, bottom)
read = [reader.read([page.crop(box) for box in boxes]) for page in (before, after)]
for one, other in zip(*read):
    print(f"{t_ned(one, other):4.0%} kept   {one!r} -> {other!r}")
same = sum(one == other for one, other in zip(*read))
print(f"{same} of {len(boxes)} lines read the same")

out = Path(args.out)
out.mkdir(parents=True, exist_ok=True)
for name, picture in {"before": before, "after": after, "side-by-side": row([before, after], 8)}.items():
    picture.save(out / f"{name}.png")
print(f"written to {out}/side-by-side.png")
