"""The command `sample`."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from earlyfusion.cli.main import main
from earlyfusion.cli.sample import is_image
from earlyfusion.eval.report.html import Part
from earlyfusion.eval.report.samples import Sample, write_samples

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
    assert "A &lt;red&gt; apple:" in page and 'src="image-1.png"' in page and "http" not in page
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
    from earlyfusion.cli import sample as module

    options = ["--temperature", "1.2"]
    whole = sample(model_folder, tmp_path / "whole", *options, "The")
    lines = capsys.readouterr().out.rsplit("written to", 1)[0]
    told = "".join(s.get("text", " [image] ") for s in whole["segments"])
    assert re.sub(r"\[image \d+ x \d+\]", "[image]", lines).strip() == module.printable(told).strip()

    real = module.stream

    def interrupted(*args, **kwargs):
        for number, event in enumerate(real(*args, **kwargs)):
            if number == 5:
                raise KeyboardInterrupt
            yield event

    monkeypatch.setattr(module, "stream", interrupted)
    part = sample(model_folder, tmp_path / "part", *options, "The")
    assert part["stop"] == "interrupted" and 1 < len(part["segments"]) <= len(whole["segments"])
    start = "".join(s.get("text", "") for s in part["segments"][:2])
    assert len(start) > 3 and "".join(s.get("text", "") for s in whole["segments"][:2]).startswith(start)
    assert "you interrupted it" in (tmp_path / "part" / "index.html").read_text()


@pytest.mark.parametrize(
    ("environment", "begins", "ends"),
    [
        ({"KITTY_WINDOW_ID": "1"}, "\x1b_Ga=T,f=100,m=1;", "\x1b\\"),
        ({"TERM_PROGRAM": "iTerm.app"}, "\x1b]1337;File=inline=1;size=", "\a"),
        ({"TERM_PROGRAM": "xterm"}, "", ""),
    ],
)
def test_images_in_terminals(monkeypatch, environment, begins, ends):
    from earlyfusion.cli.sample import inline_image

    noise = Image.effect_noise((128, 128), 90).convert("RGB")
    for name in ("KITTY_WINDOW_ID", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert inline_image(noise) == ""  # no terminal
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = inline_image(noise)
    assert shown.startswith(begins) and shown.endswith(ends) and bool(shown) is bool(begins)
    if "KITTY_WINDOW_ID" in environment:
        data = "".join(part.split(";", 1)[1] for part in shown.split("\x1b\\")[:-1])
        with Image.open(io.BytesIO(base64.b64decode(data))) as again:
            assert again.tobytes() == noise.tobytes()


def test_sample_refuses_a_negative_prompt_without_guidance(fails, model_folder):
    line = fails("sample", "--model", model_folder, "--out", "out", "--negative", "blue", "A")
    assert "--negative is what guidance leads away from: give --guidance too" in line


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


def test_segments_that_are_images(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo.save("photo", "PNG")
    Path("notes").write_text("text")
    assert is_image("photo") and is_image("missing.png") and is_image("a photo.JPG")
    assert (
        not is_image("notes")
        and not is_image("A red apple:")
        and not is_image(".")
        and not is_image("x" * 5000)
    )
    assert not is_image("nul\0") and not is_image("")


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([""], "the prompt is empty"),
        (["", ""], "the prompt is empty"),
        (["missing.png"], "missing.png not found"),
        (["broken.png"], "broken.png cannot be read as an image"),
        (["The cat. " * 200], f"context holds {CONTEXT}"),
        (["lone \ud800"], "surrogate"),
        (["--temperature", "-1", "A"], "temperature"),
        (["--max-new-tokens", "3", "--then", "image", "A"], "no room for an image"),
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
    assert "`earlyfusion demo` makes one" in missing
    incomplete = tmp_path / "incomplete"
    shutil.copytree(model_folder, incomplete)
    (incomplete / "tokenizer" / "text.model").unlink()
    assert "text.model not found" in fails("sample", "--model", incomplete, "--out", "out", "A")
    assert not Path("out").exists()


def test_control_characters_do_not_reach_the_terminal_or_the_page(tmp_path, capsys):
    parts = [Part("a\x1b[31m\0b\n<b>"), Part(Image.new("RGB", (8, 8)))]
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
    assert "give --best-of, such as 8" in fails("sample", *options, "--out", out, "A red")
    assert "give a prompt" in fails("sample", *options, "--best-of", "2", "--out", out)


def test_sample_draws_a_region_anew(fails, model_folder, photo_file, tmp_path, capsys):
    options = ["--model", str(model_folder), "--infill", "0,0.5,1,1", "--out", str(tmp_path / "out")]
    assert main(["sample", *options, "--n", "2", "--best-of", "2", "A red apple:", str(photo_file)]) == 0
    result = json.loads((tmp_path / "out" / "sample.json").read_text())
    for one in result["samples"]:
        assert [s["type"] for s in one["segments"]] == ["text", "image"] and not one["segments"][1]["prompt"]
        assert Image.open(tmp_path / "out" / one["segments"][1]["file"]).size == (48, 32)
    capsys.readouterr()
    assert main(["sample", *options, "no image"]) == 2
    assert "must end with the image of which a region" in capsys.readouterr().err
    assert (
        main(["sample", *options[:2], "--infill", "1,2", "--out", str(tmp_path / "no"), str(photo_file)]) == 2
    )
    assert "invalid box value: '1,2'" in capsys.readouterr().err
