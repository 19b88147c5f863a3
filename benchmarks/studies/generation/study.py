"""What guidance, best-of-n and infilling do for drawings, and what decoding codes in parallel would save.

    .venv/bin/python benchmarks/studies/generation/study.py --out benchmarks/studies/generation/results.json

The model draws each known thing from its name. A drawing is correct if the nearest of all pictures (mean
squared difference) shows that thing. Guidance: at several scales and temperatures. Best of n: by the model's
own likelihood. Infilling: the right half, or the middle, of the thing's picture is redrawn; the baseline is
the same picture with that region from another thing's picture.

Jacobi decoding (Santilli et al., arXiv:2305.10427; for image codes Teng et al., arXiv:2410.01699) guesses
several codes ahead and keeps those that a pass over all of them confirms. Fixed random numbers are used for
sampling, so that the codes are the same as one by one; the study measures how many codes a pass confirms.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from earlyfusion.benchmarks.speed.machine import write_figures
from earlyfusion.data.render.openmoji import render_drawing
from earlyfusion.data.render.split import DRAW, demo_concepts, demo_words, sentence
from earlyfusion.eval.tasks.continuations import draw_codes
from earlyfusion.eval.tasks.naming import SIDE, nearest_of
from earlyfusion.fusion_lm.folder import Model, load_model
from earlyfusion.fusion_lm.generate import generate
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.infill import infill
from earlyfusion.fusion_lm.sampling import Sampling, draw, filter_logits, uniforms
from earlyfusion.storage.hub import PRETRAINED
from earlyfusion.tokenizers.documents import split

HERE = Path(__file__).parent
THINGS = demo_concepts().train
GALLERY = [(thing.name, render_drawing(stem, SIDE)) for thing in THINGS for stem in thing.drawings]
BATCH = 64


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, default=PRETRAINED, help="model folder (default: the package's)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results.json", help="JSON file to write")
    parser.add_argument("--things", type=int, default=len(THINGS), help="number of things (default: all)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's choice)")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    model = load_model(args.model)
    things = [thing.name for thing in random.Random(0).sample(THINGS, args.things)]
    figures: dict[str, Any] = {"things": len(things), "drawing": {}, "infilling": {}, "jacobi": {}}
    for temperature in (0.4, 1.0):
        for weight in (1.0, 1.5, 2.0, 3.0):
            row = drawn(model, things, Sampling(temperature), guidance=Guidance(weight))
            figures["drawing"][f"temperature {temperature:g}, guidance {weight:g}"] = row
        for n in (4, 16):
            row = drawn(model, things, Sampling(temperature), best_of=n)
            figures["drawing"][f"temperature {temperature:g}, best of {n}"] = row
    for name, value in figures["drawing"].items():
        print(f"{name}: {value:.3f}", flush=True)
    for region, box in (("right half", (0.5, 0.0, 1.0, 1.0)), ("middle", (0.25, 0.25, 0.75, 0.75))):
        for candidates in (1, 8, 32):
            row = infilled(model, things, box, candidates)
            figures["infilling"][f"{region}, likeliest of {candidates}"] = row
            print(f"{region}, likeliest of {candidates}: {row}", flush=True)
    for what, prompts, grid, sampling in (
        ("pictures, temperature 0.4", [sentence(DRAW, name) for name in things[::8]], (6, 6), Sampling(0.4)),
        ("pictures, temperature 1", [sentence(DRAW, name) for name in things[::8]], (6, 6), Sampling()),
        (
            "words, greedily",
            demo_words().held_out[:: len(demo_words().held_out) // 30],
            (2, 7),
            Sampling(0.0),
        ),
    ):
        for window in (4, 8, 16):
            row = jacobi(model, prompts, grid, sampling, window)
            figures["jacobi"][f"{what}, window {window}"] = row
            print(f"{what}, window {window}: {row}", flush=True)
    write_figures(args.out, figures, timed=False)


def share_nearest(names: Sequence[str], pictures: Sequence[Image.Image | None]) -> float:
    """The share of pictures that are nearest to a picture of their own thing; missing ones count as wrong."""
    blank = Image.new("RGB", (SIDE, SIDE), "white")
    order = nearest_of([picture or blank for picture in pictures], [picture for _, picture in GALLERY])
    found = [GALLERY[index][0] for index in order[:, 0].tolist()]
    right = [a == b and p is not None for a, b, p in zip(names, found, pictures, strict=True)]
    return round(sum(right) / len(right), 4)


def drawn(model: Model, names: Sequence[str], sampling: Sampling, **options: Any) -> float:
    """The share of things whose drawing is nearest to their picture."""
    lm, tokenizer = model
    pictures: list[Image.Image | None] = []
    for start in range(0, len(names), BATCH):
        prompts = [
            tokenizer.encode([sentence(DRAW, name)], eos=False).tokens
            for name in names[start : start + BATCH]
        ]
        results = generate(
            lm, tokenizer.vocab, prompts, max_new_tokens=80, sampling={"image": sampling}, then="image",
            max_blocks=1, stop_after="image", seed=1000 * start, **options,
        )  # fmt: skip
        parts = [split(r.tokens[r.prompt_length :], tokenizer.vocab, partial="drop") for r in results]
        codes = [next((part.values for part in some if part.kind == "image"), None) for some in parts]
        pictures += draw_codes(tokenizer.image, codes)
    return share_nearest(names, pictures)


def infilled(
    model: Model, names: Sequence[str], box: tuple[float, float, float, float], candidates: int
) -> dict[str, float]:
    """The share of pictures nearest to their own thing after a region was redrawn, and the region's PSNR."""
    lm, tokenizer = model
    by_name = dict(reversed(GALLERY))
    place = tuple(round(SIDE * edge) for edge in box)
    pictures, others, errors = [], [], []
    for number, name in enumerate(names):
        picture = by_name[name]
        made = infill(
            model, [sentence(DRAW, name), picture], box, candidates=candidates,
            seed=1000 * number,
        )  # fmt: skip
        pictures.append(made[0].image)
        other = picture.copy()
        other.paste(by_name[names[number - 1]].crop(place), place[:2])  # type: ignore[arg-type]
        others.append(other)
        a, b = (_pixels(image.crop(place)) for image in (picture, made[0].image))  # type: ignore[arg-type]
        errors.append(float((a - b).square().mean()))
    return {
        "nearest": share_nearest(names, pictures),
        "nearest, the region of another": share_nearest(names, others),
        "psnr in the region": round(-10 * torch.tensor(errors).mean().log10().item(), 2),
    }


