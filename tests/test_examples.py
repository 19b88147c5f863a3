"""Every script in examples/: short, explained at its top, and runs with small settings."""

import ast
import json
import runpy
import sys
import wave
from pathlib import Path

import pytest
from PIL import Image

from earlyfusion import load_model
from earlyfusion.tokenizers import modality

FOLDER = Path(__file__).parents[1] / "examples"
NAMES = ("add_modality", "fine_tune", "inspect_tokens", "reconstruct_scan", "sample_document")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example in a temporary folder: name, arguments -> (what it printed, the folder it wrote)."""

    def run(name: str, *arguments: str) -> tuple[str, Path]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--out", "out", *arguments])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out, tmp_path / "out"

    return run


def test_examples_are_short_and_say_how_to_run_them():
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.py"))) == NAMES
    for name in NAMES:
        source = (FOLDER / f"{name}.py").read_text()
        assert len(source.splitlines()) < 60, name
        assert f"    python examples/{name}.py" in (ast.get_docstring(ast.parse(source)) or ""), name


def test_sample_document(run):
    printed, out = run("sample_document", "A red apple:")
    assert printed.startswith("A red apple: [image: 6 x 6 codes ...... 48 x 48 px]")
    given, drawn = json.loads((out / "sample.json").read_text())["segments"][:2]
    assert given == {"type": "text", "text": "A red apple:", "prompt": True}
    assert (
        Image.open(out / drawn["file"]).size == (48, 48) and drawn["file"] in (out / "index.html").read_text()
    )


def test_inspect_tokens(run, photo_file):
    printed, out = run("inspect_tokens", str(photo_file), "A cat")
    rows = [line.split() for line in printed.splitlines()[1:-1]]
    kinds = [row[1] for row in rows]
    assert kinds == [*["structure"] * 4, *["image"] * 24, "structure", *["text"] * 5, "structure"]
    assert rows[0][0] == str(load_model().tokenizer.vocab.bos)
    assert all(0 <= float(row[-1]) <= 1 for row in rows[1:])
    assert Image.open(out / "probability.png").size == (384, 256) and (out / "index.html").stat().st_size


def test_reconstruct_scan(run):
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    printed, out = run("reconstruct_scan")
    assert "'seven green apples, 32 px' -> 'seven green apples, 32 px'" in printed
    sides = [Image.open(out / f"{name}.png").size for name in ("before", "after", "side-by-side")]
    assert sides == [(448, 288), (448, 288), (904, 288)]


def test_reconstruct_scan_needs_ocr(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(SystemExit, match=r"^cannot use rapidocr .*earlyfusion\[ocr\]"):
        run("reconstruct_scan")


def test_fine_tune(run):
    printed, out = run("fine_tune", "--steps", "2")
    rows = [json.loads(line) for line in (out / "pictures" / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 10 and rows[0] == {"file_name": "Italy.png", "text": "The flag of Italy:"}
    with Image.open(out / "drawn.png") as drawn:  # ten columns of three pictures, twice enlarged
        assert drawn.width > 10 * 96 and drawn.height > 3 * 96 and drawn.getpixel((24, 48)) == (0, 128, 0)
    assert load_model(out / "model").tokenizer.vocab == load_model().tokenizer.vocab


def test_add_modality(run, monkeypatch):
    monkeypatch.setitem(modality.CODECS, "tones", None)  # what the example enters is removed afterwards
    printed, out = run("add_modality", "--steps", "2")
    assert printed.splitlines()[1].startswith("step 1: ")
    assert load_model(out / "model").tokenizer.vocab.names == ("structure", "text", "image", "tones")
    with wave.open(str(out / "scales.wav")) as file:
        assert file.getframerate() == 8000 and file.getnframes() % 1000 == 0 < file.getnframes()
