"""``earlyfusion info``."""

import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from earlyfusion.cli.checkpoint_header import read_header
from earlyfusion.cli.info import KINDS, describe
from earlyfusion.cli.main import main
from earlyfusion.fusion_lm.folder import load_model
from earlyfusion.fusion_lm.model import KIND as MODEL
from earlyfusion.storage.hub import PRETRAINED
from earlyfusion.tokenizers.image import KIND as IMAGE
from earlyfusion.train.image.recognizer import KIND as RECOGNIZER

CONTEXT = 96


def test_info_tells_what_a_folder_is(model_folder, text_tokenizer, tmp_path, capsys):
    text_tokenizer.save(tmp_path)
    for folder, words in {
        model_folder: ("a model, format 1", "1 layers, width 32", f"{CONTEXT} tokens", "VQ-VAE"),
        model_folder / "tokenizer": ("a document tokenizer", "format ", "sentencepiece", "VQ-VAE"),
        model_folder / "tokenizer" / "image": (
            "an image tokenizer, format",
            "8 x 8 pixels per code, 32 codes of width 4",
        ),
        tmp_path: ("a text tokenizer", f"{text_tokenizer.vocab_size} pieces"),
    }.items():
        assert main(["info", str(folder)]) == 0
        output = capsys.readouterr().out
        assert all(word in output for word in words), output


def test_every_kind_of_network_is_known():
    assert {MODEL, IMAGE, RECOGNIZER} <= set(KINDS)


def test_info_counts_the_parameters_without_torch(model_folder):
    code = f"""
import sys
from earlyfusion.cli.main import main
assert main(["info", {str(model_folder)!r}]) == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, _ = load_model(model_folder)
    count = sum(p.numel() for p in model.parameters())
    assert f"{count / 1000:.1f} k parameters (F32)" in done.stdout


def checkpoint(path: Path) -> Path:
    """As Lightning writes it, with the settings that this project's trainings have."""
    settings = {"config": {"n_layers": 2}, "lr": 0.1, "max_steps": 9}
    weights = {"embedding": torch.zeros(3), "lora": torch.nn.Parameter(torch.ones(2))}
    torch.save(
        {
            "global_step": 7,
            "pytorch-lightning_version": "2.6.0",
            "hyper_parameters": settings,
            "state_dict": weights,
            "callbacks": {"seconds": torch.float16},
        },
        path,
    )
    return path


def test_info_tells_the_step_and_format_of_a_checkpoint(model_folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    lines = describe(checkpoint(run / "last.ckpt"))
    text = "\n".join(lines)
    assert "a checkpoint" in text and "7 of 9" in text and "a transformer" in text and "2.6.0" in text
    shutil.copytree(model_folder, run / "model")
    text = "\n".join(describe(run))
    assert "a training run" in text and "7 of 9" in text and f"{CONTEXT} tokens" in text
    (run / "metrics.csv").write_text("step,train/loss,train/lr,validation/loss\n3,2.5,0.1,\n7,1.25,0.1,1.5\n")
    text = "\n".join(describe(run))
    assert "loss 1.25 (step 7)" in text and "loss 1.5 (step 7)" in text and "0.1" not in text
    (run / "last.ckpt").unlink()
    assert "a training run" in describe(run)[0] and "loss 1.25" in "\n".join(describe(run))
    shards = tmp_path / "sharded.ckpt"
    shards.mkdir()
    checkpoint(shards / "meta.pt")
    assert "7 of 9" in "\n".join(describe(shards))


def test_info_tells_of_a_demo(model_folder, tmp_path):
    (tmp_path / "stages.json").write_text(json.dumps({"corpus": {"done": True}, "report": {"seconds": 1}}))
    results = {"drawing": {"named": 3, "items": 4}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    shutil.copytree(model_folder, tmp_path / "model")
    text = "\n".join(describe(tmp_path))
    assert "corpus" in text and "report" not in text and "3 of 4" in text and f"{CONTEXT} tokens" in text
    assert describe(PRETRAINED)[1:] and main(["info", PRETRAINED.name]) == 0


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    with zipfile.ZipFile(tmp_path / "bad.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"global_step": 1, "callbacks": Bad()}))
    assert read_header(tmp_path / "bad.ckpt")["global_step"] == 1
    assert not (tmp_path / "touched").exists()


def test_info_tells_of_prepared_windows_and_codes(model_folder, tmp_path):
    windows = tmp_path / "tokens"
    shutil.copytree(model_folder / "tokenizer", windows / "tokenizer")
    counts = {"windows": 12, "tokens": {"text": 30, "image": 40, "structure": 5}}
    (windows / "prepare.json").write_text(json.dumps({"context_length": 64, "train": counts}))
    text = "\n".join(describe(windows))
    assert "prepared windows" in text and "64 tokens" in text and "12 windows" in text and "40 image" in text
    assert "format" in text and "sentencepiece" in text
    codes = tmp_path / "codes"
    codes.mkdir()
    (codes / "codes.json").write_text(json.dumps({"format": 1, "tokenizer": "abc", "codebook_size": 32}))
    assert "abc, 32 codes" in "\n".join(describe(codes))


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04"])
def test_what_is_no_checkpoint(fails, tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    assert "x.ckpt" in fails("info", tmp_path / "x.ckpt")


def test_info_refuses_other_folders(fails, model_folder, tmp_path):
    assert "nothing" in fails("info", tmp_path / "nothing")
    assert "config.json" in fails("info", tmp_path)
    assert f"{model_folder}?" in fails("info", model_folder.parent)
    (tmp_path / "config.json").write_text('{"kind": "sofa"}')
    assert "'sofa'" in fails("info", tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "fusion_lm"}')
    assert "model.safetensors" in fails("info", tmp_path)
    incomplete = tmp_path / "incomplete"
    shutil.copytree(model_folder, incomplete)
    (incomplete / "model.safetensors").unlink()
    assert "model.safetensors not found" in fails("info", incomplete)
    (incomplete / "model.safetensors").write_bytes(b"nothing")
    assert "model.safetensors" in fails("info", incomplete)
