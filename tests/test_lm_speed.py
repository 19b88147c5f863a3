# pyright: reportMissingImports=false
"""The two networks that benchmarks/lm_speed.py compares are the same; how fast they are is no test."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from earlyfusion.fusion_lm.loss import IGNORE

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(BENCHMARKS)  # it takes two functions from the script beside it
    spec = importlib.util.spec_from_file_location("lm_speed", BENCHMARKS / "lm_speed.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lm_speed", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def threads():
    """The script sets torch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def batches(speed: ModuleType) -> tuple[list, list, list]:
    """Ours packed, theirs padded, theirs of alike lengths, of the same 400 documents."""
    rng = np.random.default_rng(0)
    documents = speed.documents_of(rng.integers(3, 60, 400), 256, rng)
    packed = speed.packed(documents, 64, 4, 3, rng)
    return packed, *(speed.padded(documents, 4 * 64, 3, rng, grouped) for grouped in (False, True))


def test_both_networks_are_the_same(speed: ModuleType, capsys) -> None:
    args = speed.parser().parse_args(["--size", "tiny"])
    pair = speed.networks(speed.SIZES["tiny"], args)
    packed, padded, _ = batches(speed)
    row = speed.Row("padded", (packed, padded))
    found = speed.compare(pair, row, args)
    assert found["gradient"] < 1e-5 and abs(found["losses"][0] - found["losses"][1]) < 1e-5
    with torch.no_grad():
        pair[0].net.blocks[1].attention.k_norm.bias[0] += 0.3
    with pytest.raises(SystemExit, match="not the same networks"):
        speed.compare(pair, row, args)


def test_a_step_of_either_holds_alike_many_tokens(speed: ModuleType) -> None:
    packed, padded, grouped = batches(speed)
    for batch in packed:
        tokens, documents, targets = (batch.inputs[name] for name in ("tokens", "documents", "targets"))
        assert batch.useful == (tokens != speed.PAD).sum() > 0.9 * 4 * 64
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
    assert speed.useful_share(padded) < 0.8
    assert speed.useful_share(packed) > 0.9 and speed.useful_share(grouped) > 0.9


def test_it_prints_and_writes_every_figure(speed: ModuleType, tmp_path: Path, capsys) -> None:
    out = tmp_path / "speed.json"
    command = ["--size", "tiny", "--runs", "2", "--steps", "1", "--threads", "1", "--out", str(out)]
    assert speed.main([*command, "--documents"]) == 0
    result = json.loads(out.read_text())
    [row] = result["results"]
    assert row["name"] == "equal" and len(row["ours"]) == len(row["theirs"]) == 2 and row["ratio"] > 0
    assert result["parameters"][0] == result["parameters"][1] and result["threads"] == 1
    assert speed.main([*command, "--what", "rate"]) == 0
    result = json.loads(out.read_text())
    assert 0 < result["share"] < 1 and len(result["matrix_rate"]) == 2
    assert "T operations/s" in capsys.readouterr().out
