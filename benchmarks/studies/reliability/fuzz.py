"""Feed broken images and documents to prepare: it must not crash, and must not lose good rows.

    .venv/bin/python benchmarks/studies/reliability/fuzz.py --rows 6000 --out fuzz.json

Prepares three data sets with mutated rows: images (bits flipped, truncated, overwritten, headers with wrong
sizes, ten formats and pixel types) with unusual texts; parallel lists, MMC4 documents and conversations with
broken structure, read one by one; and a file of JSON lines with changed bytes. For each, every row must be
either in the windows or in rejected.jsonl with a reason, and the documents of all unchanged rows must be
there, token for token.
"""

import argparse
import io
import json
import random
import struct
import tempfile
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, Features, Value
from PIL import Image, ImageDraw

from earlyfusion.benchmarks.speed.machine import write_figures
from earlyfusion.data.prepare import prepare
from earlyfusion.data.prepare_config import PrepareConfig
from earlyfusion.data.reading.cells import Unusable
from earlyfusion.data.reading.rows import documents_of
from earlyfusion.tokenizers.documents import DocumentTokenizer
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.text import TextTokenizer

ODD = (
    "",
    " ",
    "\x00",
    "<image>",
    "</s><pad><image>",
    "\ufeffbegins with a mark",
    "e\u0301 and \u00e9",
    "\u202egnihton\u202c",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "﷽" * 40,
    "a" * 20_000,
    "\n\r\t\x0b\x1b[31m",
    "\U0010ffff\ufffe",
)
STRAY: tuple[Any, ...] = (
    None,
    0,
    -1,
    3.5,
    True,
    "",
    "text",
    b"bytes",
    [],
    [[]],
    {},
    {"bytes": None},
    {"path": ""},
)


def picture(rng: random.Random) -> Image.Image:
    """A small random drawing."""
    image = Image.new("RGB", (rng.choice((16, 24, 40)), rng.choice((16, 32))), "white")
    color = tuple(rng.randrange(256) for _ in range(3))
    ImageDraw.Draw(image).rectangle((rng.randrange(8), rng.randrange(8), 12, 12), fill=color)
    return image


