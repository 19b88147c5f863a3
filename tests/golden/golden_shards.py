"""The section of prepared folders, and the data sets for them."""

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import golden_adapter as ef
import golden_material as material
from golden_parts import Parts, files_of, plain


def shards() -> Parts:
    """Folders that ``prepare`` writes from small data sets of every shape."""
    names = ("shards", "prepared", "prepare words", "prepared files", "prepare keys")
    parts: Parts = {name: {} for name in names}
    write_tokenizers()
    Path("packaged").symlink_to(ef.packaged_model())  # a key depends on the names of folders
    for name, settings in prepare_cases().items():
        _prepare(parts, name, settings)
    return parts


def write_tokenizers() -> None:
    """Write text, image, image2 (two codes a position), and model, a small model for conversations."""
    material.text_tokenizer().save("text")
    material.image_tokenizer().save("image")
    material.image_tokenizer(2).save("image2")
    model = material.model_of("grid, columns, 1 codes")
    ef.save_model("model", model.lm, model.tokenizer)


def prepare_cases() -> dict[str, dict[str, Any]]:
    """Write the data. Returns the settings of each case."""
    own = {"text_tokenizer": "text", "image_tokenizer": "image", "max_grid": 16}
    pairs, tiles = write_pairs(Path("pairs")), write_pages(Path("pages"))
    texts, talks = write_texts(Path("texts.jsonl")), write_talks(Path("talks"))
    parallel, placed = write_parallel(Path("parallel")), write_placed(Path("placed"))
    streamed = write_parquet(Path("parquet"))
    material.same_times(Path())
    small = {"context_length": 64, "validation_share": 0.2, "shard_rows": 8}
    fresh, tuned = {**small, **own}, {**small, "model": "model"}
    columns = {"image": "picture", "text": "words"}
    fixed = {"fixed_grid": (2, 3), "max_grid": 64}
    return {
        "pairs, both": {**fresh, "documents": pairs, "order": "both"},
        "pairs, coin": {**fresh, "documents": pairs, "order": "coin", "seed": 3, "scan": "columns"},
        "pairs, columns": {**fresh, "documents": f"{pairs}/rows.jsonl", "id_column": "id", "columns": columns}
        | {"order": "image_first", "policy": "pad"},
        "pairs, two codes": {**fresh, "documents": pairs, "order": "text_first", "max_side": 24}
        | {"image_tokenizer": "image2"},
        "pairs, fixed grid": {**fresh, "documents": pairs, "order": "both", **fixed},
        "texts, split": {**fresh, "documents": texts, "validation_share": 0.1, "context_length": 48},
        "texts, dropped": {**fresh, "documents": texts, "long_documents": "drop", "context_length": 32},
        "texts, validation": {**fresh, "documents": texts, "validation": texts, "validation_share": 0.0},
        "talks": {**tuned, "documents": talks},
        "talks, balanced": {**tuned, "documents": talks, "balance_answers": True, "seed": 1},
        "talks, cut": {**tuned, "documents": talks, "context_length": 40},
        "talks, dropped": {**tuned, "documents": talks, "context_length": 40, "long_documents": "drop"},
        "talks, fixed grid": {**fresh, "documents": talks, **fixed, "fixed_grid": (2, 2), "separator": True},
        "long, split": {**fresh, "documents": parallel, "context_length": 32},
        "long, dropped": {**fresh, "documents": parallel, "context_length": 32, "long_documents": "drop"},
        "long, one shard": {**own, "documents": parallel, "context_length": 256, "validation_share": 0.0},
        "placed, both": {**fresh, "documents": placed, "order": "both"},
        "placed, coin": {**fresh, "documents": placed, "order": "coin", "scan": "columns", "seed": 9},
        "tiles": {**fresh, "documents": tiles, "context_length": 128, "large_images": "tile", "max_side": 40},
        "tiles, scaled": {**fresh, "documents": tiles, "max_positions": 20, "context_length": 128},
        "tiles, padded": {**fresh, "documents": tiles, "max_positions": 9, "max_side": None, "policy": "pad"},
        "streamed": {**fresh, "documents": streamed, "streaming": True, "order": "both"},
        "packaged model": {**tuned, "documents": pairs, "model": "packaged", "order": "both"}
        | {"context_length": 256},
    }


