"""The time left of a training, and of the command that it is a part of."""

import pytest

from earlyfusion.tokenizers.progress import part_of_more, suggest
from earlyfusion.train.callbacks.progress_bar import _in_total


def test_a_part_tells_when_the_whole_is_done(capsys: pytest.CaptureFixture[str]):
    assert _in_total(60.0) == ""
    suggest("a")
    with part_of_more(65.0):
        suggest("b")
        assert "0:02:05" in _in_total(60.0) and _in_total(None) == ""
        with part_of_more(0.0):
            suggest("c")
            assert _in_total(60.0) == ""
    suggest("d")
    assert capsys.readouterr().out == "next: a\nnext: d\n"
