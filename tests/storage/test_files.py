import os
from pathlib import Path

import pytest

from earlyfusion.storage.files import (
    atomic_folder,
    fingerprint,
    read_json,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_files_are_written_into_new_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "text", "é\n")
    write_bytes(str(tmp_path / "bytes"), b"\0")
    write_json(tmp_path / "json", {"é": [1, None]})
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "é\n".encode()
    assert read_json(tmp_path / "json", "a test") == {"é": [1, None]}
    assert names(tmp_path) == {"a", "a/b", "a/b/text", "bytes", "json"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == {"file"}


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"psnr": float("inf")})
    assert names(tmp_path) == set()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_read_json_refuses_anything_but_an_object(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is not a config: ") as caught:
        read_json(path, "a config")
    assert "\n" not in str(caught.value)


def test_read_json_of_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (
        tmp_path / "config.json",
        tmp_path / "no" / "config.json",
        tmp_path / "file" / "config.json",
    ):
        with pytest.raises(FileNotFoundError, match=r"config\.json not found.*a config"):
            read_json(path, "a config")
    with pytest.raises(ValueError, match="is not a config"):
        read_json(tmp_path, "a config")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "model"
    with atomic_folder(folder) as temporary:
        write_text(temporary / "sub" / "a", "1")
        assert not folder.exists()
    assert names(tmp_path) == {"runs", "runs/model", "runs/model/sub", "runs/model/sub/a"}


def test_a_failed_block_changes_nothing(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_text(old / "a", "1")
    for folder in (old, new):
        with pytest.raises(RuntimeError), atomic_folder(folder) as temporary:
            write_text(temporary / "a", "2")
            raise RuntimeError
    assert names(tmp_path) == {"old", "old/a"}
    assert (old / "a").read_text() == "1"


def test_an_existing_folder_keeps_what_was_not_written(tmp_path: Path, monkeypatch) -> None:
    write_text(tmp_path / "notes", "mine")
    write_text(tmp_path / "model" / "weights", "old")
    write_text(tmp_path / "model" / "stale", "old")
    write_text(tmp_path / "kind", "a file that becomes a folder")
    write_text(tmp_path / "config" / "x", "a folder that becomes a file")
    monkeypatch.chdir(tmp_path)
    with atomic_folder(".") as temporary:
        for name in ("model/weights", "kind/a", "config"):
            write_text(temporary / name, "new")
    assert names(tmp_path) == {"notes", "model", "model/weights", "kind", "kind/a", "config"}
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert (tmp_path / "notes").read_text() == "mine"
    assert Path.cwd() == tmp_path


def test_folders_nest(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as outer:
        with atomic_folder(outer / "tokenizer") as inner:
            write_text(inner / "vocab.json", "{}")
        write_text(outer / "config.json", "{}")
    assert names(tmp_path / "model") == {"tokenizer", "tokenizer/vocab.json", "config.json"}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "mine")
    with pytest.raises(ValueError, match=r"/file is a file"), atomic_folder(path):
        pass
    assert path.read_text() == "mine"


def test_a_fingerprint_follows_times_or_contents(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_text(tmp_path / folder / "file", "content")
    os.utime(tmp_path / "two" / "file", (1, 1))
    one, two = tmp_path / "one", tmp_path / "two"
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(one, content=True) == fingerprint(two, content=True) != fingerprint(one)
    before = fingerprint(one, None, two)
    write_text(one / ".hidden", "left out")
    write_text(one / "cache-1.arrow", "left out")
    assert fingerprint(one, two) == before != fingerprint(two, one)
    write_text(one / "sub" / "more", "")
    assert fingerprint(one, two) != before
