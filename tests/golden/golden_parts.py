"""What the sections of the golden record share.

A section is a function that runs in an empty working directory and returns its parts: name -> values. A value
is a NumPy array or anything that JSON holds. All paths are relative, so that two records agree.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import golden_adapter as ef
import golden_material as material
import numpy as np
import torch
from PIL import Image

Part = dict[str, Any]
Parts = dict[str, Part]
GREEDY = {"temperature": 0.0}
COOL = {"temperature": 0.6}


def files_of(
    folder: Path, renamed: Mapping[str, str] | None = None, without: Sequence[str] = ()
) -> dict[str, str]:
    """Every file below a folder, with a digest of its content after replacing the keys of ``renamed``."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in without:
            content = path.read_bytes()
            for old, new in (renamed or {}).items():
                content = content.replace(old.encode(), new.encode())
            found[path.relative_to(folder).as_posix()] = digest(content)
    return found


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file; bfloat16 as the integers of its bits."""
    from safetensors.torch import load_file

    found = load_file(path)
    return {
        name: (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
        for name, tensor in sorted(found.items())
    }


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def plain(value: Any) -> Any:
    """Values without the paths of this tree and this run."""
    text = json.dumps(value)
    for path, name in ((str(ef.package_folder()), "TREE"), (str(Path.cwd()), "WORK")):
        text = text.replace(json.dumps(path)[1:-1], name)
    return json.loads(text)


def run_main(*arguments: str) -> list[str]:
    """Run the command in this process. Returns the lines that it prints, without the paths of this run."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = ef.main(list(arguments))
    if code:
        raise RuntimeError(f"earlyfusion {' '.join(arguments)} returned {code}")
    return plain(printed.getvalue().splitlines())


def picture(number: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    return material.drawing(number, size, "RGB")
