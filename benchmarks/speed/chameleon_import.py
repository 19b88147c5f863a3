"""Memory and time of importing a model of Chameleon-7B's shape, and its number of parameters.

    .venv/bin/python benchmarks/speed/chameleon_import.py --out runs/chameleon-7b-shape

Writes a folder in the format of transformers, with the shapes of the published 7B in bfloat16, in three
shards (all zeros, in sparse files, which take no disk space), and imports it in a separate process. The
result takes 14 GB of disk and is deleted afterwards. Transformers counts the parameters, too, on the meta
device.
"""

import argparse
import json
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import write_figures

from earlyfusion.fusion_lm.chameleon.vocab import code_name
from earlyfusion.fusion_lm.chameleon.weights import config_to_transformers, parts
from earlyfusion.fusion_lm.model import FusionLMConfig
from earlyfusion.storage.files import write_json

HERE = Path(__file__).parent
SEVEN_B = FusionLMConfig(
    vocab_size=65536, context_length=4096, n_layers=32, width=4096, n_heads=32, n_kv_heads=32, ffn_width=11008
)
CODES = 8192
SHARDS = 3
IMPORT = """
import resource, sys
from earlyfusion.cli.main import main
code = main(["import", "chameleon", sys.argv[1], "--out", sys.argv[2]])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(code)
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/chameleon-7b-shape"), help="working folder")
    parser.add_argument("--json", type=Path, default=HERE / "chameleon_import.json", help="the figures")
    args = parser.parse_args(arguments)
    import transformers

    with torch.device("meta"):
        theirs: Any = transformers.ChameleonForConditionalGeneration(
            transformers.ChameleonConfig(vocabulary_map=names(), vq_config={})
        )
    shapes = {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    wanted = {name for part in parts(SEVEN_B) for name in part.theirs}
    if lacking := wanted - set(shapes):
        raise SystemExit(f"error: the 7B of transformers lacks the tensor {min(lacking)}")
    source, made = args.out / "source", args.out / "model"
    shutil.rmtree(args.out, ignore_errors=True)
    source.mkdir(parents=True)
    size = write_source(source, shapes)
    started = time.perf_counter()
    command = [sys.executable, "-c", IMPORT, str(source), str(made)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr)
    print(run.stdout)
    figures = {
        "parameters": sum(torch.Size(s).numel() for n, s in shapes.items() if n in wanted),
        "parameters with the image tokenizer, counted by transformers": sum(
            p.numel() for p in theirs.parameters()
        ),
        "bytes of the source": size,
        "bytes of the result": sum(f.stat().st_size for f in made.rglob("*") if f.is_file()),
        "peak memory, bytes": int(run.stdout.split("peak ")[1]),
        "seconds": round(time.perf_counter() - started, 1),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    shutil.rmtree(args.out)
    write_figures(args.json, figures)
    print(json.dumps(figures, indent=2))


def names() -> dict[str, int]:
    """A vocabulary of 65,536 names in the order of the published one."""
    found = ["<s>", "<pad>", "</s>", "<unk>", *map(code_name, range(CODES)), "<eoss>", "<racm3:break>"]
    found += [f"t{n}" for n in range(8710 - len(found))] + ["<reserved08706>", "<image>"]
    found += [f"t{n}" for n in range(len(found), SEVEN_B.vocab_size)]
    return {name: number for number, name in enumerate(found)}


def write_source(folder: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Write a folder of transformers with zeros as weights; returns their size in bytes."""
    ids = names()
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    known = ("<s>", "<pad>", "</s>", "<unk>", "<eoss>", "<racm3:break>", "<image>")
    added = [{"id": ids[name], "content": name, **special} for name in known]
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "model": {"type": "BPE", "vocab": ids, "merges": []},
    }
    write_json(folder / "tokenizer.json", tokenizer)
    config = config_to_transformers(SEVEN_B)
    write_json(folder / "config.json", {**config, "vocabulary_map": ids, "vq_config": {"resolution": 512}})
    where: dict[str, str] = {}
    tensors = list(shapes.items())
    per_shard = -(-len(tensors) // SHARDS)
    size = 0
    for number in range(SHARDS):
        file = folder / f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        header: dict[str, Any] = {}
        offset = 0
        for name, shape in tensors[number * per_shard : (number + 1) * per_shard]:
            end = offset + 2 * torch.Size(shape).numel()
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
            where[name], offset = file.name, end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + offset)
        size += offset
    write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where}
    )
    return size


if __name__ == "__main__":
    main()