def _pixels(image: Image.Image) -> Tensor:
    from earlyfusion.tokenizers.pixels import to_tensor

    return (to_tensor(image) + 1) / 2


@torch.inference_mode()
def jacobi(
    model: Model, prompts: Sequence[str], grid: tuple[int, int], sampling: Sampling, window: int
) -> dict[str, Any]:
    """Codes per pass over ``window`` codes, and whether they equal those drawn one by one."""
    passes = codes = 0
    same = True
    for seed, prompt in enumerate(prompts):
        one, _ = _jacobi(model, prompt, grid, sampling, seed, 1)
        some, count = _jacobi(model, prompt, grid, sampling, seed, window)
        same &= one == some
        passes, codes = passes + count, codes + len(some)
    return {"codes per pass": round(codes / passes, 3), "the same codes": same}


def _jacobi(
    model: Model, prompt: str, grid: tuple[int, int], sampling: Sampling, seed: int, window: int
) -> tuple[list[int], int]:
    lm, tokenizer = model
    vocab = tokenizer.vocab
    layout = vocab.layout("image")
    allowed = vocab.is_("image", torch.arange(vocab.size))
    count = grid[0] * grid[1]
    numbers = uniforms([seed], count)[0]
    start = torch.tensor([layout.begin, *layout.size_tokens(grid)])
    head = torch.cat([tokenizer.encode([prompt], eos=False).tokens, start])
    kept: list[int] = []
    guess: list[int] = []
    passes = 0
    while len(kept) < count:
        done, width = len(kept), min(window, count - len(kept))
        guess = guess[:width]
        last = (kept + guess)[-1:] or [int(allowed.nonzero()[0])]
        guess += last * (width - len(guess))
        tokens = torch.cat([head, torch.tensor(kept + guess[: width - 1], dtype=torch.int64)])
        logits = lm(tokens[None])[0, len(head) - 1 + done :].float().masked_fill(~allowed, -torch.inf)
        found = draw(filter_logits(logits, sampling), numbers[done : done + width]).tolist()
        right = 1
        while right < width and found[right - 1] == guess[right - 1]:
            right += 1
        kept, guess, passes = kept + found[:right], found[right:], passes + 1
    return kept, passes


if __name__ == "__main__":
    main()
