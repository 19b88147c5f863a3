# pyright: reportMissingImports=false
"""Speed scripts: figures are printed and stored, and both sides compute the same. Speed is not tested."""

import json
import re
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from earlyfusion.fusion_lm.folder import save_model
from earlyfusion.fusion_lm.loss import IGNORE
from earlyfusion.fusion_lm.model import FusionLM, FusionLMConfig

TINY = ["--repeats", "2", "--seconds", "0.001", "--size", "16", "--images", "2", "--windows", "1"]


@pytest.fixture
def overview(script) -> ModuleType:
    return script("speed/overview.py")


@pytest.fixture
def training(script) -> ModuleType:
    pytest.importorskip("transformers")
    return script("speed/training.py")


def test_the_overview_prints_and_writes_every_figure(overview, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "overview.json"
    assert overview.main([*TINY, "--budget", "quick", "--threads", "1", "--out", str(out)]) == 0
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


def test_the_overview_takes_a_model_folder(overview, document_tokenizer, tmp_path: Path, capsys) -> None:
    size = document_tokenizer.vocab.size
    lm = FusionLM(FusionLMConfig(size, 32, n_layers=1, width=16, n_heads=2, n_kv_heads=1, ffn_width=16))
    save_model(tmp_path / "model", lm, document_tokenizer)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert overview.main([*TINY, "--model", str(tmp_path / "model")]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "model") in printed
    assert "5 x 5 codes" in printed  # what fits into a context of 32
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_windows_are_packed_documents(overview, vocab) -> None:
    tokens, documents = overview.windows(vocab, 3, 40)
    assert tokens.shape == documents.shape == (3, 40)
    assert (tokens == vocab.bos).sum() == documents.unique().numel()
    assert torch.equal(documents.flatten().sort().values, documents.flatten())


def batches(training: ModuleType) -> tuple[list, list, list]:
    """Ours packed, theirs padded, theirs of similar lengths, of the same 400 documents."""
    rng = np.random.default_rng(0)
    documents = training.documents_of(rng.integers(3, 60, 400), 256, rng)
    packed = training.packed(documents, 64, 4, 3, rng)
    return packed, *(training.padded(documents, 4 * 64, 3, rng, grouped) for grouped in (False, True))


def test_both_networks_are_the_same(training: ModuleType, capsys) -> None:
    args = training.parser().parse_args(["--size", "tiny"])
    pair = training.networks(training.SIZES["tiny"], args)
    packed, padded, _ = batches(training)
    row = training.Row("padded", (packed, padded))
    found = training.compare(pair, row, args)
    assert found["gradient"] < 1e-5 and abs(found["losses"][0] - found["losses"][1]) < 1e-5
    with torch.no_grad():
        pair[0].net.blocks[1].attention.k_norm.bias[0] += 0.3
    with pytest.raises(SystemExit, match="differ"):
        training.compare(pair, row, args)


def test_a_step_of_either_holds_equally_many_tokens(training: ModuleType) -> None:
    packed, padded, grouped = batches(training)
    for batch in packed:
        tokens, documents, targets = (batch.inputs[name] for name in ("tokens", "documents", "targets"))
        assert batch.useful == (tokens != training.PAD).sum() > 0.9 * 4 * 64
        border = documents.diff(dim=1) != 0
        assert (targets[:, :-1][border] == IGNORE).all()
        counted = targets[:, :-1] != IGNORE
        assert torch.equal(targets[:, :-1][counted], tokens[:, 1:][counted])
    for batch in [*padded, *grouped]:
        inputs = batch.inputs
        assert torch.equal(inputs["labels"] == IGNORE, inputs["attention_mask"] == 0)
        assert batch.useful == inputs["attention_mask"].sum()
        assert len(inputs["input_ids"]) == len(padded[0].inputs["input_ids"])
    assert abs(len(padded[0].inputs["input_ids"]) * 31 - 4 * 64) < 32  # 31 tokens are the mean
    assert training.useful_share(padded) < 0.8
    assert training.useful_share(packed) > 0.9 and training.useful_share(grouped) > 0.9


def test_training_prints_and_writes_every_figure(training: ModuleType, tmp_path: Path, capsys) -> None:
    out = tmp_path / "speed.json"
    command = ["--size", "tiny", "--runs", "2", "--steps", "1", "--threads", "1", "--out", str(out)]
    assert training.main([*command, "--documents"]) == 0
    result = json.loads(out.read_text())
    [row] = result["results"]
    assert row["name"] == "equal" and len(row["ours"]) == len(row["theirs"]) == 2 and row["ratio"] > 0
    assert result["parameters"][0] == result["parameters"][1] and result["threads"] == 1
    assert training.main([*command, "--what", "rate"]) == 0
    result = json.loads(out.read_text())
    assert 0 < result["share"] < 1 and len(result["matrix_rate"]) == 2
    assert "T operations/s" in capsys.readouterr().out


def test_figures_of_an_idle_machine_stay(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, file = script("speed/machine.py"), tmp_path / "speed.json"
    monkeypatch.delenv(machine.FORCE, raising=False)

    def write(load: float, value: int) -> None:
        monkeypatch.setattr(machine, "LOAD_AT_START", load)
        machine.write_figures(file, {"value": value})

    def found() -> tuple[int, float]:
        stored = json.loads(file.read_text())
        assert {"machine", "cpus", "load", "threads", "commit", "torch"} < set(stored)
        return stored["value"], stored["load"]

    write(7.5, 1)  # the first figures, whatever the load
    write(9.0, 2)
    write(0.25, 3)
    assert found() == (3, 0.25)
    with pytest.raises(ValueError, match=r"load of 7\.5"):
        write(7.5, 4)
    assert found() == (3, 0.25)
    monkeypatch.setenv(machine.FORCE, "1")
    write(7.5, 5)
    assert found() == (5, 7.5)
    monkeypatch.delenv(machine.FORCE)
    file.write_text(json.dumps({"cpus": 10_000, "value": 6}))
    with pytest.raises(ValueError, match="10000 CPUs"):
        write(0.25, 7)


def test_counts_and_qualities_may_be_overwritten(script, tmp_path: Path, monkeypatch) -> None:
    machine, file = script("speed/machine.py"), tmp_path / "figures.json"
    monkeypatch.delenv(machine.FORCE, raising=False)
    for load in (0.25, 7.5):
        monkeypatch.setattr(machine, "LOAD_AT_START", load)
        machine.write_figures(file, {"value": load}, timed=False)
    assert json.loads(file.read_text())["load"] == 7.5


def test_scripts_write_with_their_conditions(script) -> None:
    folder = Path(script("speed/machine.py").__file__).parents[1]
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"write_(json|text)\(args\.(out|json)|args\.(out|json)\.write", text), path
        if path.parent.name == "speed" and path.name != "machine.py" and "--out" in text:
            assert "write_figures(" in text, path


def test_a_rehearsal_runs_what_needs_a_gpu(script, tmp_path: Path, monkeypatch) -> None:
    gpu, out = script("speed/gpu.py"), tmp_path / "gpu.json"

    def fails(*_: object) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    def hangs(*_: object) -> None:
        time.sleep(60)

    monkeypatch.setitem(gpu.PARTS, "device", (fails, 30))
    monkeypatch.setitem(gpu.PARTS, "compiled", (hangs, 0.2))  # a rehearsal compiles nothing
    assert gpu.main(["--rehearse", "--out", str(out)]) == 1
    rows = {row["part"]: row for row in json.loads(out.read_text())["results"]}
    assert list(rows) == list(gpu.PARTS)
    errors = {name: row["error"] for name, row in rows.items() if "error" in row}
    assert errors == {"device": "RuntimeError: CUDA out of memory.", "compiled": "took longer than 0 s"}
    assert rows["flex"]["flex_float32"]["output"] < 1e-5
    assert rows["training"]["documents"]["mfu"] > 0 and rows["decoding"]["batch_1"]["share_of_bandwidth"] > 0


def test_the_table_takes_the_faster_type_of_each_side(script) -> None:
    bench = script("speed/bench.py")
    ours = {"float32": [1.0, 9.0, 2.0], "bfloat16": [3.0, 3.0, 3.0]}
    row = bench.row_of(bench.Line("x", "tokens/s", ours, {"float32": [4.0], "bfloat16": [1.0]}))
    assert row["ours_best"] == (3.0, "bfloat16") and row["theirs_best"] == (4.0, "float32")
    assert row["ratio"] == 0.75


def test_lengths_drawn_from_the_stored_quantiles_are_those_of_the_demo(training: ModuleType) -> None:
    found = training.stored_lengths(512, np.random.default_rng(0))
    stored = json.loads(Path(str(training.__file__)).with_suffix(".json").read_text())["lengths"]
    [demo] = stored.values()
    assert len(found) == demo["documents"] and abs(found.mean() / demo["mean"] - 1) < 0.05
    assert abs(np.median(found) - demo["50 %"]) <= 1


def test_attention_by_products_is_compared_in_every_kind_of_window(script, tmp_path: Path, capsys) -> None:
    attention = script("speed/attention.py")
    out = tmp_path / "attention.json"
    assert attention.main(["--tiny", "--runs", "2", "--threads", "1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["results"]
    assert [row["document"] for row in rows] == [None, 30, 150]
    assert all(len(row["flash"]) == len(row["products"]) == 2 for row in rows)
    assert capsys.readouterr().out.count("1, 2, 1, 80, 8") == 3
