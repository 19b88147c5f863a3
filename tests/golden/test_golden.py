"""Files from an earlier commit can be read, and given codes and texts become the same tokens as then.

That commit is named in expected.json (see make_fixtures.py). Nothing here depends on the machine: a rule
turns images into codes. `record.py` compares everything else, on one machine.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import golden_adapter as ef
import golden_fixtures as fixtures
import numpy as np
import pytest
import record
import torch
from golden_parts import tensors_of

EXPECTED = json.loads(fixtures.EXPECTED.read_text(encoding="utf-8"))
MODEL = fixtures.FOLDER / "model"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` converts into the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def laid_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the working directory, that holds the fixtures' data, tokenizers and model."""
    folder = tmp_path / "work"
    folder.mkdir()
    fixtures.lay_out(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("shape", fixtures.SHAPES)
def test_layouts_of_vocabularies(shape: str) -> None:
    assert fixtures.plain(fixtures.expected_layout(shape)) == EXPECTED["layouts"][shape]


def test_documents_of_given_codes() -> None:
    assert {shape for shape, _, _ in EXPECTED["documents"]} == set(fixtures.SHAPES)
    for shape, parts, tokens in EXPECTED["documents"]:
        assert fixtures.tokens_of_given(shape, parts) == tokens, (shape, parts)


def test_ids_of_texts() -> None:
    text = fixtures.text_tokenizer()
    for written, ids in EXPECTED["texts"]:
        assert list(text.encode(written)) == ids and text.decode(ids) == written


@pytest.mark.parametrize("part", EXPECTED["windows"])
def test_a_prepared_folder_is_read(part: str) -> None:
    """As windows, and as documents in the vocabulary of the folder."""
    found = fixtures.windows_of(fixtures.FOLDER / part)
    assert found == EXPECTED["windows"][part]
    assert ("learned" in found) == part.startswith("talks")
    vocab = ef.Vocab.load(fixtures.FOLDER / Path(part).parent / "tokenizer")
    kinds: set[str] = set()
    for tokens, numbers in zip(found["tokens"], found["documents"], strict=True):
        for number in sorted(set(numbers)):
            document = [token for token, other in zip(tokens, numbers) if other == number]
            if document[0] != vocab.pad:
                kinds |= {kind for kind, _ in ef.split(torch.tensor(document), vocab)}
    assert kinds == {"text", "image"}


@pytest.mark.parametrize("name", EXPECTED["shards"])
def test_prepared_windows(name: str, laid_out: Path) -> None:
    found, wanted = fixtures.plain(fixtures.expected_shards(name)), EXPECTED["shards"][name]
    for key in wanted:
        assert found[key] == wanted[key], key


def test_a_model_is_read_and_writes() -> None:
    """Its greedy continuations of texts, images and conversations are documents."""
    model = ef.load_model(MODEL)
    tokenizer, vocab = model.tokenizer, model.tokenizer.vocab
    assert json.loads((MODEL / "tokenizer" / "vocab.json").read_text())["format"] == 1
    picture = fixtures.one_color(3, (12, 8))
    prompts: list[list[Any]] = [
        [],
        ["A red"],
        [picture],
        ["a", ef.END_OF_TURN, "b", picture, ef.END_OF_TURN],
    ]
    encoded = [ef.encode(tokenizer, prompt, eos=False) for prompt in prompts]
    greedy = {"temperature": 0.0}
    for then in ("any", "text", "image"):
        options = {"max_new_tokens": 12, "then": then, "grid": (2, 2), "text": greedy, "image": greedy}
        for prompt, row in zip(encoded, ef.generate(model.lm, vocab, encoded, **options), strict=True):
            assert row["tokens"][: len(prompt)] == prompt.tolist() and row["prompt_length"] == len(prompt)
            assert len(row["tokens"]) > len(prompt) and np.isfinite(row["log_likelihood"])
            parts = ef.split(torch.tensor(row["tokens"]), vocab, partial="drop")
            images = [values for kind, values in parts if kind == "image"]
            assert all(int(codes.max()) < fixtures.CODES for codes in images)
            if then == "image":
                assert list(images[-1].shape) == [2, 2]
    [document] = ef.sample(model, [["A red"]], then="image", stop_after_image=True, grid=(2, 3))
    assert document[-1].size == (12, 8)


def test_a_model_is_written_as_it_was(tmp_path: Path) -> None:
    """The fields of its configs, though there may be more by now, and its tensors to the bit."""
    found, wanted = fixtures.plain(fixtures.expected_saved(tmp_path)), EXPECTED["saved"]
    assert set(wanted) == set(found)
    for name in wanted:
        if name.endswith("config.json"):
            assert wanted[name].items() <= found[name].items(), name
        else:
            assert found[name] == wanted[name], name
    for part in ("", "tokenizer/image/"):
        first, second = (
            tensors_of(folder / f"{part}model.safetensors") for folder in (MODEL, tmp_path / "saved")
        )
        assert all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.parametrize("name", ["lm", "image_tokenizer"])
def test_a_checkpoint_resumes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the step where it was stopped to the end."""
    monkeypatch.chdir(fixtures.FOLDER)
    run = tmp_path / "run"
    run.mkdir()
    checkpoint = fixtures.FOLDER / f"{name}.ckpt"
    _, step = ef.read_checkpoint(checkpoint)
    assert step == fixtures.STOPPED
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    shutil.copyfile(checkpoint, run / "last.ckpt")
    began: dict[str, torch.Tensor] = {}
    train = {"lm": fixtures.train_lm, "image_tokenizer": fixtures.train_image_tokenizer}[name]
    train(run, fixtures.remember(began))
    assert began and all(torch.equal(began[key], stored[key]) for key in began)
    assert ef.read_checkpoint(run / "last.ckpt")[1] == 4
    ended = torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    assert set(ended) == set(stored)
    assert any(not torch.equal(ended[key], stored[key]) for key in stored)
    if name == "lm":
        wanted = EXPECTED["losses after resuming"]
        assert fixtures.losses_of(run) == pytest.approx(wanted, rel=1e-3)  # digits that all machines share
        assert ef.load_model(run / "model").lm.config == ef.load_model(MODEL).lm.config
    else:
        assert ef.ImageTokenizer.load(run / "model").codebook_size == fixtures.CODES


def test_other_settings_than_the_checkpoints_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fixtures.FOLDER)
    (tmp_path / "run").mkdir()
    shutil.copyfile(fixtures.FOLDER / "lm.ckpt", tmp_path / "run" / "last.ckpt")
    monkeypatch.setitem(fixtures.LM_SETTINGS, "lr", 2e-2)
    with pytest.raises(ValueError, match="trained with lr=0.01, now it is 0.02"):
        fixtures.train_lm(tmp_path / "run")


# the record itself


def write_record(folder: Path, **arrays: np.ndarray) -> Path:
    """Write a record of one section."""
    folder.mkdir()
    about = {"tree": "x", "sections": {"documents": {"commit": "y", "failed": False}}}
    (folder / "about.json").write_text(json.dumps(about))
    record.write_part(folder / "documents--scores", {**arrays, "one": {"tokens": [1, 2, 3]}})
    return folder


def compare(a: Path, b: Path, tolerance: float = 0.0) -> int:
    return record.compare(a, b, tolerance, ["documents"])


def test_records_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ones = np.ones(3, np.float32)
    a = write_record(tmp_path / "a", x=ones)
    same = write_record(tmp_path / "same", x=ones)
    near = write_record(tmp_path / "near", x=ones + np.array([0, 1e-6, 0], np.float32))
    more = write_record(tmp_path / "more", x=ones, y=ones)
    plus, minus = (write_record(tmp_path / name, x=zero * ones) for name, zero in (("+", 0.0), ("-", -0.0)))
    assert compare(a, same) == 0
    assert "exact" in capsys.readouterr().out
    assert compare(a, near) == 1
    assert "x: 1 of 3 differ, first at [1]: 1.0 and 1.00000" in capsys.readouterr().out
    assert compare(a, near, tolerance=1e-5) == 0
    assert "within 1e-05, at most" in capsys.readouterr().out
    assert compare(plus, minus) == 1
    assert "x: equal numbers of other bits" in capsys.readouterr().out
    assert compare(a, more, tolerance=1) == 1
    assert "y: only in B" in capsys.readouterr().out
    about = json.loads((same / "about.json").read_text())
    (same / "about.json").write_text(
        json.dumps({**about, "sections": {"documents": {"commit": "y", "failed": True}}})
    )
    assert compare(a, same) == 1
    assert record.compare(a, a) == 1  # the other sections are missing


def test_tokens_have_no_tolerance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_record(tmp_path / "a"), write_record(tmp_path / "b")
    record.write_part(b / "documents--scores", {"one": {"tokens": [1, 2, 4]}})
    assert compare(a, b, tolerance=10) == 1
    assert "one/tokens: lengths 3 and 3, first at 2: 3 and 4" in capsys.readouterr().out


def test_the_adapter_finds_every_name() -> None:
    assert ef.rebuilt() and all(getattr(ef, name) is not None for name in ef.PATHS)
    assert ef.get("tokenizers.vocab:SharedVocab", "nowhere:SharedVocab") is ef.Vocab
