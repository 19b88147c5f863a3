"""The command: it says where the page is, ends in order, and tells mistakes in a line."""

import socket
import time
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


SERVE = """
import os
import signal
import sys
import tempfile

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell, where Ctrl+C is for others
tempfile.tempdir = str(folder)
os.dup2(os.open(folder / "printed", os.O_WRONLY | os.O_CREAT), 1)
from earlyfusion.cli.main import main

sys.exit(main(["playground", "--port", str(port)]))
"""


def test_it_serves_until_it_is_told_to_end(port: int, tmp_path: Path, start):
    process = start(SERVE, port=port, folder=tmp_path)
    printed = tmp_path / "printed"
    try:
        while not printed.exists() or "\n" not in printed.read_text():
            assert process.is_alive()
            time.sleep(0.1)
        line = printed.read_text()
        assert f"http://127.0.0.1:{port}/" in line and "Ctrl+C" in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            assert b"earlyfusion playground" in answer.read()
        with pytest.raises(OSError, match=f"a playground is already at http://127.0.0.1:{port}/"):
            check_free("127.0.0.1", port)
        assert len(list(tmp_path.glob("earlyfusion-playground-*"))) == 1
        process.terminate()
        process.join(20)
        assert process.exitcode == 0
        assert list(tmp_path.glob("earlyfusion-playground-*")) == []
    finally:
        process.kill()
        process.join()


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
