"""Example prompts and pictures behind the page's buttons."""

import base64
from pathlib import Path

FOLDER = Path(__file__).parent / "examples"
Segments = list[dict[str, str]]


def prompts() -> list[tuple[str, Segments]]:
    """(button label, prompt) of things that the packaged model knows."""
    drawing, word = _uri("drawing.png"), _uri("word.png")
    return [
        ("A red apple:", [{"text": "A red apple:"}]),
        ("what is this?", [{"image": drawing}]),
        ("read this", [{"image": word}]),
        ("a word in type", [{"text": "house"}]),
        ("start from nothing", []),
    ]


def scans() -> list[tuple[str, Segments]]:
    """(button label, picture) of pictures to reconstruct."""
    names = {"a line of type": "line.png", "a receipt": "receipt.png", "a drawing": "drawing.png"}
    return [(label, [{"image": _uri(name)}]) for label, name in names.items()]


def _uri(name: str) -> str:
    return "data:image/png;base64," + base64.b64encode((FOLDER / name).read_bytes()).decode()
