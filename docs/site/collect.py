"""Collect what the site shows: README.md, docs/, studies, the model card, an API, sources.

    python docs/site/collect.py && zensical build --clean --strict

The pages stay where a code host shows them, with links that work there. Here each gets a place in the site,
and its links follow. A link to a source file leads to its page of the API if it has one, or to the source.
"""

import ast
import os
import re
import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build/docs-source"
PAGES = ("README.md", "docs/*.md", "benchmarks/**/README.md", "pretrained/*/README.md")
LINK = re.compile(r"(?<=\]\()([\w./-]+)(?=(#[\w-]+)?\))")


MODULES = {
    Path(f"{path}.py"): path.replace("/", ".")
    for path in re.findall(r"\bapi/([\w/]+)\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    if path != "index"
}
"""The file of each module that the navigation has below api/, and its name below ``earlyfusion``."""


def place(path: Path) -> Path:
    """Where the site has a file or a folder of the repository; both are relative."""
    parts = path.parts
    if path in MODULES:
        return Path("api", path).with_suffix(".md")
    if path == Path("README.md"):
        return Path("index.md")
    if parts[:2] == ("benchmarks", "studies") and path.name == "README.md":
        return Path("studies", f"{parts[2]}.md")
    if path == Path("benchmarks/README.md"):
        return Path("studies/index.md")
    if path.name == "README.md":
        return path.parent.with_suffix(".md")
    if parts[0] == "docs":
        return Path(*parts[1:])
    if (ROOT / path).is_dir():
        return Path("source", path, "index.md")
    return path if path.suffix in (".png", ".json", ".csv") else Path("source", f"{path}.md")


def text_of(path: Path) -> str:
    """The Markdown of the page of a file or a folder."""
    file = ROOT / path
    if file.is_dir():
        lines = [f"- [{f.name}]({f.name}): {first_line(f)}" for f in sorted(file.iterdir()) if f.is_file()]
        return "\n".join([f"# {path}/", "", *lines, ""])
    if path in MODULES:
        name = MODULES[path]
        title = name.partition(".")[2]
        return f"---\ntitle: {title}\n---\n\n# earlyfusion.{name}\n\n::: earlyfusion.{name}\n"
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return text
    language = {".py": "python", ".yaml": "yaml"}.get(file.suffix, "text")
    return f"# {path}\n\n````{language}\n{text}\n````\n"


def first_line(file: Path) -> str:
    """The first line of a module's docstring, or of a file's comments."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return text.partition("\n")[0].lstrip("# ")


def api_index() -> str:
    """The names of ``earlyfusion`` itself, and the modules of each folder."""
    lines = [
        "# API",
        "",
        "Made from the docstrings. `from earlyfusion import ...` gives:",
        "",
        "| name | defined in |",
    ]
    lines.append("|---|---|")
    for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            module = f"earlyfusion.{node.module}"
            names = " ".join(f"[`{name.name}`][{module}.{name.name}]" for name in node.names)
            lines.append(f"| {names} | [{module}]({node.module.replace('.', '/')}.md) |")
    folder = ""
    for path, name in MODULES.items():
        if path.parts[0] != folder:
            folder = path.parts[0]
            lines += ["", f"## {folder}", ""]
        lines.append(f"- [{name}]({path.with_suffix('.md')}): {first_line(ROOT / path)}")
    return "\n".join([*lines, ""])


def collect(path: Path) -> set[Path]:
    """Write one page, or copy one file. Returns what it links to."""
    out = OUT / place(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix != ".md":
        shutil.copyfile(ROOT / path, out)
        return set()
    found: set[Path] = set()

    def follow(link: re.Match[str]) -> str:
        target = Path(os.path.normpath((path if (ROOT / path).is_dir() else path.parent) / link[1]))
        if not (ROOT / target).exists():
            raise SystemExit(f"{path} links to {link[1]}, which does not exist")
        found.add(target)
        return os.path.relpath(place(target), place(path).parent)

    text = text_of(path)
    is_source = path.suffix != ".md" and (ROOT / path).is_file()
    out.write_text(text if is_source else LINK.sub(follow, text), encoding="utf-8")
    return found


def copy_package() -> None:
    """Copy the package to build/docs-source/python, where griffe finds it under its name.

    The root of the repository is the package: griffe would search all of it, environments and runs included.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package in project["tool"]["setuptools"]["packages"]:
        folder, copy = ROOT.joinpath(*package.split(".")[1:]), OUT / "python" / package.replace(".", "/")
        copy.mkdir(parents=True, exist_ok=True)
        (copy / "__init__.py").touch()
        (copy.parent / "__init__.py").touch()
        for file in folder.glob("*.py"):
            shutil.copyfile(file, copy / file.name)


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    copy_package()
    todo = {path.relative_to(ROOT) for pattern in PAGES for path in ROOT.glob(pattern)} | set(MODULES)
    done: set[Path] = set()
    while todo:
        path = todo.pop()
        done.add(path)
        todo |= collect(path) - done
    (OUT / "api/index.md").write_text(api_index(), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("style.css"), OUT / "style.css")


if __name__ == "__main__":
    main()
