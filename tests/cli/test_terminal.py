"""Types of values, and the checks before the work."""

from argparse import ArgumentTypeError

import pytest

from earlyfusion.cli import terminal


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (terminal.integer, "-3", -3),
        (terminal.positive_integer, "12", 12),
        (terminal.real, "1e-3", 0.001),
        (terminal.names, "a, b", ["a", "b"]),
        (terminal.positive_integers, "16,24", (16, 24)),
        (terminal.size, "32x128", (32, 128)),
        (terminal.size, "fit", None),
        (terminal.span, "12-28", (12, 28)),
        (terminal.span, "12", (12, 12)),
        (terminal.box, "0,0.5,1,1", (0.0, 0.5, 1.0, 1.0)),
    ],
)
def test_values(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (terminal.integer, "1.5"),
        (terminal.positive_integer, "0"),
        (terminal.positive_integer, "-1"),
        (terminal.positive_integer, "\xb2"),
        (terminal.real, "much"),
        (terminal.positive_integers, "16,"),
        (terminal.size, "32"),
        (terminal.size, "32x0"),
        (terminal.span, "a-b"),
        (terminal.box, "1,2"),
        (terminal.box, "a,b,c,d"),
    ],
)
def test_what_is_no_value_is_named(kind, text):
    with pytest.raises(ArgumentTypeError, match="expected .*, got '"):
        kind(text)


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path):
    terminal.check_out(tmp_path / "new" / "r.json")
    with pytest.raises(ValueError, match=f"--out {tmp_path}"):
        terminal.check_out(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--sheet .*file/r\.html"):
        terminal.check_out(tmp_path / "file" / "r.html", "--sheet", "a page")
