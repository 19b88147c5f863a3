"""Other commands."""

from pathlib import Path

import golden_adapter as ef
import golden_material as material
from golden_parts import Parts, files_of, picture, run_main


def commands(work: Path) -> Parts:
    """What the smaller commands write."""
    parts: Parts = {"commands": {}, "command files": {}}
    printed, files = parts["commands"], parts["command files"]
    material.write_png(Path("picture.png"), picture(3))
    material.write_lines(Path("texts.jsonl"), [{"text": sentence} for sentence in material.SENTENCES * 9])
    drawn = [
        "sample",
        "--out",
        "drawn",
        "--n",
        "2",
        "--then",
        "image",
        "--image-temperature",
        "0.4",
        "A red apple:",
    ]
    read = ["sample", "--out", "read", "--then", "text", "--temperature", "0", "picture.png"]
    anew = ["sample", "--out", "anew", "--infill", "0,0.5,1,1", "--best-of", "3", "A house:", "picture.png"]
    best = [
        "sample",
        "--out",
        "best",
        "--then",
        "image",
        "--guidance",
        "2",
        "--best-of",
        "2",
        "--best-by",
        "both",
    ]
    fit = ["text-tokenizer", "fit", "--input", "texts.jsonl", "--vocab-size", "300", "--out", "text"]
    cases = {"drawn": drawn, "read": read, "anew": anew, "best": [*best, "riddle"], "text": fit}
    for name, arguments in cases.items():
        printed[name] = run_main(*arguments)
        files[name] = files_of(Path(name), {str(ef.package_folder()): "TREE"})
    printed["info"] = run_main("info", str(ef.packaged_model()))
    printed["info of a tokenizer"] = run_main("info", str(ef.packaged_model() / "tokenizer" / "image"))
    Path("pictures").mkdir()
    for number in range(4):
        material.write_png(Path("pictures") / f"{number}.png", picture(number, (64, 48)))
    model = str(ef.packaged_model())
    codes = ["image-tokenizer", "encode", "pictures", "--model", model, "--out", "codes"]
    back = ["image-tokenizer", "decode", "codes", "--model", model, "--out", "decoded"]
    for name, arguments in (("codes", codes), ("decoded", back)):
        printed[name] = run_main(*arguments)
        files[name] = files_of(Path(name), {str(ef.package_folder()): "TREE"})
    return parts
