"""Which files a data set consists of."""

import os
from pathlib import Path
from typing import Any

import pytest

from earlyfusion.data.reading.listing import list_files


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def read(folder: Path, **options) -> list[str]:
    """Names of the files with rows, or else of the pictures."""
    listing = list_files(folder, **options)
    files = [file.path for file in listing.files] or list(listing.pictures)
    return [str(file.relative_to(folder)) for file in files]


def test_no_word_in_a_name_means_anything(tmp_path: Path):
    """`datasets` takes food, dev, test and others for kinds and parts."""
    names = [
        "food.jsonl",
        "music.csv",
        "test-drive.parquet",
        "web-dev-forum.jsonl",
        "[a]*?.txt",
        "x.jsonl.gz",
    ]
    assert read(make(tmp_path, *names)) == sorted(names)


def test_parts_are_folders_or_names_of_the_hub(tmp_path: Path):
    folders = make(tmp_path / "a", "train/1.jsonl", "val/2.jsonl", "README.md")
    assert read(folders) == ["train/1.jsonl"]
    assert read(folders, part="validation") == ["val/2.jsonl"]
    assert ("val/2.jsonl", "part validation") in list_files(folders).unread
    with pytest.raises(ValueError, match="train, validation.*'test'"):
        list_files(folders, "test")
    hub = make(tmp_path / "b", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    assert read(hub, part="test") == ["data/test-00000-of-00001.parquet"]
    assert read(make(tmp_path / "c", "train/1.jsonl", "birds/2.jsonl")) == ["birds/2.jsonl", "train/1.jsonl"]
    assert read(make(tmp_path / "d", "train/1.png"), part="validation") == ["train/1.png"]  # the only one


def test_what_is_not_read_is_named(tmp_path: Path):
    folder = make(tmp_path, "a.jsonl", ".hidden/b.jsonl", "c.bin", "LICENSE.txt", "__MACOSX/._a.jsonl")
    listing = list_files(folder)
    assert read(folder) == ["a.jsonl"]
    assert dict(listing.unread) == {
        ".hidden/b.jsonl": "hidden",
        "__MACOSX/._a.jsonl": "hidden",
        "c.bin": "unknown ending '.bin'",
        "LICENSE.txt": "about the data",
    }


@pytest.mark.parametrize(
    ("names", "odd"),
    [
        (["a.png", "metadata.jsonl", "stories.jsonl"], "stories.jsonl"),
        (["a.png", "a.txt", "notes.txt"], "notes.txt"),
        (["a.jsonl", "song.mp3"], "song.mp3"),
        (["a.jsonl", "page.html"], "page.html"),
    ],
)
def test_files_that_look_like_content_are_not_left_out_silently(tmp_path: Path, names, odd):
    make(tmp_path, *names)
    with pytest.raises(ValueError, match=rf"{odd}.*ignore: \[{odd}\]"):
        list_files(tmp_path)
    assert (odd, "ignored") in list_files(tmp_path, ignore=[odd]).unread


def test_pictures_are_rows_unless_rows_name_them(tmp_path: Path):
    alone = make(tmp_path / "a", "sub/1.png", "2.JPG", "2.txt", "metadata.csv")
    listing = list_files(alone)
    assert read(alone) == ["2.JPG", "sub/1.png"] and [file.name for file in listing.metadata] == [
        "metadata.csv"
    ]
    assert [file.name for file in listing.sidecars] == ["2.txt"]
    named = make(tmp_path / "b", "images/1.png", "rows.jsonl")
    assert read(named) == ["rows.jsonl"]


def test_the_statistics_of_img2dataset_are_not_rows(tmp_path: Path):
    folder = make(tmp_path / "a", "00000.tar", "00000.parquet", "00000_stats.json")
    assert read(folder) == ["00000.tar"]
    assert [why for _, why in list_files(folder).unread] == ["statistics that img2dataset wrote"] * 2
    folder = make(tmp_path / "b", "00000/0.jpg", "00000/0.txt", "00000.parquet", "00000_stats.json")
    assert read(folder) == ["00000/0.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    make(tmp_path / "real", "1.png", "2.png")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "once").symlink_to(tmp_path / "real")
    (folder / "twice").symlink_to(tmp_path / "real")
    (folder / "again").symlink_to(folder)
    assert read(folder) == ["once/1.png", "once/2.png", "twice/1.png", "twice/2.png"]


def test_only_pictures_are_read_through_links_that_leave_the_folder(tmp_path: Path):
    """A link in an archive of a stranger may lead to any file of the machine."""
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0")
    make(tmp_path / "real", "1.png", "2.png")
    for name in ("a.txt", "b.jsonl", "pics/1.txt", "metadata.csv", "c.csv.gz"):
        about_pictures = name in ("pics/1.txt", "metadata.csv")
        folder = make(tmp_path / f"with {Path(name).name}", "in/1.png" if about_pictures else "in/a.jsonl")
        (folder / "linked").symlink_to("../real")
        make(folder, "pics/1.png")
        assert len(list_files(folder).pictures) == (4 if about_pictures else 0)
        (folder / name).symlink_to(secret)
        with pytest.raises(ValueError) as raised:
            list_files(folder)
        assert f"links to {name} leave" in str(raised.value) and "follow_links: true" in str(raised.value)
        allowed: list[tuple[dict[str, Any], bool]] = [
            ({"follow_links": True}, True),
            ({"ignore": [Path(name).name]}, False),
        ]
        for options, read_it in allowed:
            found = {Path(os.path.realpath(file)) for file in list_files(folder, **options).all_files()}
            assert (secret in found) == read_it
    away = make(tmp_path / "away", "a.jsonl")
    (tmp_path / "link").symlink_to(away)
    assert read(tmp_path / "link") == ["a.jsonl"]  # the user named the link
    (away / "more").symlink_to(make(tmp_path / "others", "b.jsonl"))
    with pytest.raises(ValueError, match="links to more/b.jsonl leave"):
        list_files(tmp_path / "link")


def test_links_into_the_cache_are_the_users(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("earlyfusion.data.reading.listing.HF_HUB_CACHE", str(tmp_path / "hub"))
    make(tmp_path / "hub/datasets--a/blobs", "1f")
    folder = make(tmp_path / "hub/datasets--a/snapshots/x")
    folder.mkdir(parents=True)
    (folder / "a.jsonl").symlink_to("../../blobs/1f")
    assert read(folder) == ["a.jsonl"]


def test_a_named_pipe_is_not_opened(tmp_path: Path):
    os.mkfifo(make(tmp_path, "a.jsonl") / "b.jsonl")
    assert ("b.jsonl", "not a file") in list_files(tmp_path).unread and read(tmp_path) == ["a.jsonl"]


def test_names_that_are_not_utf8(tmp_path: Path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.bin")).write_bytes(b"")
    make(tmp_path, "a.jsonl")
    [(name, _)] = list_files(tmp_path).unread
    assert name == r"caf\udce9.bin" and name.encode()


def test_nothing_to_read(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere not found"):
        list_files(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="empty"):
        list_files(tmp_path)
    with pytest.raises(ValueError, match="'.bin'.*parquet"):
        list_files(make(tmp_path, "a.bin") / "a.bin")
    with pytest.raises(ValueError, match="found only a.bin"):
        list_files(tmp_path)
