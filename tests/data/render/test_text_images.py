import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Image as ImageColumn
from PIL import Image

from earlyfusion.cli.main import main
from earlyfusion.data.reading.sources import load_saved
from earlyfusion.data.render.text_images import TextImagesConfig, write_text_images
from earlyfusion.eval.suites import ocr_suite
from earlyfusion.train.image.data import ImageData


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Thirty strips to train on and ten to validate on."""
    out = tmp_path_factory.mktemp("data") / "text-images"
    done: list[tuple[str, int, int]] = []
    config = TextImagesConfig(("word", "random", "colour"), count=30, validation=10)
    counts = write_text_images(out, config, lambda *args: done.append(args))
    assert counts == {"train": 30, "validation": 10}
    assert done[-1] == ("validation images", 10, 10) and ("train images", 30, 30) in done
    return out


def test_rows_hold_images_texts_and_boxes(folder):
    rows: Any = load_saved(folder)
    assert len(rows) == 30 and len(load_saved(folder, "validation")) == 10
    for i, row in enumerate(rows):
        assert row["kind"] == ("word", "random", "colour")[i % 3]
        assert row["image"].size == (128, 32)
        assert row["image"].mode == ("RGB" if row["kind"] == "colour" else "L")
        assert row["text"] == " ".join(row["objects"]["text"])
        for x, y, width, height in row["objects"]["bbox"]:
            assert 0 <= x < x + width <= 128 and 0 <= y < y + height <= 32
            if row["kind"] != "colour":
                ink = np.asarray(row["image"]) < 128
                assert ink[int(y) : int(y + height), int(x) : int(x + width)].sum() == ink.sum() > 0


def test_images_are_png(folder):
    rows: Any = load_saved(folder).cast_column("image", ImageColumn(decode=False))
    assert Image.open(io.BytesIO(rows[0]["image"]["bytes"])).format == "PNG"


def test_the_image_data_module_reads_it(folder):
    data = ImageData(str(folder), str(folder / "validation"))
    data.setup()
    assert data.train_images is not None and data.validation_images is not None
    assert len(data.train_images) == 30 and len(data.validation_images) == 10
    assert data.train_images.groups.keys() == {(32, 128)}


def test_nothing_in_it_is_measured_or_shared_with_validation(tmp_path):
    write_text_images(tmp_path / "x", TextImagesConfig(("word", "random"), count=300, validation=100))
    train, validation = (
        {str(t).lower() for t in load_saved(tmp_path / "x", part)["text"]} for part in ("train", "validation")
    )
    measured = {str(item.text).lower() for item in ocr_suite(0, ["word", "random"], 100)}
    assert not train & measured and not validation & measured
    words = {str(text).lower() for text in load_saved(tmp_path / "x", "validation")["text"][::2]}
    assert not train & words


def test_a_seed_says_the_set_and_the_command_writes_it(folder, tmp_path, capsys):
    argv = ["text-images", "--kinds", "word,random,colour", "--count", "30", "--validation", "10"]
    assert main([*argv, "--out", str(tmp_path / "same")]) == 0
    assert "30 train, 10 validation images" in capsys.readouterr().out
    assert main([*argv, "--out", str(tmp_path / "other"), "--seed", "1"]) == 0
    same, other = (load_saved(tmp_path / name) for name in ("same", "other"))
    assert same["text"] == load_saved(folder)["text"] != other["text"]


def test_sizes_and_kinds_by_options(tmp_path):
    out = str(tmp_path / "pages")
    argv = ["--kinds", "page", "--count", "2", "--size", "128x192", "--type-sizes", "10", "--validation", "0"]
    assert main(["text-images", *argv, "--out", out]) == 0
    rows: Any = load_saved(out)
    assert rows[0]["image"].size == (192, 128) and len(rows[0]["objects"]["text"]) > 5
    assert not (tmp_path / "pages" / "validation").exists()
    argv = ["--count", "3", "--size", "fit", "--multiple", "8", "--validation", "0"]
    assert main(["text-images", *argv, "--out", str(tmp_path / "fit")]) == 0
    rows = load_saved(tmp_path / "fit")
    assert all(not side % 8 for row in rows for side in row["image"].size)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--kinds word,poem", "kinds has 'poem', expected some of word, random"),
        ("--size 16x16", "size is 16x16"),
        ("--size 33x128", "size is 33x128, expected multiples of 16"),
        ("--size 32", "--size: expected"),
        ("--type-sizes 20-10", "type_sizes is 20-10"),
        ("--type-sizes big", "--type-sizes: expected"),
        ("--count 0", "--count: expected"),
        ("--validation -1", "validation is -1"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(argv, expected, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["text-images", "--count", "5", *argv.split(), "--out", str(out)]) == 2
    printed = capsys.readouterr().err
    assert expected in printed and printed.count("\n") == 1
    assert not out.exists() and not list(tmp_path.iterdir())
