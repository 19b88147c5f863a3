"""The OpenMoji benchmark: its training data, and a run of a few steps."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from PIL import Image

from earlyfusion.data.render.openmoji import concepts, render_drawing
from earlyfusion.data.render.split import demo_concepts
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig


@pytest.fixture
def openmoji64(script) -> ModuleType:
    return script("studies/tokenizer/openmoji64.py")


def test_what_is_measured_is_neither_trained_on_nor_validated(openmoji64: ModuleType):
    split = openmoji64.picture_concepts()
    parts = [demo_concepts().held_out, split.train, split.held_out]
    stems = [openmoji64.drawings(part) for part in parts]
    assert [len(part) for part in parts][::2] == [30, 60] and len(stems[1]) > 3500
    assert len({stem for some in stems for stem in some}) == sum(map(len, stems))  # no drawing in two of them
    everything = {drawing for concept in concepts(None) for drawing in concept.drawings}
    assert everything == {stem for some in stems for stem in some}


def test_its_network_is_the_presets(openmoji64: ModuleType):
    config = openmoji64.network(4096)
    assert (config.channels, config.res_blocks, config.codebook_size) == ((128, 256), 2, 4096)
    assert (config.quantizer, config.factor) == ("cosine", 8)


def test_a_run_of_a_few_steps(
    openmoji64: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    few = [*demo_concepts().held_out[:3], *demo_concepts().train[:40]]
    monkeypatch.setattr(openmoji64, "concepts", lambda blocks: few)
    monkeypatch.setattr(openmoji64, "VALIDATION_CONCEPTS", 4)
    tiny = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=16, codebook_dim=4)
    monkeypatch.setattr(openmoji64, "network", lambda codebook_size: tiny)
    monkeypatch.setattr(openmoji64, "SETTINGS", {"kmeans_latents": 256, "text_weight": 0.0})
    files = ["--json", str(tmp_path / "new/r.json"), "--sheet", str(tmp_path / "new/sheet.png")]
    out = ["--out", str(tmp_path / "out"), *files, "--threads", "1", "--batch", "4", "--per-kind", "5"]
    assert openmoji64.main([*out, "--steps", "10", "--shown", "2"]) == 0
    folder = tmp_path / "out/pictures"
    parts: dict[str, Any] = {part: load_from_disk(str(folder / part)) for part in ("train", "validation")}
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 36, "validation": 4}
    pictures = {row["image"].convert("RGB").tobytes() for rows in parts.values() for row in rows}
    assert len(pictures) == 40
    assert not pictures & {render_drawing(c.drawings[0], 64).tobytes() for c in demo_concepts().held_out}

    result = json.loads((tmp_path / "new/r.json").read_text())
    assert (result["images"], result["tokens_per_image"], result["bits_per_pixel"]) == (5, 64, 4 / 64)
    assert {"downscale", "jpeg"} <= set(result["ceilings"]) and "ocr" not in result
    assert result["training_pictures"]["images"] == 36
    assert result["psnr_of_each"]["standard_error"] > 0
    assert (result["training"]["steps"], result["training"]["batch"]) == (10, 4)
    assert result["training"]["seconds"] >= 0
    with Image.open(tmp_path / "new/sheet.png") as image:
        assert image.width > 1000
    assert "text not measured" in capsys.readouterr().out

    weights = ImageTokenizer.load(tmp_path / "out/run/model").state_dict()
    # The training is finished: the same command only measures again.
    assert openmoji64.main([*out, "--steps", "10", "--shown", "2"]) == 0
    again = ImageTokenizer.load(tmp_path / "out/run/model").state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert {**json.loads((tmp_path / "new/r.json").read_text()), "training": 0} == {**result, "training": 0}
    with pytest.raises(ValueError, match="start a new run"):
        openmoji64.main([*out, "--steps", "30"])
