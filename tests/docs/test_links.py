"""The front page is short, links lead somewhere, and the trees on the pages are those of the repository."""

import re
from pathlib import Path

import pytest
from pages import PAGES, README, ROOT, Block, anchors, blocks, links


def test_the_readme_is_a_front_door() -> None:
    lines = README.splitlines()
    assert len(lines) <= 170
    assert [line for line in lines if len(line) > 120] == []
    assert [page for page in PAGES if page.startswith("docs/") and f"]({page}" not in README] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for path, anchor in links(PAGES[page]):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_begins_with_what_the_reader_can_do(page: str) -> None:
    first = PAGES[page].split("\n\n")[1]
    assert first.startswith(("After this page you can", "After this page you have", "This page lets you"))


_ENTRY = re.compile(r"^(?P<indent>[\s│├└─|`+-]*)(?P<path>[\w.*-]+(?:/[\w.*-]+)*/?)(?=\s|$)(?P<rest>.*)$")
_NAMED = re.compile(r"(?<![\w./-])([\w-]+/|[\w-]+\.(?:py|yaml|md|toml|txt))(?=[\s,;:)]|$)")


def tree_paths(block: Block) -> list[tuple[str, list[Path]]]:
    """What an annotated tree names: the word, and the places where it may be."""
    found: list[tuple[str, list[Path]]] = []
    stack: list[tuple[int, Path]] = []
    for line in block.text.splitlines():
        entry = _ENTRY.match(line)
        if entry is None:
            continue
        path = entry["path"]
        if not (path.endswith("/") or "." in path or path in ("Makefile", "LICENSE", "NOTICE")):
            continue  # the rest of an annotation
        indent = len(entry["indent"])
        stack = [place for place in stack if place[0] < indent]
        parent = stack[-1][1] if stack else Path()
        found.append((path, [parent / path]))
        inside = parent / path if path.endswith("/") else parent
        if path.endswith("/"):
            stack.append((indent, inside))
        found += [(word, [inside / word, Path(word)]) for word in _NAMED.findall(entry["rest"])]
    return found


def trees(markdown: str) -> list[Block]:
    """Blocks that show the repository."""
    return [b for b in blocks(markdown) if b.language in ("", "text") and "tokenizers/" in b.text
            and "fusion_lm/" in b.text]  # fmt: skip


def missing(block: Block, root: Path) -> list[str]:
    def exists(place: Path) -> bool:
        if "*" in str(place):
            return any(root.glob(str(place)))
        return (root / place).is_dir() if str(place).endswith("/") else (root / place).exists()

    return [word for word, places in tree_paths(block) if not any(exists(place) for place in places)]


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_a_tree_is_the_tree(page: str) -> None:
    [block] = trees(PAGES[page])
    assert missing(block, ROOT) == []
    assert len(tree_paths(block)) >= 6
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and next(p.glob("*.py"), None)} - {".types"}
    folders |= {"benchmarks", "docs", "pretrained", "tests", "train"}  # their files are in folders
    named = {word.strip("/") for word, _ in tree_paths(block)}
    assert folders <= named, f"not in the tree: {folders - named}"
