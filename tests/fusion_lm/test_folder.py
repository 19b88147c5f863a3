import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from earlyfusion.fusion_lm.folder import load_model, save_model
from earlyfusion.fusion_lm.model import FusionLM
from earlyfusion.tokenizers.documents import DocumentTokenizer
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab

FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/text.model",
    "tokenizer/image/config.json",
    "tokenizer/image/model.safetensors",
}


@pytest.fixture
def lm(build, vocab) -> FusionLM:
    return build(vocab_size=vocab.size, n_layers=1)


@pytest.fixture
def folder(lm: FusionLM, document_tokenizer: DocumentTokenizer, tmp_path: Path) -> Path:
    save_model(tmp_path / "runs" / "model", lm, document_tokenizer)
    return tmp_path / "runs" / "model"


def test_a_model_folder_holds_everything(folder: Path, lm: FusionLM, document_tokenizer, photo) -> None:
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == FILES
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    loaded, tokenizer = load_model(str(folder))
    assert not loaded.training and not tokenizer.image.training
    tokens = document_tokenizer.encode(["A red apple:", photo]).tokens
    assert torch.equal(tokenizer.encode(["A red apple:", photo]).tokens, tokens)
    with torch.no_grad():
        assert torch.equal(loaded(tokens[None]), lm(tokens[None]))


def test_saving_again_replaces_the_model_and_nothing_else(folder: Path, build, document_tokenizer) -> None:
    (folder / "README.md").write_text("my notes")
    other = build(seed=1, vocab_size=document_tokenizer.vocab.size, n_layers=2)
    save_model(folder, other, document_tokenizer)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == FILES | {"README.md"}
    assert torch.equal(load_model(folder).lm.embedding.weight, other.embedding.weight)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(folder / name))):
        load_model(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\0 damaged")
    with pytest.raises(ValueError, match=re.escape(str(folder / name))) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_an_image_tokenizer_is_no_model(folder: Path) -> None:
    with pytest.raises(ValueError, match="'image_tokenizer'.*'fusion_lm'"):
        load_model(folder / "tokenizer" / "image")


def another_codebook(folder: Path, tokenizer: DocumentTokenizer) -> None:
    config = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, codebook_size=8, codebook_dim=4)
    ImageTokenizer(config).save(folder / "tokenizer" / "image")


def another_text(folder: Path, tokenizer: DocumentTokenizer) -> None:
    TextTokenizer.train(["other words"] * 9, vocab_size=280, threads=1).save(folder / "tokenizer")


def another_vocabulary(folder: Path, tokenizer: DocumentTokenizer) -> None:
    SharedVocab.build(text=tokenizer.text, codebook_size=32, max_grid=20).save(folder / "tokenizer")


def another_everything(folder: Path, tokenizer: DocumentTokenizer) -> None:
    another_codebook(folder, tokenizer)
    SharedVocab.build(text=tokenizer.text, codebook_size=8, max_grid=16).save(folder / "tokenizer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_codebook, r"image.*\b8\b.*\b32\b"),
        (another_text, "text"),
        (another_vocabulary, r"transformer.*\d+ tokens.*vocabulary.*\d+"),
        (another_everything, r"transformer.*\d+ tokens.*vocabulary.*\d+"),
    ],
)
def test_parts_of_other_models_are_refused(folder: Path, document_tokenizer, change, message: str) -> None:
    change(folder, document_tokenizer)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


def test_what_does_not_fit_is_not_saved(build, document_tokenizer: DocumentTokenizer, tmp_path: Path) -> None:
    size = document_tokenizer.vocab.size
    with pytest.raises(ValueError, match=f"transformer.*{size + 1} tokens.*vocabulary.*{size}"):
        save_model(tmp_path / "model", build(vocab_size=size + 1), document_tokenizer)
    assert not list(tmp_path.iterdir())


def test_a_failing_save_leaves_the_old_model(
    folder: Path, lm: FusionLM, document_tokenizer, monkeypatch
) -> None:
    def fails(self, path) -> None:
        raise OSError(28, "No space left on device")

    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    monkeypatch.setattr(TextTokenizer, "save", fails)
    for target in (folder, folder.parent / "other"):
        with pytest.raises(OSError, match="No space left"):
            save_model(target, lm, document_tokenizer)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_copied_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    shutil.rmtree(folder)
    assert json.loads((copy / "config.json").read_text())["kind"] == "fusion_lm"
    load_model(copy, device=torch.device("cpu"))


def test_half_precision_saves_space_and_is_computed_with_in_full(
    lm: FusionLM, document_tokenizer: DocumentTokenizer, tmp_path: Path
) -> None:
    save_model(tmp_path / "full", lm, document_tokenizer)
    save_model(tmp_path / "half", lm.half(), document_tokenizer)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_model(tmp_path / "half").lm
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(tokens), load_model(tmp_path / "full").lm(tokens), rtol=1e-2, atol=1e-2
        )
