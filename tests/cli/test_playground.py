"""The command: it says where the page is, ends in order, and tells mistakes in a line."""

import functools
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from earlyfusion.cli.main import main
from earlyfusion.cli.playground import check_free

pytest.importorskip("gradio")


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_it_serves_until_it_is_told_to_end(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-m", "earlyfusion.cli.main", "playground", "--port", str(port)]
    # As in the background of a shell, where Ctrl+C is for others.
    ignored = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=ignored)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}/" in line and "Ctrl+C" in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            assert b"earlyfusion playground" in answer.read()
        with pytest.raises(OSError, match=f"a playground is already at http://127.0.0.1:{port}/"):
            check_free("127.0.0.1", port)
        assert len(list(tmp_path.glob("earlyfusion-playground-*"))) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert list(tmp_path.glob("earlyfusion-playground-*")) == []
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere"),
        (["--tokenizer", "nowhere"], "nowhere"),
        (["--port", "70000"], "70000"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert main(["playground", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["playground", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"port {port}" in error and error.count("\n") == 1
