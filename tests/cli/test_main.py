import io
import json
import shutil
import subprocess
import sys

import pytest

from earlyfusion.cli import info as folders
from earlyfusion.cli.main import EXTRAS, explain, main
from earlyfusion.cli.options import build_parser, for_lightning, sub_commands
from earlyfusion.data.text_corpus import read_texts
from earlyfusion.train.loop.trainables import TRAINABLES

CONTEXT = 96


def python(code: str, **environment: str) -> str:
    """The output of `code` in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment or None
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# help and mistakes


def test_every_help_is_quick_and_imports_nothing_heavy():
    lines = [
        "",
        "demo",
        "text-tokenizer",
        "text-tokenizer fit",
        "text-images",
        "prepare",
        "sample",
        "info",
        "eval",
        "image-tokenizer",
        "recognizer",
        "lm",
    ]
    lines += [f"eval {what}" for what in ("reconstruction", "reading", "writing")]
    lines += [f"image-tokenizer {what}" for what in ("encode", "decode", "import")]
    code = f"""
import sys, time
from earlyfusion.cli.main import main
for line in {lines!r}:
    try:
        assert main([*line.split(), "--help"]) == 0
    except SystemExit as exit:
        assert exit.code == 0
assert main(["--version"]) == 0
heavy = {{"torch", "lightning", "numpy", "PIL", "datasets", "rich", "sentencepiece"}} & set(sys.modules)
assert not heavy, heavy
print(time.process_time())
"""
    output = python(code)
    assert float(output.splitlines()[-1]) < 2  # CPU seconds of all together, whatever else this machine does
    for word in (
        "earlyfusion sample",
        "--budget",
        "metadata.jsonl",
        "fit,validate,predict",
        "--vocab-size",
    ):
        assert word in output


def test_no_command_prints_help_and_is_a_mistake(capsys):
    assert main([]) == 2
    assert "text-tokenizer" in capsys.readouterr().err


def test_an_unknown_command_lists_the_commands(fails):
    line = fails("smaple")
    assert "'smaple'" in line
    for command in (*sub_commands(build_parser()), *TRAINABLES):
        assert command in line


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("demo --budget huge", "'huge'"),
        ("demo --buget quick", "--buget"),
        ("lm fti", "'fti'"),
        ("image-tokenizer encod", "expected one of: fit, validate, predict, encode, decode, import"),
        ("image-tokenizer encode x --out y", "--model"),
        ("image-tokenizer decode x --model m --out y --tile 0", "--tile"),
        ("image-tokenizer import", "CHECKPOINT"),
        ("recognizer predict", "expected one of: fit, validate"),
        ("text-images", "--out"),
        ("eval reconstruction m --out x --suite poems", "'poems'"),
        ("eval reconstruction m --out x --per-kind 0", "--per-kind"),
        ("eval", "reconstruction,reading,writing"),
        ("eval reding x", "'reding'"),
        ("eval reading model", "--out"),
        ("sample A", "--out"),
        ("sample A --out x B", "segments stand together: 'B'"),
        ("sample A --out x --n 0", "--n"),
        ("sample A --out x --the image", "--the"),
        ("text-tokenizer fit --input x --out y", "--vocab-size"),
        ("info", "FOLDER"),
    ],
)
def test_a_mistaken_option_is_one_line_that_names_the_help(fails, argv, expected):
    line = fails(*argv.split())
    assert expected in line
    if "expected one of: fit" not in line:
        assert f"`earlyfusion {argv.split()[0]}" in line and "--help`" in line


def test_the_options_of_the_reconstruction_bench():
    parse = build_parser().parse_args
    args = parse("eval reconstruction m --out x".split())
    assert (args.suite, args.kinds, args.per_kind, args.ceilings, args.sheet) == (
        "words",
        None,
        40,
        True,
        None,
    )
    assert args.lpips_weights is None and args.fid_weights is None
    args = parse("eval reconstruction m --out x --suite ocr --kinds word,line --no-ceilings".split())
    assert (args.suite, args.kinds, args.ceilings) == ("ocr", ["word", "line"], False)
    args = parse("eval reconstruction m --out x --suite openmoji --per-kind 12 --sheet s.png".split())
    assert (args.suite, args.per_kind, args.sheet) == ("openmoji", 12, "s.png")


def test_lightning_gets_its_own_commands_alone():
    assert for_lightning(["image-tokenizer", "fit"]) and for_lightning(["image-tokenizer"])
    assert for_lightning(["recognizer", "validate", "--config", "x"]) and for_lightning(["lm", "encode"])
    assert not for_lightning(["image-tokenizer", "encode", "x"]) and not for_lightning([])
    assert not for_lightning(["sample", "fit"])


def test_interrupting_is_one_line(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "info", interrupted)
    assert main(["info", "x"]) == 130
    assert capsys.readouterr().err == "earlyfusion: interrupted\n"


def test_debugging_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setenv("EARLYFUSION_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["info", str(tmp_path / "nothing")])


@pytest.mark.parametrize(("extra", "module"), [(e, m) for e, modules in EXTRAS.items() for m in modules])
def test_a_missing_extra_is_named(extra, module):
    error = ModuleNotFoundError(f"No module named '{module}.sub'", name=f"{module}.sub")
    assert f"pip install 'earlyfusion[{extra}]'" in explain(error)


def test_errors_become_one_line(tmp_path):
    assert explain(ValueError("first\n  second\n")) == "first second"
    assert explain(ValueError()) == "ValueError"
    assert explain(PermissionError(13, "Permission denied", "/x/y")) == "/x/y: Permission denied"


def test_malloc_is_tuned_where_glibc_is_and_the_user_has_no_settings():
    module = "earlyfusion.train.loop.process"
    code = f"import sys; from {module} import tune_malloc as f; print(f(), 'torch' in sys.modules)"
    expected = python("import platform; print(platform.libc_ver()[0] == 'glibc', False)")
    assert python(code, PATH="") == expected
    assert python(code, PATH="", MALLOC_MMAP_MAX_="5") == "False False\n"


# info


def test_info_tells_what_a_folder_is(model_folder, text_tokenizer, tmp_path, capsys):
    text_tokenizer.save(tmp_path)
    for folder, words in {
        model_folder: ("a model", "1 layers, width 32", f"{CONTEXT} tokens", "begin_image 3", "VQ-VAE"),
        model_folder / "tokenizer": ("a document tokenizer", "begin_image 3", "sentencepiece", "VQ-VAE"),
        model_folder / "tokenizer" / "image": (
            "an image tokenizer",
            "8 x 8 pixels per code, 32 codes of width 4",
        ),
        tmp_path: ("a text tokenizer", f"{text_tokenizer.vocab_size} pieces"),
    }.items():
        assert main(["info", str(folder)]) == 0
        output = capsys.readouterr().out
        assert all(word in output for word in words), output


def test_info_counts_the_parameters_without_torch(model_folder):
    code = f"""