def stored(image: Image.Image, rng: random.Random) -> bytes:
    """The content of an image file, in a random format and pixel type."""
    kind = rng.choice(("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "cmyk", "palette", "alpha", "16 bits"))
    out = io.BytesIO()
    if kind == "cmyk":
        image.convert("CMYK").save(out, "JPEG")
    elif kind == "palette":
        image.quantize(16).save(out, "PNG")
    elif kind == "alpha":
        image.putalpha(128)
        image.save(out, "PNG")
    elif kind == "16 bits":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(out, "PNG")
    elif kind == "GIF":
        image.save(out, "GIF", save_all=True, append_images=[image.rotate(90)])
    else:
        image.save(out, kind)
    return out.getvalue()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The content of a file with a random error."""
    kind = rng.randrange(8)
    found = bytearray(data)
    if kind == 0:
        for _ in range(rng.choice((1, 5, 50))):
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        return data[: rng.randrange(len(data))]
    elif kind == 2:
        start = rng.randrange(len(found))
        found[start : start + rng.randrange(1, 40)] = rng.randbytes(rng.randrange(1, 40))
    elif kind == 3:
        return rng.randbytes(rng.randrange(200))
    elif kind == 4:
        return b"<html>not found</html>"
    elif kind == 5:
        size = rng.choice(((0, 0), (1, 2**31 - 1), (60_000, 60_000), (0, 5), (2**20, 1)))
        return claimed(*size)
    elif kind == 6:
        found[: rng.randrange(1, 12)] = b"\x00" * rng.randrange(12)
    else:
        found += rng.randbytes(rng.randrange(1, 2000))
    return bytes(found)


def claimed(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with valid checksums and hardly any data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tokenizers(folder: Path) -> DocumentTokenizer:
    """Small tokenizers; only the text tokenizer is trained."""
    text = TextTokenizer.train(["number, a box of the colour 0 1 2 3 4 5 6 7 8 9"] * 50, vocab_size=300)
    text.save(folder / "text")
    torch.manual_seed(0)
    config = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=64, codebook_dim=4)
    ImageTokenizer(config).save(folder / "image")
    settings = PrepareConfig("x", "y", str(folder / "text"), str(folder / "image"), max_grid=64)
    from earlyfusion.data.prepare import document_tokenizer

    return document_tokenizer(settings)


def documents_in(folder: Path, tokenizer: DocumentTokenizer) -> Counter[tuple[int, ...]]:
    """The documents of a prepared folder."""
    found: Counter[tuple[int, ...]] = Counter()
    for row in datasets.load_from_disk(str(folder / "train")):
        assert isinstance(row, dict)
        tokens, numbers = np.array(row["tokens"]), np.array(row["documents"])
        for number in np.unique(numbers):
            document = tuple(tokens[numbers == number].tolist())
            if document[0] != tokenizer.vocab.pad:
                found[document] += 1
    return found


def check(
    work: Path, name: str, source: Path, good: list[list[Any]], tokenizer: DocumentTokenizer, lines: int
) -> dict[str, Any]:
    """Prepare a data set, and check that every row is accounted for."""
    settings = {"context_length": 512, "max_grid": 64, "max_side": 64, "validation_share": 0.0}
    config = PrepareConfig(
        str(source),
        str(work / f"{name}-out"),
        str(work / "text"),
        str(work / "image"),
        order="image_first",
        shard_rows=500,
        **settings,
    )
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = prepare(config, lambda *_: None)["train"]
    rejected = [json.loads(line) for line in (work / f"{name}-out/rejected.jsonl").read_text().splitlines()]
    reasons = Counter(entry["reason"] for entry in rejected if "row" in entry)
    assert dict(reasons) == record["left_out"], "a rejection was not counted"
    unreadable = [entry for entry in rejected if "file" in entry]
    assert record["rows"] + len(unreadable) == lines, "a row vanished"
    found = documents_in(work / f"{name}-out", tokenizer)
    lost = 0
    for segments in good:
        encoded = tokenizer.encode(segments, options={"image": {"max_side": 64}})
        document = tuple(encoded.tokens.tolist())
        lost += not found[document]
        found[document] -= 1
    return {
        "rows": lines,
        "not_mutated": len(good),
        "of_these_lost": lost,
        "in_windows": record["pieces"],
        "left_out": dict(sorted(reasons.items())),
        "lines_that_cannot_be_read": len(unreadable),
        "seconds": round(time.perf_counter() - began, 1),
    }


def images(work: Path, count: int, rng: random.Random, tokenizer: DocumentTokenizer) -> dict[str, Any]:
    """Rows of images and texts, half of them mutated."""
    rows: dict[str, list[Any]] = {"image": [], "text": []}
    good = []
    for number in range(count):
        data, text = stored(picture(rng), rng), f"number {number}"
        if rng.random() < 0.5:
            good.append([Image.open(io.BytesIO(data)), text])
        else:
            data = mutated(data, rng) if rng.random() < 0.8 else data
            text = rng.choice(ODD) if rng.random() < 0.5 else text
        rows["image"].append(
            {"bytes": data, "path": rng.choice((None, "a.png", "../../outside.png", "b.jpg"))}
        )
        rows["text"].append(text)
    features = Features(image=datasets.Image(decode=False), text=Value("string"))
    Dataset.from_dict(rows, features).save_to_disk(str(work / "images"))
    return check(work, "images", work / "images", good, tokenizer, count)


def lines(work: Path, count: int, rng: random.Random, tokenizer: DocumentTokenizer) -> dict[str, Any]:
    """JSON lines that name image files, a third of them mutated."""
    folder = work / "lines"
    folder.mkdir()
    names = []
    for number in range(20):
        picture(rng).save(folder / f"{number}.png")
        names.append(f"{number}.png")
    good, text = [], []
    for number in range(count):
        name, caption = rng.choice(names), f"number {number}"
        if rng.random() < 0.67:
            good.append([Image.open(folder / name), caption])
            line = json.dumps({"image": name, "text": caption}).encode()
        else:
            name = rng.choice((name, "none.png", "../outside.png", "/etc/passwd", "", ".", "\x00"))
            line = json.dumps({"image": name, "text": rng.choice((*ODD, "\ud800", caption))}).encode()
            if rng.random() < 0.5:
                line = mutated(line, rng).replace(b"\n", b" ")
        text.append(line.replace(b"\r", b" "))
    (folder / "rows.jsonl").write_bytes(b"\n".join(text))
    return check(work, "lines", folder / "rows.jsonl", good, tokenizer, len(text))


def stray(value: Any, rng: random.Random) -> Any:
    """A value with random parts replaced."""
    if rng.random() < 0.25:
        return rng.choice(STRAY)
    if isinstance(value, dict) and value:
        return {k: stray(v, rng) for k, v in value.items() if rng.random() < 0.9}
    if isinstance(value, list) and value:
        found = [stray(item, rng) for item in value]
        return found[: rng.randrange(len(found) + 1)] if rng.random() < 0.2 else found
    return value


def structures(work: Path, count: int, rng: random.Random) -> dict[str, Any]:
    """Rows of every shape with parts replaced: each gives documents, or ``Unusable`` with a reason."""
    image = {"bytes": stored(picture(rng), rng), "path": None}
    talk = [
        {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "image": image}]},
        {"role": "assistant", "content": "A box."},
    ]
    rows: dict[str, dict[str, Any]] = {
        "conversations": {"messages": talk, "image": None},
        "placed": {
            "text_list": ["One.", "Two."],
            "image_info": [{"image_name": "a.png", "matched_text_index": 1}],
        },
        "parallel": {"images": [image, None], "texts": [None, "text"]},
        "pairs": {"image": image, "text": "text"},
        "texts": {"text": "text"},
        "images": {"image": image},
    }
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        shape = rng.choice(list(rows))
        row = {name: stray(value, rng) for name, value in rows[shape].items()}
        order: Any = rng.choice(("image_first", "text_first", "both", "coin"))
        try:
            documents = documents_of(row, shape, np.random.default_rng(0), work, order=order)
            outcomes["documents" if documents else "empty row"] += 1
        except Unusable as error:
            outcomes[error.reason] += 1
    return {"rows": count, "outcomes": dict(sorted(outcomes.items()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=6000, help="rows in total (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)  # codes are compared exactly, but encoded in batches of other sizes
    part = args.rows // 3
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        work = Path(name)
        tokenizer = tokenizers(work)
        result = {
            "command": f"python benchmarks/studies/reliability/fuzz.py --rows {args.rows} --seed {args.seed}",
            "images": images(work, part, random.Random(args.seed), tokenizer),
            "lines": lines(work, part, random.Random(args.seed + 1), tokenizer),
            "structures": structures(work, part, random.Random(args.seed + 2)),
        }
    print(json.dumps(result, indent=2, ensure_ascii=False))
    if args.out:
        write_figures(args.out, result, timed=False)
    if lost := sum(result[name]["of_these_lost"] for name in ("images", "lines")):  # type: ignore[index]
        raise SystemExit(f"{lost} good documents were lost")


if __name__ == "__main__":
    main()
