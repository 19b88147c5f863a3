"""Show the tokens of a picture and its caption, and how well the model predicts each.

    python examples/inspect_tokens.py
    python examples/inspect_tokens.py --out runs/mine my-picture.jpg "A pear."

Prints each token's number, modality, meaning, place in the picture and probability given the tokens before
it. OUT holds index.html, the same as a strip, and probability.png: the picture, bright where the model
predicted the code well. Pictures are scaled down to 48 pixels, the size of the drawings the packaged model
knows.
"""

import argparse
from pathlib import Path

from earlyfusion import load_model
from earlyfusion.eval.report.heat_map import heat_map
from earlyfusion.eval.report.page import html
from earlyfusion.eval.report.tokens import describe, grids, strip_cells
from earlyfusion.fusion_lm.scores import token_scores
from earlyfusion.tokenizers.pixels import load_image

CARROT = Path(__file__).parents[1] / "playground" / "examples" / "drawing.png"

parser = argparse.ArgumentParser(description="show the tokens of a picture and its caption")
parser.add_argument("picture", nargs="?", default=CARROT, help="image file (default: a carrot)")
parser.add_argument("caption", nargs="?", default="A carrot.", help='text after it (default: "A carrot.")')
parser.add_argument("--out", default="runs/examples/tokens", help="folder to write (default: %(default)s)")
args = parser.parse_args()

lm, tokenizer = load_model()
document = [load_image(args.picture), args.caption]
tokens = tokenizer.encode(document, options={"image": {"max_side": 48}}).tokens  # (T,)
described = describe(tokenizer, tokens, token_scores(lm, tokens))  # one forward pass

print("   token  modality   meaning      row, column    p")
for token in described:
    place = "" if token.place is None else f"{token.place[0] + 1}, {token.place[1] + 1}"
    p = "" if token.p is None else f"{token.p:.1e}" if token.p < 0.001 else f"{token.p:.3f}"
    print(f"{token.token:8}  {token.kind:9}  {token.says!r:12}  {place:8}  {p:>8}")

[picture] = [part for part in tokenizer.decode(tokens) if not isinstance(part, str)]
shown = tokenizer.codecs["image"].show(picture)  # what the codes keep of the picture
[probabilities] = grids(described, "p")  # (rows, columns)
out = Path(args.out)
out.mkdir(parents=True, exist_ok=True)
heat = heat_map(shown, probabilities, 0, 1)
heat.resize((8 * heat.width, 8 * heat.height), 0).save(out / "probability.png")
strip = html.token_strip(strip_cells(described))
maps = html.beside([("decoded from its codes", shown), ("probability, 0 to 1", heat)], scale=4)
(out / "index.html").write_text(html.page("tokens", "<h1>Tokens</h1>", strip, maps), encoding="utf-8")
print(f"written to {out}/index.html")
