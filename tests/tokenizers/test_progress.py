import sys

from earlyfusion.tokenizers.progress import named, progress_bars


def test_names_are_added():
    calls = []
    named(lambda *call: calls.append(call), "greedily")("writing", 1, 3)
    assert calls == [("writing, greedily", 1, 3)]


def test_nothing_is_shown_without_a_terminal(capfd):
    with progress_bars() as progress:
        progress("reading", 1, 2)
        progress("streaming", 7, None)
        print("kept", file=sys.stderr)
    assert capfd.readouterr() == ("", "kept\n")


def test_bars_show_what_is_done_on_a_terminal(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bars() as progress:
        progress("reading", 1, 2)
        progress("reading", 2, 2)
    shown = capfd.readouterr().err
    assert "reading" in shown and "2/2" in shown
