"""The section of smaller commands."""

import shlex
from pathlib import Path

import golden_adapter as ef
import golden_material as material
from golden_parts import Parts, files_of, picture, run_main


def commands() -> Parts:
    """The output and files of ``sample``, ``text-tokenizer fit``, ``info``, ``encode`` and ``decode``."""
    parts: Parts = {"commands": {}, "command files": {}}
    material.write_png(Path("picture.png"), picture(3))
    material.write_lines(Path("texts.jsonl"), [{"text": sentence} for sentence in material.SENTENCES * 9])
    for number in range(4):
        material.write_png(Path("pictures") / f"{number}.png", picture(number, (64, 48)))
    model = ef.packaged_model()
    writing = {
        "drawn": "sample --out drawn --n 2 --then image --image-temperature 0.4 'A red apple:'",
        "read": "sample --out read --then text --temperature 0 picture.png",
        "redrawn": "sample --out redrawn --infill 0,0.5,1,1 --best-of 3 'A house:' picture.png",
        "best": "sample --out best --then image --guidance 2 --best-of 2 --best-by both riddle",
        "text": "text-tokenizer fit --input texts.jsonl --vocab-size 300 --out text",
        "codes": f"image-tokenizer encode pictures --model {model} --out codes",
        "decoded": f"image-tokenizer decode codes --model {model} --out decoded",
    }
    for name, line in writing.items():
        parts["commands"][name] = run_main(*shlex.split(line))
        parts["command files"][name] = files_of(Path(name), {str(ef.package_folder()): "TREE"})
    parts["commands"]["info"] = run_main("info", str(model))
    parts["commands"]["info of a tokenizer"] = run_main("info", str(model / "tokenizer" / "image"))
    return parts