import sys
from earlyfusion.cli.main import main
assert main(["info", {str(model_folder)!r}]) == 0
assert "torch" not in sys.modules
"""
    from earlyfusion.fusion_lm.folder import load_model

    model, _ = load_model(model_folder)
    count = sum(p.numel() for p in model.parameters())
    assert f"{count / 1000:.1f} k parameters (F32)" in python(code)


def test_info_refuses_other_folders(fails, model_folder, tmp_path):
    assert "not found" in fails("info", tmp_path / "nothing")
    assert "has no config.json" in fails("info", tmp_path)
    assert "perhaps" in fails("info", model_folder.parent)
    (tmp_path / "config.json").write_text('{"kind": "sofa"}')
    assert "'sofa'" in fails("info", tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "fusion_lm"}')
    assert "lacks the field" in fails("info", tmp_path)
    incomplete = tmp_path / "incomplete"
    shutil.copytree(model_folder, incomplete)
    (incomplete / "model.safetensors").unlink()
    assert "model.safetensors not found" in fails("info", incomplete)
    (incomplete / "model.safetensors").write_bytes(b"nothing")
    assert "no readable safetensors file" in fails("info", incomplete)


# text-tokenizer


def test_text_tokenizer_fit_reads_lines_and_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "a.txt").write_text("The cat sees a bird.\n\nThe bird sees the cat.\n" * 20, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"caption": "a red apple"}\n' * 3)
    assert list(read_texts(tmp_path / "b.jsonl", "caption")) == ["a red apple"] * 3
    argv = ["text-tokenizer", "fit", "--input", str(tmp_path / "a.txt"), "--vocab-size", "290"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert "40 texts, 840 characters -> 290 pieces" in capsys.readouterr().out
    assert (tmp_path / "out" / "text.model").stat().st_size > 1000


def test_what_text_tokenizer_fit_refuses(fails, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "a.txt").write_text("The cat sees a bird.\n")
    (tmp_path / "latin.txt").write_bytes("gr\xfcn\n".encode("latin-1"))
    (tmp_path / "n.jsonl").write_text('{"text": 1}\n')

    def fit(name: str, *more: str) -> str:
        argv = (
            "text-tokenizer",
            "fit",
            "--input",
            tmp_path / name,
            "--out",
            tmp_path / "out",
            "--vocab-size",
        )
        return fails(*argv, *(more or ("300",)))

    assert "not found" in fit("missing.txt")
    assert "not UTF-8" in fit("latin.txt")
    assert "no column 'caption'" in fit("n.jsonl", "300", "--column", "caption")
    assert "expected a string" in fit("n.jsonl")
    assert "raise vocab_size" in fit("a.txt", "100")
    assert not (tmp_path / "out").exists()


# eval


def test_eval_passes_its_options_on(model_folder, photo, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for name in "abc":
        photo.save(images / f"{name}.png")
    out = tmp_path / "r.json"
    argv = [
        "eval",
        "reconstruction",
        str(model_folder),
        "--images",
        str(images),
        "--limit",
        "2",
        "--out",
        str(out),
    ]
    assert main(argv) == 0
    result = json.loads(out.read_text())
    assert result["images"] == 2 and {"psnr", "ssim", "l1", "mse", "codebook_usage", "bits_per_pixel"} <= set(
        result
    )
    assert "PSNR" in capsys.readouterr().out


def test_eval_refuses_before_it_works(fails, model_folder, tmp_path):
    nothing = tmp_path / "nothing"
    for what in ("reconstruction", "reading", "writing"):
        assert str(nothing) in fails("eval", what, nothing, "--out", tmp_path / "r.json")
    assert "folder" in fails(
        "eval", "reading", model_folder, "--images", nothing, "--out", tmp_path / "r.json"
    )
    assert "not found" in fails(
        "eval", "writing", model_folder, "--words", nothing, "--out", tmp_path / "r.json"
    )
    assert not (tmp_path / "r.json").exists()


def test_output_that_a_terminal_cannot_show_is_escaped(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert (
        main(
            [
                "sample",
                "--model",
                str(model_folder),
                "--out",
                str(tmp_path / "o"),
                "--max-new-tokens",
                "1",
                "\xfc",
            ]
        )
        == 0
    )
