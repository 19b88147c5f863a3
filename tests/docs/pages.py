"""The pages of the project, and what tests look for in them: blocks, commands, prose, headings, links.

``<!-- not run -->`` above a block keeps it from being run; it is parsed all the same.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


def read(*patterns: str) -> dict[str, str]:
    """The pages by their path from the root."""
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


GUIDES = read("README.md", "docs/*.md")
"""Pages whose quick commands and Python run."""
PAGES = GUIDES | read("pretrained/*/README.md", "benchmarks/**/README.md")
"""Those, the card of the packaged model, and the studies."""
README, RESULTS = PAGES["README.md"], PAGES["docs/results.md"]
SHELL = ("sh", "bash", "shell", "console")
NOT_RUN = "<!-- not run -->"


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str
    line: int
    """Of its first line of text."""
    run: bool


class Command(NamedTuple):
    """One command of a shell block, `VAR=x` in front of it taken off."""

    words: tuple[str, ...]
    line: int
    run: bool


def blocks(markdown: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    lines = markdown.splitlines()
    fence, start, language, run = "", 0, "", True
    for number, line in enumerate(lines, start=1):
        opened = re.match(r"\s*(`{3,}|~{3,})\s*([\w+-]*)", line)
        if not fence and opened:
            fence, language, start = opened[1], opened[2], number + 1
            above = [text.strip() for text in lines[: number - 1] if text.strip()]
            run = above[-1:] != [NOT_RUN]
        elif fence and line.strip() == fence:
            yield Block(language, "\n".join(lines[start - 1 : number - 1]), start, run)
            fence = ""
    assert not fence, f"the block at line {start - 1} does not end"


def commands(block: Block) -> Iterator[Command]:
    """The commands of a shell block; of a console block, those behind a `$`."""
    text = block.text
    if block.language == "console":
        kept, goes_on = [], False
        for line in text.splitlines():  # lines stay where they are
            prompt = line.startswith(("$ ", "> ")) or goes_on
            kept.append(re.sub(r"^[$>] ", "", line) if prompt else "")
            goes_on = prompt and line.endswith("\\")
        text = "\n".join(kept)
    joined, line_number = "", block.line
    for offset, line in enumerate(text.splitlines()):
        if not joined:
            line_number = block.line + offset
        joined += line
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        lexer = shlex.shlex(joined, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                words.append(word)
            elif words:
                if "<" not in word and ">" not in word:
                    yield Command(tuple(_bare(words)), line_number, block.run)
                    words = []
        joined = ""


def _bare(words: list[str]) -> list[str]:
    """Without variables and folders in front: `X=1 .venv/bin/earlyfusion info` is `earlyfusion info`."""
    while len(words) > 1 and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return [Path(words[0]).name, *words[1:]]


def shell_commands(markdown: str) -> list[Command]:
    """The commands of all shell blocks of a page."""
    return [c for block in blocks(markdown) if block.language in SHELL for c in commands(block)]


def name(item: Command | Block) -> str:
    return f"line {item.line}" + (f" {' '.join(item.words)}"[:50] if isinstance(item, Command) else "")


def label(value: Any) -> str:
    return name(value) if isinstance(value, Command | Block) else str(value)


def once(found: list[tuple[str, Any]], key: Any) -> list[tuple[str, Any]]:
    """Those of ``found`` with different keys, in their order; where one of several is to be run, that one."""
    kept: dict[Any, tuple[str, Any]] = {}
    for page, item in found:
        if key(item) not in kept or item.run and not kept[key(item)][1].run:
            kept[key(item)] = page, item
    return list(kept.values())


def prose(markdown: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^(`{3,}|~{3,}).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)


def inline_code(markdown: str) -> list[str]:
    return re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(markdown))


def inline(markdown: str) -> list[tuple[str, ...]]:
    """Commands of two words and more in the text itself."""
    found = (tuple(_bare(code.split())) for code in inline_code(markdown) if code.strip())
    return [words for words in found if len(words) > 1 and words[0] in ("make", "earlyfusion")]


def anchors(markdown: str) -> set[str]:
    """What a code host makes of the headings."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(markdown: str) -> list[tuple[str, str]]:
    """Path and anchor of each relative link and image; the path is "" for this page."""
    found = re.findall(r"\]\(([^)\s]+)\)", markdown) + re.findall(r"<img[^>]*\ssrc=\"([^\"]+)\"", markdown)
    return [link.partition("#")[::2] for link in found if not re.match(r"[a-z]+:", link)]
