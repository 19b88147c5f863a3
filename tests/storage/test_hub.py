"""Folders of the Hub, without a network: downloads come from its cache, uploads go to a folder."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest

from earlyfusion.storage.hub import PRETRAINED, local_folder, nearest, push
from earlyfusion.storage.results import MADE


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache, in its layout, with one model; and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--somebody--model"
    snapshot = model / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    return snapshot


def test_a_folder_is_taken_before_the_hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert local_folder("somebody/model", ("*.json",)) == cache
    Path("somebody/model").mkdir(parents=True)
    assert local_folder("somebody/model") == Path("somebody/model")
    assert local_folder("nowhere") == Path("nowhere")  # not a Hub name: the reader reports it
    assert local_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert local_folder("openmoji-words") == PRETRAINED
    assert "openmoji-words" in nearest("opnmoji-word") and "somebody" in nearest("sombody")
    Path("openmoji-words").mkdir()
    assert local_folder("openmoji-words") == Path("openmoji-words")


def test_a_name_that_the_hub_does_not_give(cache: Path):
    with pytest.raises(FileNotFoundError, match=r"somebody/other.*Hugging Face Hub"):
        local_folder("somebody/other")


def test_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    class Hub:
        """Keeps uploads in a folder."""

        def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
            asked.append((name, private, exist_ok))

        def upload_folder(self, repo_id: str, folder_path: Path, ignore_patterns: str) -> str:
            if repo_id == "somebody/closed":
                raise OSError("403\nForbidden")
            ignored = shutil.ignore_patterns(ignore_patterns)
            shutil.copytree(folder_path, tmp_path / "there" / repo_id, ignore=ignored)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / MADE).write_text("{}")
    assert push(tmp_path / "model", "somebody/mine") == "https://hub/somebody/mine"
    assert asked == [("somebody/mine", True, True)]
    assert (tmp_path / "there" / "somebody" / "mine" / "config.json").read_text() == "{}"
    assert not (tmp_path / "there" / "somebody" / "mine" / MADE).exists()
    with pytest.raises(ValueError, match=r"somebody/closed.*403 Forbidden"):
        push(tmp_path / "model", "somebody/closed")
    with pytest.raises(ValueError, match=r"'mine'.*owner/name"):
        push(tmp_path / "model", "mine")
