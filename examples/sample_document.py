"""Continue a prompt with text and pictures, and watch the model write.

    python examples/sample_document.py
    python examples/sample_document.py --seed 3 --out runs/pear "Here is a pear:"

Text is printed while it is written, and a dot for each column of a picture. OUT holds the pictures,
sample.json and index.html. The packaged model knows drawings of 246 plants, foods and animals.
"""

import argparse

from earlyfusion import Sampling, load_model, stream
from earlyfusion.eval.report.page.html import Part
from earlyfusion.eval.report.samples import Sample, write_samples
from earlyfusion.fusion_lm.stream import (
    Finished,
    SegmentBegin,
    SegmentDone,
    SegmentProgress,
    TextDelta,
    gather,
)

parser = argparse.ArgumentParser(description="continue a prompt with text and pictures")
parser.add_argument("prompt", nargs="?", default="A red apple and", help="beginning of the document")
parser.add_argument("--out", default="runs/examples/sample", help="folder to write (default: %(default)s)")
parser.add_argument("--seed", type=int, default=2, help="random seed (default: 2)")
args = parser.parse_args()

model = load_model()  # the packaged model; or load_model("runs/demo/model")
options = {"sampling": {"text": Sampling(0.5), "image": Sampling(0.3)}, "seed": args.seed}

segments, stop = [], ""
print(args.prompt, end="", flush=True)
for event in stream(model, [[args.prompt]], **options):  # one row for each prompt in the list
    match event:
        case TextDelta(text=text):
            print(text, end="", flush=True)
        case SegmentBegin(modality=modality, shape=(rows, columns)):
            print(f" [{modality}: {rows} x {columns} codes ", end="", flush=True)
        case SegmentProgress():  # event.preview is the picture so far
            print(".", end="", flush=True)
        case SegmentDone(value=picture):
            print(f" {picture.width} x {picture.height} px]", end="", flush=True)
        case Finished(stop=stop):
            print()
    gather(segments, event)  # the text and the pictures, in order

document = [Part(args.prompt, prompt=True), *map(Part, segments)]
write_samples(args.out, [Sample(document, stop)], {"seed": args.seed})
print(f"written to {args.out}/index.html")
