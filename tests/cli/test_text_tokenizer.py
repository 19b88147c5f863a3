"""``earlyfusion text-tokenizer fit``."""

from earlyfusion.cli.main import main
from earlyfusion.data.reading.text_corpus import read_texts


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
