import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from earlyfusion.cli.main import main
from earlyfusion.data import codes as codes_module
from earlyfusion.data.codes import decode_folder, encode_folder, weights_hash
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.pixels import fit, to_pil, to_tensor


@pytest.fixture
def pictures(photo: Image.Image, tmp_path: Path) -> Path:
    """Pictures of three sizes, one in a sub-folder, two of which share a name, and two that are none."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    photo.save(folder / "a.png")
    photo.rotate(180).save(folder / "a.bmp")
    photo.resize((50, 33)).save(folder / "deep" / "b.jpg")
    photo.crop((0, 0, 1, 1)).save(folder / "one.png")
    (folder / "text.png").write_text("hello")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:90])
    return folder


@pytest.fixture
def model(image_tokenizer, tmp_path: Path) -> Path:
    image_tokenizer.save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def run(*argv: str | Path) -> int:
    return main(["image-tokenizer", *map(str, argv)])


def test_pictures_become_codes_and_pictures_of_their_size_again(
    pictures, model, image_tokenizer, tmp_path, capsys
):
    codes, again = tmp_path / "codes", tmp_path / "again"
    assert run("encode", pictures, "--model", model, "--out", codes) == 0
    printed = capsys.readouterr()
    assert "encoded 4 images, skipped 2: 84 tokens" in printed.out and "bits per pixel" in printed.out
    assert printed.err.count("skipped ") == 2 and "skipped text.png: cannot be read" in printed.err
    names = {str(p.relative_to(codes)) for p in codes.rglob("*") if p.is_file()}
    assert names == {"a.bmp.npz", "a.png.npz", "deep/b.jpg.npz", "one.png.npz", "codes.json", ".made.json"}
    with np.load(codes / "deep" / "b.jpg.npz") as file:
        assert file["codes"].shape == (5, 7) and file["codes"].dtype == np.uint8
        assert file["size"].tolist() == [33, 50]
    assert run("decode", codes, "--model", model, "--out", again) == 0
    assert "decoded 4 images from 84 tokens" in capsys.readouterr().out
    for name, source in {"a.png": "a.png", "deep/b.jpg.png": "deep/b.jpg", "one.png": "one.png"}.items():
        with Image.open(again / name) as image, Image.open(pictures / source) as original:
            assert image.format == "PNG" and image.size == original.size
            pixels = to_tensor(fit(original.convert("RGB"), 8, "pad"))[None]
            alone = to_pil(image_tokenizer.decode(image_tokenizer.encode(pixels))[0])
            difference = np.asarray(image, int) - np.asarray(alone.crop((0, 0, *image.size)), int)
            assert abs(difference).max() <= 1


def test_other_pictures_do_not_get_into_a_folder_of_codes(pictures, model, tmp_path, capsys):
    """Names that are there already would pass for done."""
    codes, others = tmp_path / "codes", tmp_path / "others"
    for name in ("a.png", "one.png"):  # one by one
        assert run("encode", pictures / name, "--model", model, "--out", codes) == 0
    shutil.copytree(pictures, others)
    assert run("encode", others, "--model", model, "--out", codes) == 2
    assert (
        "--overwrite" in (error := capsys.readouterr().err) and "others" in error and error.count("\n") == 1
    )
    first = (pictures / "a.png").read_bytes()
    assert run("decode", codes, "--model", model, "--out", pictures) == 2  # the originals
    assert str(pictures) in capsys.readouterr().err and (pictures / "a.png").read_bytes() == first


def test_what_is_done_is_passed_over_and_what_is_newer_is_done_again(
    pictures, image_tokenizer, tmp_path, monkeypatch
):
    out = tmp_path / "codes"
    assert encode_folder(image_tokenizer, pictures, out).images == 4
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    counts = encode_folder(image_tokenizer, pictures, out)
    assert (counts.images, counts.before, len(counts.skipped)) == (0, 4, 2)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")} == first
    later = (out / "one.png.npz").stat().st_mtime + 10
    os.utime(pictures / "one.png", (later, later))
    (out / "a.png.npz").unlink()
    counts = encode_folder(image_tokenizer, pictures, out)
    assert (counts.images, counts.before) == (2, 2)

    written, save = [], codes_module.write_bytes

    def interrupted(path, data):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        save(path, data)

    again = tmp_path / "again"
    monkeypatch.setattr(codes_module, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode_folder(image_tokenizer, out, again)
    monkeypatch.setattr(codes_module, "write_bytes", save)
    assert [p for p in again.rglob("*") if p.is_file()] == written
    counts = decode_folder(image_tokenizer, out, again)
    assert (counts.images, counts.before) == (3, 1)


def test_batches_give_what_single_pictures_give(pictures, image_tokenizer, tmp_path, monkeypatch):
    encode_folder(image_tokenizer, pictures, tmp_path / "together")
    monkeypatch.setattr(codes_module, "BATCH_PIXELS", 1)
    monkeypatch.setattr(codes_module, "WAITING_PIXELS", 1)
    encode_folder(image_tokenizer, pictures, tmp_path / "alone")
    for path in (tmp_path / "alone").rglob("*.npz"):
        with (
            np.load(path) as one,
            np.load(tmp_path / "together" / path.relative_to(tmp_path / "alone")) as all,
        ):
            assert (one["codes"] == all["codes"]).mean() > 0.9  # near ties may fall otherwise


def test_several_codes_per_position_and_large_pages_in_tiles(photo, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ImageTokenizerConfig(
            stem=4, channels=(8, 16), res_blocks=1, norm="layer", codebook_size=300, codebook_dim=4, groups=2
        )
        tokenizer = ImageTokenizer(config).eval()
        tokenizer.initialize_codebook(
            tokenizer.latents(torch.rand(16, 3, 64, 64) * 2 - 1).movedim(1, -1).flatten(0, 2)
        )
    page = photo.resize((413, 290))
    (tmp_path / "pages").mkdir()
    page.save(tmp_path / "pages" / "page.png")
    for tile in (1024, 160):
        encode_folder(tokenizer, tmp_path / "pages", tmp_path / f"codes{tile}", tile=tile)
        decode_folder(tokenizer, tmp_path / f"codes{tile}", tmp_path / f"again{tile}", tile=tile)
    with (
        np.load(tmp_path / "codes1024/page.png.npz") as whole,
        np.load(tmp_path / "codes160/page.png.npz") as t,
    ):
        assert whole["codes"].shape == (37, 52, 2) and whole["codes"].dtype == np.uint16
        assert (whole["codes"] == t["codes"]).mean() > 0.99
    with Image.open(tmp_path / "again160/page.png") as tiled:
        assert tiled.size == page.size
    with pytest.raises(ValueError, match="tile is 16"):
        encode_folder(tokenizer, tmp_path / "pages", tmp_path / "small", tile=16)


def test_single_files(pictures, image_tokenizer, tmp_path):
    out = tmp_path / "codes"
    encode_folder(image_tokenizer, pictures / "deep" / "b.jpg", out)
    assert (out / "b.jpg.npz").exists()
    encode_folder(image_tokenizer, pictures, out)
    decode_folder(image_tokenizer, out / "deep" / "b.jpg.npz", tmp_path / "again")
    assert (tmp_path / "again" / "b.jpg.png").exists()


def test_codes_of_another_tokenizer_are_refused(pictures, model, image_tokenizer, tmp_path, capsys):
    codes = tmp_path / "codes"
    encode_folder(image_tokenizer, pictures, codes)
    assert weights_hash(ImageTokenizer.load(model)) == weights_hash(image_tokenizer)
    other = ImageTokenizer.load(model)
    with torch.no_grad():
        other.last_layer.mul_(1.01)
    other.save(tmp_path / "other")
    capsys.readouterr()
    for command in ("encode", "decode"):
        source = pictures if command == "encode" else codes
        out = codes if command == "encode" else tmp_path / "again"
        assert run(command, source, "--model", tmp_path / "other", "--out", out) == 2
        line = capsys.readouterr().err
        assert "holds codes of another image tokenizer" in line and line.count("\n") == 1
    assert not (tmp_path / "again").exists()


def test_broken_codes_are_skipped_with_a_reason(pictures, image_tokenizer, tmp_path):
    codes = tmp_path / "codes"
    encode_folder(image_tokenizer, pictures, codes)
    size = np.array([8, 8], np.uint32)
    (codes / "x1.npz").write_bytes(b"")
    (codes / "x2.npz").write_bytes((codes / "a.png.npz").read_bytes()[:100])
    np.savez(codes / "x3.npz", codes=np.full((1, 1), 32, np.uint8), size=size)
    np.savez(codes / "x4.npz", codes=np.zeros((2, 1), np.uint8), size=size)
    np.savez(codes / "x5.npz", codes=np.zeros((1, 1), np.uint8))
    np.savez(codes / "x6.npz", codes=np.array([[{}]], dtype=object), size=size)
    np.savez(codes / "x7.npz", codes=np.zeros((1, 1)), size=size)
    counts = decode_folder(image_tokenizer, codes, tmp_path / "again")
    assert counts.images == 4 and [line[:8] for line in counts.skipped] == [
        f"x{i}.npz: " for i in range(1, 8)
    ]
    assert all("\n" not in line for line in counts.skipped)


def test_nothing_to_do_is_a_mistake(model, image_tokenizer, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for argv, expected in (
        (("encode", tmp_path / "none"), "none not found: a folder of images"),
        (("encode", tmp_path / "empty"), "has no images"),
        (("decode", tmp_path / "empty"), "has no codes"),
    ):
        assert run(*argv, "--model", model, "--out", tmp_path / "out") == 2
        line = capsys.readouterr().err
        assert expected in line and line.count("\n") == 1
    assert run("encode", tmp_path / "empty", "--model", tmp_path / "none", "--out", tmp_path / "out") == 2
    assert "no image tokenizer" in capsys.readouterr().err
    (tmp_path / "empty" / "x.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="none of the 1 images"):
        encode_folder(image_tokenizer, tmp_path / "empty", tmp_path / "out")
    (tmp_path / "lost").mkdir()
    np.savez(tmp_path / "lost" / "x.npz", codes=np.zeros((1, 1), np.uint8))
    with pytest.raises(FileNotFoundError, match="codes.json not found"):
        decode_folder(image_tokenizer, tmp_path / "lost", tmp_path / "out")


def test_the_index_says_what_the_codes_are(pictures, image_tokenizer, tmp_path):
    encode_folder(image_tokenizer, pictures, tmp_path / "codes")
    index = json.loads((tmp_path / "codes" / "codes.json").read_text())
    assert (index["factor"], index["codebook_size"], index["codes_per_position"]) == (8, 32, 1)
    assert index["tokenizer"] == weights_hash(image_tokenizer)


def test_importing_what_is_no_checkpoint_is_one_line(tmp_path, capsys):
    (tmp_path / "x.ckpt").write_bytes(b"no checkpoint")
    for file in ("x.ckpt", "none.ckpt"):
        assert run("import", tmp_path / file, "--out", tmp_path / "out") == 2
        line = capsys.readouterr().err
        assert file in line and line.count("\n") == 1
    assert not (tmp_path / "out").exists()
