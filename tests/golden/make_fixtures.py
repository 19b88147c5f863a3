"""How tests/golden/fixtures and expected.json were written, by the commit that expected.json names.

But for the case "talks, balanced": conversations that cannot be used are not repeated any more.

    python tests/golden/make_fixtures.py --tree ../before/earlyfusion

They test that later commits read what that one wrote: run this with that commit, or not at all.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import record


def main() -> int:
    """Write the fixtures and what is expected of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tree", type=Path, help="the checkout, or the folder that it is in")
    parser.add_argument("--keep", action="store_true", help="keep the fixtures, write only expected.json")
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)  # in the tree's own process
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golden-") as scratch:
        if args.write:
            print(record.check_tree())
            return write(Path(scratch), args.keep)
        if args.tree is None:
            parser.error("give --tree")
        _, environment = record.alone(args.tree.resolve(), scratch)
        command = [sys.executable, str(Path(__file__).resolve()), "--write"]
        command += ["--keep"] if args.keep else []
        return subprocess.run(command, env=environment).returncode


def write(work: Path, keep: bool) -> int:
    """Write the fixtures, unless ``keep``, and expected.json."""
    import golden_fixtures as fixtures
    import torch

    torch.set_num_threads(1)
    if not keep:
        shutil.rmtree(fixtures.FOLDER, ignore_errors=True)
        fixtures.FOLDER.mkdir()
    (work / "out").mkdir()
    (work / "again").mkdir()
    with fixtures.within(fixtures.FOLDER), warnings.catch_warnings(action="ignore"):
        if not keep:
            with contextlib.redirect_stdout(io.StringIO()):
                _write_fixtures(work)
        shutil.copyfile("lm.ckpt", work / "again" / "last.ckpt")
        fixtures.train_lm(work / "again")
    values = fixtures.plain(fixtures.expected(work / "out"))
    values["losses after resuming"] = fixtures.losses_of(work / "again")
    commit = record.commit_of(Path(os.environ["GOLDEN_TREE"]))
    fixtures.EXPECTED.write_text(_in_lines({"written by": commit, **values}), encoding="utf-8")
    return 0


def _write_fixtures(work: Path) -> None:
    """Write them into the working directory."""
    import golden_adapter as ef
    import golden_fixtures as fixtures
    import golden_material as material
    import torch

    fixtures.write_data(Path("data"))
    material.same_times(Path("data"))
    text = ef.TextTokenizer.train(material.SENTENCES * 20, vocab_size=300, threads=1)
    images = material.fill(ef.ImageTokenizer(ef.ImageConfig(**fixtures.IMAGE)), scale=0.3).eval()
    pictures = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(0)
    ef.initialize_codebook(images, pictures)
    vocab = ef.Vocab.build(text=text, codebook_size=fixtures.CODES, max_grid=8, separator=True)
    lm = material.network_of(vocab, **fixtures.LM)
    ef.save_model("model", lm, ef.document_tokenizer(text, images, vocab))
    common = {"model": "model", "context_length": fixtures.CONTEXT, "validation_share": 0.25, "shard_rows": 4}
    ef.prepare({**common, "documents": "data/pairs", "out": "prepared", "order": "both"})
    ef.prepare({**common, "documents": "data/talks/talks.jsonl", "out": "talks"})
    for name, train in (("lm", fixtures.train_lm), ("image_tokenizer", fixtures.train_image_tokenizer)):
        with contextlib.suppress(KeyboardInterrupt):
            train(work / name, fixtures.stop_at(fixtures.STOPPED + 1))
        shutil.copyfile(work / name / "last.ckpt", f"{name}.ckpt")


def _in_lines(values: dict[str, Any]) -> str:
    """JSON with one line for each entry of each section, for readable diffs."""

    def lines(value: Any) -> str:
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(key)}: {json.dumps(one)}" for key, one in value.items())
            return f"{{\n{inner}\n }}"
        if isinstance(value, list):
            inner = ",\n".join(f"  {json.dumps(one)}" for one in value)
            return f"[\n{inner}\n ]"
        return json.dumps(value)

    inner = ",\n".join(f" {json.dumps(key)}: {lines(value)}" for key, value in values.items())
    return f"{{\n{inner}\n}}\n"


if __name__ == "__main__":
    sys.exit(main())
