"""The benchmark script runs. What it measures is no test: a busy machine is not a mistake."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from earlyfusion.fusion_lm.folder import save_model
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "speed.py"
TINY = ["--repeats", "2", "--seconds", "0.001", "--size", "16", "--images", "2", "--windows", "1"]


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def threads():
    """The script sets torch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_prints_and_writes_every_figure(speed: ModuleType, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "speed.json"
    assert speed.main([*TINY, "--budget", "quick", "--threads", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert [(r["name"].split(",")[0], r["unit"]) for r in result["results"]] == [
        ("encode", "images/s"),
        ("decode", "images/s"),
        ("sample", "tokens/s"),
        ("sample", "tokens/s"),
        ("train", "tokens/s"),
    ]
    for row in result["results"]:
        assert len(row["runs"]) == 2 and 0 < row["least"] <= row["median"] <= row["most"]
        assert row["name"] in printed and row["unit"] in printed
    assert result["threads"] == 1 and result["torch"] == torch.__version__
    for name in ("machine", "torch", "commit", "system"):
        assert result[name] and str(result[name]) in printed


def test_it_takes_a_model_folder(speed: ModuleType, document_tokenizer, tmp_path: Path, capsys) -> None:
    size = document_tokenizer.vocab.size
    lm = FusionLM(FusionLMConfig(size, 32, n_layers=1, width=16, n_heads=2, n_kv_heads=1, ffn_width=16))
    save_model(tmp_path / "model", lm, document_tokenizer)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert speed.main([*TINY, "--model", str(tmp_path / "model")]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "model") in printed
    assert "5 x 5 codes" in printed  # what fits into a context of 32
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_windows_are_packed_documents(speed: ModuleType, vocab) -> None:
    tokens, documents = speed.windows(vocab, 3, 40)
    assert tokens.shape == documents.shape == (3, 40)
    assert (tokens == vocab.bos).sum() == documents.unique().numel()
    assert torch.equal(documents.flatten().sort().values, documents.flatten())
