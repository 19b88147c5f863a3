"""Stilted phrases stay out of messages, help, docstrings, comments and docs."""

import re
import tokenize
from pathlib import Path

import pytest

import earlyfusion

SUFFIXES = (".py", ".yaml", ".md", ".js", ".html")
ROOT = Path(earlyfusion.__file__).parent
PRODUCT = (
    "cli", "data", "docs", "encoders", "eval", "fusion_lm", "playground", "storage", "tokenizers", "train",
)  # fmt: skip
PATTERNS = ("*.py", "README.md", *(f"{name}/**/*" for name in PRODUCT))
FILES = sorted(file for pattern in PATTERNS for file in ROOT.glob(pattern) if file.suffix in SUFFIXES)
PHRASES = {  # -> what to write instead
    r"(?<!there )(is|are) no\b(?! longer)": "is not a",
    r"that (is|are) none": "invalid",
    r"where there (is|are) (none|one|any)": "if any, else None",
    r"there (is|are) no such": "not found",
    r"stands? (before|behind|beside|in|at|together|there)": "precedes, is in",
    r"go(es)? on": "continues, resumes",
    r"(is|are) told": "is printed",
    r"asks? for": "requires",
    r"anew": "again, from scratch",
    r"(?-i:so) many": "N",
    r"(?-i:What) comes(?! next)": "the thing's name",
    r"of all that is": "of all ...",
    r"passed over": "skipped",
}


def texts(path: Path) -> list[str]:
    """The strings and comments of a Python file, or all of another file."""
    if path.suffix != ".py":
        return [path.read_text(encoding="utf-8")]
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", None)}
    with path.open("rb") as file:
        return [token.string for token in tokenize.tokenize(file.readline) if token.type in kinds]


def stilted(text: str) -> list[str]:
    """The phrases in ``text`` to replace."""
    text = re.sub(r"[\s#]+", " ", text)
    found = [(m, w) for p, w in PHRASES.items() for m in re.finditer(rf"\b(?:{p})\b", text, re.IGNORECASE)]
    return [f"{text[max(0, m.start() - 30) : m.end() + 30]!r}: write {word!r}" for m, word in found]


def test_no_text_is_stilted():
    assert len(FILES) > 100
    report = [f"{file.relative_to(ROOT)}: {one}" for file in FILES for t in texts(file) for one in stilted(t)]
    assert not report, "\n".join(report)


@pytest.mark.parametrize("text", ["a.txt is no\n    # image", "It is told.", "Draw it anew", "read so many"])
def test_a_stilted_phrase_is_found(text: str):
    assert len(stilted(text)) == 1 and not stilted(
        "So many can read. There is no checkpoint; it is no longer"
    )
