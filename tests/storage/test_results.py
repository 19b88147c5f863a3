"""A result is never overwritten unasked: it is done, resumed, refused, or moved aside."""

from pathlib import Path
from typing import Any

import pytest

from earlyfusion.storage.results import ANYTHING, MADE, Result, claimed, noted, numbered


def make(result: Result, text: str = "made", overwrite: bool = False) -> bool:
    """Does what a command does; returns whether there was something to do."""
    with claimed(result, overwrite) as todo:
        if todo:
            for path in (result.out / "a.txt" if result.holds else result.out, *result.more):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            noted(result)
    return todo


@pytest.fixture(params=["folder", "file", "two files"])
def result(request: pytest.FixtureRequest, tmp_path: Path) -> Result:
    (tmp_path / "in.txt").write_text("input")
    given: dict[str, Any] = {"options": {"seed": 0}, "inputs": (str(tmp_path / "in.txt"),)}
    if request.param == "folder":
        return Result(tmp_path / "out", holds=("*.txt",), **given)
    more = (tmp_path / "out.html",) if request.param == "two files" else ()
    return Result(tmp_path / "out.json", more=more, **given)


def text(result: Result, number: int = 0) -> str:
    path = result.out
    if number:
        path = path.with_name(f"{path.stem}.before-{number}{path.suffix}")
    return (path / "a.txt" if result.holds else path).read_text()


def changed(result: Result, **fields: Any) -> Result:
    return Result(**{**vars(result), **fields})


def test_the_same_command_is_done(result: Result):
    assert make(result, "first")
    assert not make(result, "second")
    assert text(result) == "first"


def test_another_command_is_refused_with_what_differs(result: Result, tmp_path: Path):
    make(result, "first")
    with pytest.raises(ValueError, match=r"seed 0, not 1.*--overwrite"):
        make(changed(result, options={"seed": 1}))
    (tmp_path / "in.txt").write_text("other input")
    with pytest.raises(ValueError, match=r"other files.*--overwrite"):
        make(result)
    result.record.unlink()  # a file of somebody else
    with pytest.raises(ValueError, match="--overwrite"):
        make(result)
    assert text(result) == "first"


def test_a_command_that_was_killed_runs_again(result: Result):
    with claimed(result):
        if result.holds:
            (result.out / "a.txt").write_text("written, but not noted")
        else:
            result.out.write_text("written, but not noted")
    assert make(result, "again") and text(result) == "again"
    with pytest.raises(ValueError, match="--overwrite"):
        make(changed(result, options={}))


def test_overwrite_moves_aside(result: Result):
    for number in range(3):
        assert make(result, str(number), overwrite=True)
    assert [text(result, number) for number in range(3)] == ["2", "0", "1"]
    for path in result.more:
        assert path.with_name("out.before-2.html").read_text() == "1"


def test_what_fails_puts_the_old_one_back(result: Result):
    make(result, "first")
    with pytest.raises(KeyboardInterrupt), claimed(changed(result, options={}), overwrite=True):
        raise KeyboardInterrupt
    assert text(result) == "first" and not make(result)
    assert not [path for path in result.out.parent.iterdir() if "before" in path.name]


def test_what_is_read_is_not_moved(result: Result):
    make(result, "first")
    inside = result.out / "a.txt" if result.holds else result.out
    with pytest.raises(ValueError, match="is needed"):
        make(changed(result, inputs=(str(inside),)), overwrite=True)
    assert text(result) == "first"


def test_other_files_in_the_folder_are_not_in_the_way(result: Result):
    if result.holds:
        result.out.mkdir()
        (result.out / "notes.md").write_text("mine")
        assert make(result) and (result.out / "notes.md").read_text() == "mine"


def test_what_resumes_is_noted_before_it_is_done(tmp_path: Path):
    result = Result(tmp_path / "out", {"images": "photos"}, holds=ANYTHING, resumes=True)
    with pytest.raises(RuntimeError), claimed(result):
        raise RuntimeError
    assert not result.out.exists()
    with pytest.raises(KeyboardInterrupt), claimed(result) as todo:
        (result.out / "half").write_text("x")
        raise KeyboardInterrupt
    with claimed(result) as todo:
        assert todo
    with pytest.raises(ValueError, match="photos"), claimed(changed(result, options={"images": "other"})):
        pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.png").write_text("x")
    with pytest.raises(ValueError, match="mine"), claimed(changed(result, out=tmp_path / "mine")):
        pass
    assert not (tmp_path / "mine" / MADE).exists()


def test_new_folders_are_numbered(tmp_path: Path):
    parent = tmp_path / "runs" / "samples"
    with pytest.raises(ValueError, match="nothing"), numbered(parent):
        raise ValueError("nothing is written")
    assert not parent.parent.exists()
    for number in ("001", "002"):
        with numbered(parent) as folder:
            assert folder == parent / number
            (folder / "a.txt").write_text("made")
    (parent / "007").mkdir()
    (parent / "mine").mkdir()
    with numbered(parent) as first, numbered(parent) as second:
        assert (first.name, second.name) == ("008", "009")