def _prepare(parts: Parts, name: str, settings: dict[str, Any]) -> None:
    out = Path(f"prepared-{name.replace(', ', '-').replace(' ', '-')}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        ef.prepare({"out": str(out), **settings})
    lines = [line for line in printed.getvalue().splitlines() if "rows/s" not in line]
    record = json.loads((out / "prepare.json").read_text())
    key = record.pop("key")
    warnings_of_rows = [str(w.message) for w in warned if "rejected" in str(w.message)]
    lines_of = (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    rejected = [json.loads(line) for line in lines_of]
    reasons = {}
    for part in ("train", "validation"):
        if part in record:
            reasons[part] = record[part].pop("left_out")
            record[part]["left_out"] = sum(reasons[part].values())
    rows = [[entry["part"], entry.get("row", entry.get("file"))] for entry in rejected]
    parts["prepared"][name] = plain({"record": record, "rejected": rows})
    words = {"reasons": reasons, "rejected": rejected, "printed": lines, "warned": warnings_of_rows}
    parts["prepare words"][name] = plain(words)
    parts["prepare keys"][name] = key
    for part in ("train", "validation"):
        if (out / part).is_dir():
            for column, values in ef.windows(out / part).items():
                parts["shards"][f"{name}/{part}/{column}"] = values.numpy()
    parts["prepared files"][name] = files_of(
        out, {key: "KEY", str(Path.cwd()): "WORK"}, without=("prepare.json",)
    )
    before = (out / "prepare.json").stat().st_mtime_ns
    with contextlib.redirect_stdout(printed):  # the second run does nothing
        ef.prepare({"out": str(out), **settings})
    parts["prepared"][f"{name}/again"] = (out / "prepare.json").stat().st_mtime_ns == before
    parts["prepare words"][f"{name}/again"] = printed.getvalue().splitlines()[-1]


def write_pairs(folder: Path) -> str:
    """Pictures and captions as an imagefolder and as lines, some broken, missing or outside the folder."""
    rows: list[Any] = []
    for number in range(30):
        name = f"picture-{number:02d}.png"
        material.write_png(folder / name, material.drawing(number))
        rows.append({"file_name": name, "text": material.text(number + 1)})
    material.write_lines(folder / "metadata.jsonl", rows)
    material.write_png(folder.parent / "outside.png", material.drawing(1))
    (folder / "broken.bin").write_bytes((folder / "picture-00.png").read_bytes()[:60])
    other: list[Any] = [
        {"id": str(n), "picture": row["file_name"], "words": row["text"], "more": n}
        for n, row in enumerate(rows)
    ]
    for place, (picture, words) in enumerate(
        (
            ("broken.bin", "broken"),
            ("none.png", "missing"),
            ("../outside.png", "outside"),
            (None, ""),
            (None, "alone"),
        )
    ):
        other.insert(3 * place, {"id": f"x{place}", "picture": picture, "words": words, "more": 0})
    other.append({"id": "3", "picture": "picture-01.png", "words": "again", "more": 0})
    other.insert(8, '{"id": "broken')
    other.insert(9, "[1]")
    material.write_lines(folder / "rows.jsonl", other)
    return str(folder)


def write_texts(path: Path) -> str:
    """Texts of all lengths; one with a lone surrogate, and empty ones."""
    rows: list[Any] = [{"text": " ".join(material.text(n + k) for k in range(n % 9))} for n in range(40)]
    rows += [{"text": "a \ud800 b"}, {"text": ""}, {"text": "w" * 400}]
    material.write_lines(path, rows)
    return str(path)


def write_talks(folder: Path) -> str:
    """Conversations with images in their parts or in a column, and some that are invalid."""
    rows: list[Any] = []
    for number in range(18):
        material.write_png(folder / f"{number}.png", material.drawing(number, mode="RGB"))
        shown = {"type": "image", "text": None, "image": f"{number}.png"}
        waiting = {"type": "image", "text": None, "image": None}
        said = [{"type": "text", "text": material.text(number + 1), "image": None}]
        asked = [{"type": "text", "text": material.text(number + 20), "image": None}]
        turns = [("user", [*asked, *([shown] if number % 3 == 0 else [])])]
        turns.append(
            ("assistant", [waiting] if number % 3 == 1 else [*said, *([shown] if number % 5 == 0 else [])])
        )
        if number % 4 == 0:
            turns = [("system", asked), *turns, ("user", said), ("assistant", asked), ("user", asked)]
        if number == 7:
            turns = turns[1:]
        if number == 11:
            turns = turns[:1]
        if number == 13:
            turns.append(("critic", said))
        rows.append(
            {
                "messages": [{"role": role, "content": content} for role, content in turns],
                "images": [f"{number}.png"] if number % 3 == 1 else [],
            }
        )
    material.write_lines(folder / "talks.jsonl", rows)
    return str(folder / "talks.jsonl")


def write_parallel(folder: Path) -> str:
    """Interleaved documents, some of them long, some images too large for a window of 32 tokens."""
    rows = []
    for number in range(24):
        images, texts = [], []
        for place in range(1 + number % 6):
            own = 50 * number + place
            if own % 3:
                images.append(None)
                texts.append(material.text(own))
            else:
                size = (64, 48) if own % 4 == 0 else (16, 16)
                material.write_png(folder / f"{own}.png", material.drawing(own, size, "RGB"))
                images.append(f"{own}.png")
                texts.append(None)
        rows.append({"images": images, "texts": texts})
    rows.append({"images": [None], "texts": []})
    rows.append({"images": [], "texts": ["only this"]})
    material.write_lines(folder / "rows.jsonl", rows)
    return str(folder / "rows.jsonl")


def write_placed(folder: Path) -> str:
    """Texts with an image for some of the sentences, as in MMC4."""
    rows = []
    for number in range(12):
        count = 1 + number % 3
        places = []
        for place in range(number % 4):
            own = 30 * number + place
            material.write_png(folder / f"{own}.png", material.drawing(own, (16, 16), "RGB"))
            places.append({"image_name": f"{own}.png", "matched_text_index": min(place, count - 1)})
        if number == 10:
            places = [{"image_name": "300.png", "matched_text_index": 9}]
        rows.append(
            {"text_list": [material.text(5 * number + k) for k in range(count)], "image_info": places}
        )
    material.write_lines(folder / "rows.jsonl", rows)
    return str(folder / "rows.jsonl")


def write_pages(folder: Path) -> str:
    """Large images with a line of text."""
    rows = []
    for number in range(8):
        material.write_png(folder / f"{number}.png", material.drawing(number, (90 + 10 * number, 60), "RGB"))
        rows.append({"file_name": f"{number}.png", "text": material.text(number + 1)})
    material.write_lines(folder / "metadata.jsonl", rows)
    return str(folder)


def write_parquet(folder: Path) -> str:
    """Pictures and captions in parquet files."""
    import datasets

    folder.mkdir()
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    for shard in range(3):
        numbers = range(10 * shard, 10 * shard + 10)
        rows = {
            "image": [material.drawing(n, mode="RGB") for n in numbers],
            "text": [material.text(n + 1) for n in numbers],
        }
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / f"{shard}.parquet")
    return str(folder)
