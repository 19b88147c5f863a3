"""The command `sample`."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from earlyfusion.cli.main import build_parser, main
from earlyfusion.cli.sampling import MODALITIES, TEXT_ONLY
from earlyfusion.eval.report.page.html import Part
from earlyfusion.eval.report.samples import Sample, printable, write_samples
from earlyfusion.fusion_lm import stream
from earlyfusion.fusion_lm.sampling import Sampling

CONTEXT = 96


def sample(model: Path, out: Path, *argv: str | Path) -> dict:
    assert main(["sample", "--model", str(model), "--out", str(out), *map(str, argv)]) == 0
    return json.loads((out / "sample.json").read_text(encoding="utf-8"))


def test_sample_takes_texts_and_images_in_order(model_folder, photo_file, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    result = sample(model_folder, out, "--then", "image", "A <red> apple:", photo_file, " and", " then")
    assert "written to" in capsys.readouterr().out
    given = [s for s in result["segments"] if s["prompt"]]
    assert [s.get("text", "image") for s in given] == ["A <red> apple:", "image", " and", " then"]
    new = [s for s in result["segments"] if not s["prompt"]]
    assert new[0]["type"] == "image"
    for segment in result["segments"]:
        if segment["type"] == "image":
            with Image.open(out / segment["file"]) as image:
                assert image.format == "PNG" and image.width % 8 == 0 and image.height % 8 == 0
    with Image.open(out / given[1]["file"]) as seen:
        assert seen.size == (48, 32)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "A &lt;red&gt; apple:" in page and 'src="image-1.png"' in page and "://" not in page
    assert sorted(p.name for p in out.parent.iterdir()) == ["out"]


def test_sample_is_reproduced_by_its_seed(model_folder, tmp_path):
    results = [sample(model_folder, tmp_path / str(i), "--seed", seed, "The") for i, seed in enumerate("778")]
    first, again, other = ([s for s in r["segments"] if not s["prompt"]] for r in results)
    assert first == again != other


def test_sample_draws_several_and_starts_from_nothing(model_folder, tmp_path):
    result = sample(model_folder, tmp_path, "--n", "2", "--then", "image", "--max-new-tokens", "40")
    assert len(result["samples"]) == 2 and result["segments"] == result["samples"][0]["segments"]
    files = [s["file"] for one in result["samples"] for s in one["segments"] if s["type"] == "image"]
    assert len(set(files)) == len(files) >= 2
    assert all((tmp_path / name).exists() for name in files)


def test_sample_prints_a_document_as_it_comes(model_folder, tmp_path, capsys, monkeypatch):
    """And keeps what there is when it is interrupted."""
    options = ["--temperature", "1.2"]
    whole = sample(model_folder, tmp_path / "whole", *options, "The")
    lines = capsys.readouterr().out.rsplit("written to", 1)[0]
    told = "".join(s.get("text", " [image] ") for s in whole["segments"])
    assert re.sub(r"\[image \d+ x \d+\]", "[image]", lines).strip() == printable(told).strip()

    real = stream.stream

    def interrupted(*args, **kwargs):
        for number, event in enumerate(real(*args, **kwargs)):
            if number == 5:
                raise KeyboardInterrupt
            yield event

    monkeypatch.setattr(stream, "stream", interrupted)
    part = sample(model_folder, tmp_path / "part", *options, "The")
    assert part["stop"] == "interrupted" and 1 < len(part["segments"]) <= len(whole["segments"])
    start = "".join(s.get("text", "") for s in part["segments"][:2])
    assert len(start) > 3 and "".join(s.get("text", "") for s in whole["segments"][:2]).startswith(start)
    assert "you interrupted it" in (tmp_path / "part" / "index.html").read_text()


def test_sample_takes_prompts_from_a_file_and_finds_a_folder(
    model_folder, tmp_path, monkeypatch, capsys, fails
):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("A red\n\nThe cat\n")
    argv = ["sample", "--model", str(model_folder), "--max-new-tokens", "12"]
    assert main([*argv, "--prompts", "prompts.txt", "--n", "2"]) == 0
    result = json.loads(Path("runs/samples/001/sample.json").read_text())
    texts = [one["segments"][0]["text"] for one in result["samples"]]
    assert texts == ["A red", "A red", "The cat", "The cat"] and result["prompts"] == "prompts.txt"
    told = capsys.readouterr()
    assert "4: The cat" in told.out and Path("runs/samples/001/index.html").resolve().as_uri() in told.out
    assert main([*argv, "A red", "The cat"]) == 0
    assert Path("runs/samples/002/sample.json").exists() and "--prompts" in capsys.readouterr().err
    assert "'A'" in fails(*argv, "--prompts", "prompts.txt", "A")
    assert "--infill" in fails(*argv, "--prompts", "prompts.txt", "--infill", "0,0,1,1")
    assert "prompts.txt" in fails(*argv, "--prompts", "promts.txt")
    assert sorted(path.name for path in Path("runs/samples").iterdir()) == ["001", "002"]


def test_sample_refuses_a_negative_prompt_without_guidance(fails, model_folder):
    line = fails("sample", "--model", model_folder, "--out", "out", "--negative", "blue", "A")
    assert "--negative" in line and "--guidance" in line


def test_sample_guides_images(model_folder, tmp_path):
    argv = ["--then", "image", "--guidance", "4", "--image-guidance", "2", "--negative", "blue"]
    guided = sample(model_folder, tmp_path / "guided", *argv, "A red apple:")
    assert guided["guidance"] == {"text": 4.0, "image": 2.0, "negative": "blue"}
    assert guided["segments"][1]["type"] == "image"


def test_sample_takes_the_most_likely_tokens_at_temperature_0(model_folder, tmp_path):
    greedy = (
        "--temperature",
        "0",
        "--image-temperature",
        "0",
        "--max-new-tokens",
        "12",
        "--then",
        "text",
        "The",
    )
    a, b = (sample(model_folder, tmp_path / seed, "--seed", seed, *greedy) for seed in "12")
    assert a["segments"] == b["segments"]


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([""], "empty"),
        (["", ""], "empty"),
        (["missing.png"], "missing.png"),
        (["broken.png"], "broken.png"),
        (["The cat. " * 200], str(CONTEXT)),
        (["lone \ud800"], "surrogate"),
        (["--temperature", "-1", "A"], "temperature"),
        (["--image-top-p", "2", "A"], "top_p"),
        (["--max-new-tokens", "3", "--then", "image", "A"], "image"),
    ],
)
def test_what_sample_refuses(fails, model_folder, tmp_path, monkeypatch, segments, expected):
    monkeypatch.chdir(tmp_path)
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    assert expected in fails("sample", "--model", model_folder, "--out", "out", *segments)
    assert not Path("out").exists()


def test_sample_needs_a_whole_model(fails, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = fails("sample", "--model", "runs/demo/model", "--out", "out", "A")
    assert "runs/demo/model" in missing
    incomplete = tmp_path / "incomplete"
    shutil.copytree(model_folder, incomplete)
    (incomplete / "tokenizer" / "text.model").unlink()
    assert "text.model" in fails("sample", "--model", incomplete, "--out", "out", "A")
    assert not Path("out").exists()


def test_control_characters_do_not_reach_the_terminal_or_the_page(tmp_path, capsys):
    parts = [Part("a\x1b[31m\0b\n<b>"), Part(Image.new("RGB", (8, 8))), Part([0.5])]
    write_samples(tmp_path / "out", [Sample(parts, "eos")], {"seed": 0})
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "a\ufffd[31m\ufffdb\n&lt;b&gt;" in page
    assert (
        json.loads((tmp_path / "out" / "sample.json").read_text())["segments"][0]["text"]
        == "a\x1b[31m\0b\n<b>"
    )


def test_sample_keeps_the_best_of_several_and_takes_other_weights(model_folder, tmp_path, capsys):
    for weights in ("float32", "bfloat16", "int8"):
        options = ["--model", str(model_folder), "--max-new-tokens", "12", "--weights", weights]
        assert (
            main(
                ["sample", *options, "--n", "2", "--best-of", "3", "--out", str(tmp_path / weights), "A red"]
            )
            == 0
        )
        result = json.loads((tmp_path / weights / "sample.json").read_text())
        assert (result["n"], result["best_of"], result["weights"]) == (2, 3, weights)
        assert len(result["samples"]) == 2
    assert "1: A red" in capsys.readouterr().out


def test_the_best_of_several_both_ways(fails, model_folder, tmp_path, capsys):
    options = ["--model", str(model_folder), "--max-new-tokens", "12", "--best-by", "both"]
    assert main(["sample", *options, "--best-of", "3", "--out", str(tmp_path / "out"), "A red"]) == 0
    assert json.loads((tmp_path / "out/sample.json").read_text())["best_by"] == "both"
    capsys.readouterr()
    out = str(tmp_path / "no")
    assert "--best-of" in fails("sample", *options, "--out", out, "A red")
    assert "prompt" in fails("sample", *options, "--best-of", "2", "--out", out)


def test_sample_redraws_a_region(fails, model_folder, photo_file, tmp_path, capsys):
    options = ["--model", str(model_folder), "--infill", "0,0.5,1,1", "--out", str(tmp_path / "out")]
    assert main(["sample", *options, "--n", "2", "--best-of", "2", "A red apple:", str(photo_file)]) == 0
    result = json.loads((tmp_path / "out" / "sample.json").read_text())
    for one in result["samples"]:
        assert [s["type"] for s in one["segments"]] == ["text", "image"] and not one["segments"][1]["prompt"]
        assert Image.open(tmp_path / "out" / one["segments"][1]["file"]).size == (48, 32)
    capsys.readouterr()
    no = ("--out", tmp_path / "no")
    assert "image" in fails("sample", *options[:4], *no, "no image")
    assert "'1,2'" in fails("sample", *options[:2], "--infill", "1,2", *no, photo_file)


def test_the_flags_of_sampling_are_those_of_every_modality():
    """And say the defaults of ``Sampling``."""
    flags = {a.dest: a for a in build_parser().commands.choices["sample"]._actions}
    for modality in MODALITIES:
        prefix = "" if modality == "text" else f"{modality}_"
        for field in fields(Sampling):
            if modality == "text" or field.name not in TEXT_ONLY:
                flag = flags[prefix + field.name]
                assert flag.default is None and re.search(rf"default: {field.default:g}\b", flag.help or "")


def test_a_model_of_text_alone_writes_text(model_folder, photo_file, tmp_path, capsys):
    model = tmp_path / "text"
    shutil.copytree(model_folder, model)
    path = model / "tokenizer" / "vocab.json"
    vocab = json.loads(path.read_text(encoding="utf-8"))
    vocab["modalities"] = [one for one in vocab["modalities"] if one["name"] != "image"]
    path.write_text(json.dumps(vocab), encoding="utf-8")
    result = sample(model, tmp_path / "out", "--max-new-tokens=8", "A")
    assert [s["type"] for s in result["segments"]][:1] == ["text"]
    capsys.readouterr()
    for command in (["sample", str(photo_file), "--out", str(tmp_path / "no"), "--model"], ["playground"]):
        assert main([*command, str(model)]) == 2
        assert "image" in (said := capsys.readouterr().err).lower() and said.count("\n") == 1
