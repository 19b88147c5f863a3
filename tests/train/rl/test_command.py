"""``earlyfusion align fit`` from end to end, and what it refuses in one line."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from earlyfusion.cli.main import main
from earlyfusion.fusion_lm.folder import load_model, save_model
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.tokenizers.documents import DocumentTokenizer


def options(model_folder: Path, tmp_path: Path, **changes: Any) -> list[str]:
    words = tmp_path / "words.txt"
    if not words.exists():
        words.write_text("red\napple\nsmall house\n")
    values = {
        "data.words": words,
        "data.prompts": 2,
        "model.init_from": model_folder,
        "model.samples": 2,
        "model.max_new_tokens": 20,
        "model.decay_fraction": 0,
        "model.rewards": "{well_formed: 1.0, writing_letters: 0.5}",
        "trainer.max_steps": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": tmp_path / "run",
        **{f"judges.{name}": 0 for name in ("every", "words", "strings", "read", "names", "draws")},
        "judges.bits": "false",
        "rollouts.every": 1,
    }
    given = [f"--{name}={value}" for name, value in {**values, **changes}.items()]
    return ["align", "fit", "--config", "align.yaml", *given]


def test_it_trains_and_says_what_it_wrote(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(options(model_folder, tmp_path, **{"trainer.accumulate_grad_batches": 2})) == 0
    run = tmp_path / "run"
    printed = capsys.readouterr().out
    assert f"model: {run / 'model'}" in printed and "earlyfusion sample" in printed
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/reward"]] == ["0", "1"]
    assert float(rows[-1]["train/reward/well_formed"]) >= 0
    assert (run / "rollouts/step-000001.png").stat().st_size > 500 and (run / "report.html").is_file()
    load_model(run / "model")
    assert "holds a run" in _refused(options(model_folder, tmp_path), capsys)
    more = options(model_folder, tmp_path, **{"trainer.max_steps": 3, "trainer.accumulate_grad_batches": 1})
    assert main([*more, "--ckpt_path=last"]) == 0  # in other parts


def test_a_step_in_bfloat16(model_folder: Path, tmp_path: Path):
    """Samples are drawn in float32, the loss is computed in bfloat16."""
    changes = {"trainer.precision": "bf16-mixed", "trainer.max_steps": 1, "model.kl_weight": 0.1}
    assert main(options(model_folder, tmp_path, **changes)) == 0
    with (tmp_path / "run/metrics.csv").open() as file:
        [row] = [row for row in csv.DictReader(file) if row["train/reward"]]
    assert 1e-5 < float(row["train/sampler_gap"]) < 0.1


def _refused(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    assert main(arguments) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("earlyfusion: ")]
    assert len(told) == 1
    return told[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.rewards": "{writting: 1.0}"}, "unknown reward 'writting': did you mean 'writing'"),
        ({"model.rewards": "{writing: 0.0}"}, "writing are all 0"),
        ({"model.rewards": "{nowhere:reward: 1.0}"}, "no module 'nowhere'"),
        ({"data.words": "nowhere.txt"}, "nowhere.txt"),
        ({"data.words": "null"}, "either data.words or data.path"),
        ({"model.samples": "1"}, "samples must be at least 2"),
        ({"model.init_from": "nowhere"}, "nowhere"),
        ({"model.max_new_tokens": "3"}, "no room for image"),
        ({"judges.engines": "[eyes]", "judges.words": "3"}, "unknown OCR engine 'eyes'"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    changes: dict[str, str], expected: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert expected in _refused(options(model_folder, tmp_path, **changes), capsys)
    assert not (tmp_path / "run/model").exists()


def test_a_model_without_pictures_is_refused(
    model_folder: Path, tmp_path: Path, text_tokenizer, vocab, capsys: pytest.CaptureFixture
):
    words = replace(vocab, modalities=vocab.modalities[:1])
    config = replace(FusionLM.read_config(model_folder), vocab_size=words.size)
    save_model(tmp_path / "text", FusionLM(config), DocumentTokenizer(words, text=text_tokenizer))
    told = _refused(options(tmp_path / "text", tmp_path), capsys)
    assert "has no pictures, only text" in told
