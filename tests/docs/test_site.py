"""The site of docs/ shows every page; ``make docs`` builds it."""

import importlib.util
import re
from pathlib import Path

from pages import PAGES, ROOT

spec = importlib.util.spec_from_file_location("collect", ROOT / "docs/site/collect.py")
assert spec is not None and spec.loader is not None
collect = importlib.util.module_from_spec(spec)
spec.loader.exec_module(collect)


def test_the_navigation_has_every_page_and_no_other() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nvalidation:")[0]
    shown = set(re.findall(r"[\w/-]+\.md", navigation))
    pages = {collect.place(Path(page)).as_posix() for page in PAGES}
    modules = {collect.place(module).as_posix() for module in collect.MODULES}
    assert shown == pages | modules | {"api/index.md"}
    assert [module for module in collect.MODULES if not (ROOT / module).is_file()] == []


def test_links_follow_their_pages(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(collect, "OUT", tmp_path)
    found = collect.collect(Path("docs/architecture.md"))
    assert {Path("cli"), Path("cli/main.py"), Path("fusion_lm/generate.py")} <= found
    text = (tmp_path / "architecture.md").read_text(encoding="utf-8")
    assert "](api/fusion_lm/generate.md)" in text  # has a page of the API
    assert "](source/cli/main.py.md)" in text and "](source/cli/index.md)" in text
